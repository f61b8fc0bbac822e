"""Connections above the limits: each gets an answer, and one address takes nothing from the others."""
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

HEALTH = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
STREAM = '{"prompt": "It is", "max_tokens": 200, "ignore_eos": true, "stream": true}'
SPARE = 64
HELD = "127.0.0.2"  # an address that has asked nothing yet: one who has just been answered may still have its place


def ask(server, source=None):
    for _ in range(5):
        begin, link = time.time(), server.connect(60.0, source)
        link.sendall(HEALTH)
        late = time.time() - begin > harness.LATE_SECONDS
        (reply,) = harness.parse_replies(harness.read_all(link))
        link.close()
        if reply.status != 408 or not late:  # a spare place is held for two seconds
            break
    return reply


def check_refusal(reply):
    assert reply.status == 503 and int(reply.headers["retry-after"]) >= 1 and reply.whole, reply
    assert reply.headers["connection"].lower() == "close" and reply.headers["content-type"].startswith("application/json")
    assert reply.error()["code"] == 503 and reply.error()["type"] == "unavailable_error"


def test_beyond_the_spare_places():
    """When even the places for refusals are taken, the answer still comes, also to who has sent a request already."""
    with harness.Server("--max-connections", "8", "--max-connections-per-ip", "4", "--header-timeout", "600") as server:
        held = [server.connect(60.0, HELD) for _ in range(4)]
        check_refusal(ask(server, HELD))
        # a machine that stands still for a moment is no server that waits for a place, and one who has just left
        # may still have a place
        for _ in range(8):
            begin = time.time()
            spare = [server.connect(60.0, HELD) for _ in range(SPARE)]
            for _ in range(20):
                check_refusal(ask(server, HELD))
            (silent,) = harness.parse_replies(harness.read_all(server.connect(60.0, HELD)))
            quick = time.time() - begin < 2
            # who sends nothing gives its spare place back soon
            given_back = {harness.parse_replies(harness.read_all(link))[0].status for link in spare}
            if quick and silent.status == 503 and given_back == {408}:
                break
        assert quick, "it waited for a place"
        check_refusal(silent)
        assert given_back == {408}
        check_refusal(ask(server, HELD))
        for link in held + spare:
            link.close()
        deadline = time.time() + 60
        while ask(server, HELD).status != 200:
            assert time.time() < deadline
            time.sleep(0.05)


def test_one_address_starves_no_other():
    with harness.Server("--max-connections", "40", "--max-connections-per-ip", "10", "--header-timeout", "600") as server:
        flood = [server.connect(60.0, HELD) for _ in range(120)]
        for _ in range(20):
            assert ask(server, "127.0.0.3").status == 200
        check_refusal(ask(server, HELD))
        links = [server.connect(60.0, "127.0.0.5") for _ in range(10)]
        check_refusal(ask(server, "127.0.0.5"))
        assert ask(server, "127.0.0.4").status == 200
        for link in flood + links:
            link.close()


def begun(text):
    """A completion's head, and of its body this much."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return (head % len(STREAM) + text).encode()


def test_who_has_left_takes_no_place():
    """A client that has closed its connection has a place for the next one, before the library sees the end of the first."""
    for _ in range(3):
        for sent in (b"", HEALTH[:20], begun(STREAM[:9]), begun(STREAM)):
            with harness.Server("--max-connections-per-ip", "1") as server:
                first = server.connect()
                first.sendall(sent)
                if sent == begun(STREAM):
                    harness.read_some(first)
                else:
                    time.sleep(0.05)
                server.process.send_signal(signal.SIGSTOP)
                first.close()
                second = server.connect()
                second.sendall(HEALTH)
                server.process.send_signal(signal.SIGCONT)
                (reply,) = harness.parse_replies(harness.read_all(second))
                assert reply.status == 200, (sent, reply)


def test_one_after_another():
    """Nor has one that has its answer, whether it hangs up or the server does."""
    with harness.Server("--max-connections-per-ip", "1") as server:
        for _ in range(300):
            assert ask(server).status == 200
            link = server.connect()
            link.sendall(HEALTH.replace(b"Connection: close\r\n", b""))
            assert b"200 OK" in harness.read_some(link)
            link.close()


def test_bodies_of_those_answered_count_no_more():
    """Two clients, as many as there are places for large bodies, each with one request at a time, are never refused."""
    size = 1 << 20
    head = b"POST /v1/attention/apply HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % size + bytes(size)
    seen = []
    with harness.Server("--max-tensor-bytes", size) as server:
        def client():
            for _ in range(200):
                link, answer = server.connect(), b""
                link.sendall(request)
                while not answer.endswith(b"}}"):
                    piece = harness.read_some(link)
                    assert piece, answer
                    answer += piece
                link.close()
                seen.append(answer[9:12])
        clients = [threading.Thread(target=client) for _ in range(2)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    assert seen == [b"400"] * 400, set(seen)


harness.main(globals())
