"""Clients that leave, dawdle or stop reading: what they asked for ends, nothing else is disturbed."""
import json
import os
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

LONG = "It was a truth universally acknowledged. " * 40
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def leave(link, how):
    if how == "reset":
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        link.shutdown(socket.SHUT_WR)
    else:
        link.close()


def aborted(server):
    """Requests that ended before their answer did."""
    return sum(v for k, v in server.metrics()[0].items() if 'finished_reason="abort"' in k)


def runs(server, n=1):
    harness.until(lambda: server.gauge("sparsed_num_requests_running") == n)


def plain(server):
    body = b'{"prompt":"It was","max_tokens":%d,"ignore_eos":true}' % harness.ENDLESS
    link = server.connect()
    link.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    runs(server)
    return link


def test_leaving():
    with harness.lasting() as server:
        for how in ("close", "reset", "half"):
            # while decoding
            link = server.open_stream(prompt="It was", max_tokens=harness.ENDLESS, ignore_eos=True)
            assert b"data: " in harness.read_some(link, 400)
            runs(server)
            leave(link, how)
            server.until_idle()
            # while prefilling or queued, or before it is seen at all
            link = server.open_stream(prompt=LONG, max_tokens=1600, ignore_eos=True)
            leave(link, how)
            time.sleep(0.05)
            server.until_idle()
            # without a stream
            link = plain(server)
            leave(link, how)
            server.until_idle()
            if how == "half":
                got = link.recv(65536)
                assert got == b"", got
        assert aborted(server) >= 6
        assert server.complete(prompt="It was", max_tokens=2).status == 200


def test_half_close_keep():
    with harness.lasting("--half-close", "keep") as server:
        link = server.open_stream(prompt="It was", max_tokens=20, ignore_eos=True)
        link.shutdown(socket.SHUT_WR)
        assert b"data: [DONE]\n\n" in harness.read_all(link)
        link = server.open_stream(prompt="It was", max_tokens=harness.ENDLESS, ignore_eos=True)
        harness.read_some(link, 400)
        leave(link, "reset")
        server.until_idle()
        assert aborted(server) == 1


def answered(server):
    """A connection that has had an answer, or None where this process was too late itself."""
    link = server.connect()
    link.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return link if b"200 OK" in harness.read_some(link) else None


def in_time(attempt):
    """What an attempt comes to, where this process is run in time."""
    for _ in range(20):
        done = attempt()
        if done:
            return done
    raise AssertionError("it is always too late")


