"""SIGTERM: readiness falls at once, what runs finishes or is told, nothing accepted is lost, exit code 0."""
import json
import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness


def stop(server, number=signal.SIGTERM):
    server.process.send_signal(number)
    time.sleep(0.05)


def test_idle():
    for number in (signal.SIGTERM, signal.SIGINT):
        with harness.Server() as server:
            link = server.connect()  # a silent connection does not hold it up
            begin = time.time()
            stop(server, number)
            assert server.wait() == 0
            assert time.time() - begin < 5
            link.close()


def test_running_finishes():
    with harness.Server("--drain-delay", "60", "--drain-timeout", "60") as server:
        stream = server.open_stream(prompt="It was", max_tokens=2000, ignore_eos=True)
        harness.read_some(stream, 100)
        stop(server)
        reply = server.get("/health")
        assert reply.status == 503 and reply.error()["type"] == "unavailable_error", reply
        assert int(reply.headers["retry-after"]) >= 1
        assert server.get("/health/ready").status == 503
        assert server.get("/health/live").status == 200
        # the delay lasts while something runs: new work is still taken
        assert server.complete(prompt="It was", max_tokens=1).status == 200
        got = harness.read_all(stream)
        assert b"data: [DONE]" in got and b'"finish_reason":"length"' in got
        assert server.wait() == 0


def test_new_work_is_refused():
    for begun in (40, 10):  # bytes of the head: 10 are no request line yet
        check_late(begun)


def check_late(begun):
    # streams that are read one after another wait long on a busy machine
    with harness.Server("--drain-delay", "0", "--drain-timeout", "600", "--write-timeout", "600") as server:
        # enough work to outlast the pauses below on a fast machine
        streams = [server.open_stream(prompt="It was", max_tokens=2000, ignore_eos=True) for _ in range(6)]
        harness.read_some(streams[-1], 100)
        late = server.connect()
        late.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in harness.read_some(late)
        body = b'{"prompt":"a"}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n"
        late.sendall(head[:begun])  # begun before the stop, so it gets an answer
        time.sleep(0.1)
        stop(server)
        time.sleep(0.2)
        late.sendall(head[begun:] + body)
        reply = harness.parse_replies(harness.read_all(late))[0]
        assert reply.status == 503 and reply.headers["connection"].lower() == "close", reply
        assert int(reply.headers["retry-after"]) >= 1
        for stream in streams:
            assert b"data: [DONE]" in harness.read_all(stream)
        assert server.wait() == 0


def check_cut(server, begin_cut, seconds):
    stream = server.open_stream(prompt="It was", max_tokens=2000, ignore_eos=True)
    first = harness.read_some(stream, 100)
    result = {}

    def plain():
        result["reply"] = server.complete(prompt="It was", max_tokens=2000, ignore_eos=True)

    thread = threading.Thread(target=plain)
    thread.start()
    time.sleep(0.1)
    begin = time.time()
    begin_cut()
    got = harness.read_all(stream)
    thread.join()
    assert server.wait() == 0
    assert time.time() - begin < seconds, time.time() - begin
    if b'"finish_reason":"length"' in got:  # a fast machine was done before
        return
    data = [line[6:] for line in (first + got).decode().splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]", data[-3:]
    assert json.loads(data[-2])["error"]["type"] == "unavailable_error", data[-2]
    reply = result["reply"]
    assert reply.status in (200, 503), reply
    assert reply.status == 200 or reply.error()["type"] == "unavailable_error"


def test_drain_timeout():
    with harness.Server("--drain-delay", "0", "--drain-timeout", "0.2") as server:
        check_cut(server, lambda: stop(server), 10)


def test_second_signal():
    with harness.Server("--drain-delay", "60", "--drain-timeout", "60") as server:

        def twice():
            stop(server)
            stop(server)

        check_cut(server, twice, 10)


def test_many_clients_lose_nothing():
    with harness.Server("--drain-delay", "0", "--drain-timeout", "60") as server:
        outcomes = []

        def client(i):
            try:
                reply = server.complete(prompt="It was", max_tokens=8 + i % 5, seed=i)
                outcomes.append(reply.status)
            except (OSError, AssertionError) as problem:
                outcomes.append(type(problem).__name__ if not isinstance(problem, AssertionError) else "lost")

        threads = [threading.Thread(target=client, args=(i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        time.sleep(0.03)
        stop(server)
        for thread in threads:
            thread.join()
        assert server.wait() == 0
        # refused at connect is fine; accepted and unanswered is not
        assert all(o in (200, 429, 503, "ConnectionRefusedError") for o in outcomes), outcomes


def test_any_moment():
    """Rounds of mixed clients and a stop at a drawn moment: every one that got in is answered or told."""
    draw = random.Random(3)
    for _ in range(5):
        options = ("--drain-delay", draw.choice([0, 1]), "--drain-timeout", draw.choice([0.05, 0.3, 30]))
        with harness.Server(*options) as server:
            outcomes = []

            def stream(tokens):
                got = b""
                try:
                    link = server.open_stream(prompt="It was", max_tokens=tokens, ignore_eos=True)
                    while b"[DONE]" not in got and b'"code":' not in got:
                        piece = link.recv(65536)
                        if not piece:
                            break
                        got += piece
                    link.close()
                except ConnectionRefusedError:
                    return
                except OSError as problem:
                    got += repr(problem).encode()
                told = b"[DONE]" in got or b" 503 " in got[:20] or b" 429 " in got[:20]
                outcomes.append("told" if told else got[-200:])

            threads = [threading.Thread(target=stream, args=(draw.choice([5, 300]),)) for _ in range(24)]
            for thread in threads:
                thread.start()
            time.sleep(draw.random() * 0.1)
            stop(server)
            if draw.random() < 0.4:
                stop(server)
            for thread in threads:
                thread.join()
            assert server.wait() == 0
            assert set(outcomes) <= {"told"}, outcomes


harness.main(globals())