def test_slow_heads_and_bodies():
    with harness.Server("--header-timeout", "0.6", "--body-timeout", "0.8", "--idle-timeout", "0.7") as server:
        # a byte at a time never resets the deadline
        for start, limit in ((b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", 0.6),
                             (HEAD + b"Content-Length: 1000\r\n\r\n", 0.8)):
            link, begin, got = server.connect(), time.time(), b""
            link.sendall(start)
            link.settimeout(0.05)
            while time.time() - begin < 60:
                try:
                    link.sendall(b" ")
                    piece = link.recv(4096)
                    if not piece:
                        break
                    got += piece
                except socket.timeout:
                    continue
                except OSError:
                    break
            assert 0.5 * limit < time.time() - begin < 60, time.time() - begin
            replies = harness.parse_replies(got)
            assert [r.status for r in replies] == [408], got
            assert replies[0].whole and replies[0].error()["code"] == 408
        # idle connections are closed without a word, silent new ones too late
        link = server.connect()
        link.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        harness.read_some(link)
        begin = time.time()
        assert link.recv(100) == b"" and time.time() - begin < 30
    with harness.Server("--header-timeout", "0.6") as server:
        # the head of a second request has its own deadline
        link = in_time(lambda: answered(server))
        link.sendall(b"GET /hea")
        assert b" 408 " in link.recv(4096)
        assert server.get("/health").status == 200


def test_who_is_in_time_is_served():
    """A machine that stands still beyond a deadline makes no client slow whose bytes had come."""
    with harness.Server("--header-timeout", "1") as server:

        def stopped():
            """A connection whose request comes while the server does not run, and within its time; None: too late."""
            harness.until(lambda: server.gauge("sparsed_http_connections") == 1)
            begin, link = time.time(), server.connect()
            harness.until(lambda: server.gauge("sparsed_http_connections") == 2 or time.time() - begin > 0.5)
            server.process.send_signal(signal.SIGSTOP)
            link.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if time.time() - begin < 0.8:
                return link
            server.process.send_signal(signal.SIGCONT)
            link.close()

        for _ in range(4):
            link = in_time(stopped)
            time.sleep(1.3)
            server.process.send_signal(signal.SIGCONT)
            (reply,) = harness.parse_replies(harness.read_all(link))
            assert reply.status == 200, reply
            link.close()


def test_idle_timeout_spares_what_comes():
    """Bytes that came before the end of the idle time are the beginning of a request, seen only then."""
    with harness.Server("--idle-timeout", "2", "--header-timeout", "60") as server:

        def begun():
            link, begin = answered(server), time.time()
            link.sendall(b"GET /hea")  # no request line yet
            return link if time.time() - begin < 1 else None

        link = in_time(begun)
        time.sleep(2.3)
        link.sendall(b"lth HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in harness.read_some(link)


def check_stall(stall):
    """Who takes nothing is cut. Where the server was not run for a second the kernel gave him up first: then once more."""
    with harness.Server("--write-timeout", "1") as server:
        cut = lambda: any("takes nothing" in line for line in server.log)
        begin = time.time()
        for _ in range(5):
            link = stall(server)
            harness.until(lambda: cut() or server.gauge("sparsed_http_connections") < 2, 60)
            link.close()
            if cut():
                break
        assert cut() and time.time() - begin > 0.9
        assert server.get("/health").status == 200


def test_end_of_an_answer_stalls():
    """Bytes that are written, but not taken, are under --write-timeout when the next request is awaited already."""

    def stall(server):
        link = server.connect()
        harness.vanish(link)  # its request goes out still
        link.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return link

    check_stall(stall)


def test_write_stall():
    def stall(server):
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.connect(("127.0.0.1", server.port))
        # more text than the socket buffers and the stream hold: sixteen answers behind one another would not do
        link.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300)
        return link

    check_stall(stall)


def test_ended_between_requests():
    """A client that closed its side with its last bytes, or in the middle of a head or body, is not waited for."""
    for starts in (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /hea", HEAD + b"Content-Length: 9\r\n\r\n{"):
        with harness.Server("--half-close", "keep", "--header-timeout", "600") as server:
            link = server.connect()
            link.sendall(starts)
            link.shutdown(socket.SHUT_WR)
            got = harness.read_all(link)
            assert (b"200 OK" in got) == (b"health" in starts), (starts, got)


def deaf_stream(server):
    """A stream that nobody reads."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", server.port))
    body = b'{"prompt":"It was","max_tokens":1900,"ignore_eos":true,"stream":true,"logprobs":20}'
    link.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return link


def paused_stream(server):
    """The same when the engine has left it out of the batch; -> its socket and its id."""
    link = deaf_stream(server)
    begin, seen, same = time.time(), -1, 0
    while same < 30:  # looks apart, not a time: the machine may stand still
        assert time.time() - begin < 120, seen
        rows = server.get("/v1/requests").json()["data"]
        tokens = rows[0]["tokens"] if len(rows) == 1 else 0  # the one before may be there still
        same = same + 1 if tokens == seen and tokens else 0
        seen = tokens
        time.sleep(0.01)
    assert 0 < seen < 1900, seen
    assert server.gauge("sparsed_kv_pages_used") > 0
    return link, rows[0]["id"]


def test_nobody_reads():
    """What ends gives its memory back at once, though its client takes nothing of what was written."""
    with harness.Server("--write-timeout", "600") as server:
        link, identity = paused_stream(server)
        assert server.request("DELETE", "/v1/requests/" + identity).status == 200
        server.until_idle()
        link.close()
        link, _ = paused_stream(server)
        leave(link, "half")
        server.until_idle()
        link.close()
        # paused, it takes no part: another one's speed is its own
        link, _ = paused_stream(server)
        assert server.complete(prompt="a", max_tokens=5).status == 200
        assert server.gauge("sparsed_num_requests_running") == 1
        link.close()
        server.until_idle()
        assert aborted(server) == 3


def test_paused_is_cut():
    with harness.Server("--write-timeout", "1") as server:
        begin = time.time()
        link = deaf_stream(server)
        harness.until(lambda: aborted(server) == 1, 60)
        assert time.time() - begin > 0.9
        server.until_idle()
        link.close()


def test_silence():
    """No FIN, no RST: the kernel's timer ends it, whether bytes are on their way or not."""
    with harness.lasting("--write-timeout", "1") as server:
        stream = server.open_stream(prompt="It was", max_tokens=harness.ENDLESS, ignore_eos=True)
        harness.read_some(stream, 400)
        harness.vanish(stream)
        server.until_idle()
        assert aborted(server) == 1
    with harness.lasting("--write-timeout", "1") as server:
        link = plain(server)
        harness.vanish(link)
        server.until_idle()
        assert aborted(server) == 1


def test_others_keep_streaming():
    with harness.Server() as server:
        text = server.complete(prompt="It was", max_tokens=40, temperature=0, ignore_eos=True).json()["choices"][0]["text"]
        stream = server.open_stream(prompt="It was", max_tokens=40, temperature=0, ignore_eos=True)
        for _ in range(6):
            other = server.open_stream(prompt="It was", max_tokens=2000, ignore_eos=True)
            harness.read_some(other, 100)
            leave(other, "reset")
        stream.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        replies = harness.parse_replies(harness.read_all(stream))
        assert [r.status for r in replies] == [200, 200] and replies[0].whole
        data = harness.frames(replies[0].body)
        assert data[-1] == "[DONE]"
        assert "".join(json.loads(d)["choices"][0]["text"] for d in data[:-1]) == text
        server.until_idle()


harness.main(globals())
