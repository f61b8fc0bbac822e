"""The request head: smuggling rows of libmicrohttpd 0.9.75, order of refusals, limits, methods, paths, Host.

A row passes when exactly one response comes, it is the expected one, and the connection is closed: the bytes after a
doubtful head are never served as a second request.
"""
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness
from head_rows import HOST, JSON, POST, SECOND, SMUGGLED


def expect_one(server, row, data, status, closed=True):
    replies, was_closed = server.raw(data) if closed else server.raw(data, timeout=0.5, wanted=1)
    assert [r.status for r in replies] == [status], (row, replies)
    assert was_closed == closed, (row, replies)
    assert replies[0].json()["error"]["code"] == status, (row, replies)
    assert replies[0].headers["content-type"].startswith("application/json"), row
    return replies[0]


def test_smuggling():
    with harness.Server() as server:
        for row, data in SMUGGLED.items():
            expect_one(server, row, data, 400)
        # Raised by the library before our first look: its own page or a close, but never a second response served.
        for value in (b"-1", b"+2", b"0x2", b"2 2", b"18446744073709551615", b"99999999999999999999999", b""):
            data = POST + HOST + JSON + b"Content-Length: " + value + b"\r\n\r\n{}" + SECOND
            replies, _ = server.raw(data, timeout=1.0)
            assert all(r.status in (0, 400, 413) for r in replies), (value, replies)
        assert server.get("/health").status == 200


def test_order_of_refusals():
    bad_host = b"Host: evil.example\r\n"
    host = b"Host: localhost\r\n"
    big = b"Content-Length: 99999999\r\n"
    with harness.Server() as server:
        # each row breaks every later rule too
        expect_one(server, "gate", b"POST /nope HTTP/1.1\r\n" + bad_host + bad_host + big + b"\r\n", 400)
        expect_one(server, "host", b"POST /nope HTTP/1.1\r\n" + bad_host + big + b"\r\n", 403)
        expect_one(server, "path", b"POST /nope HTTP/1.1\r\n" + host + big + b"\r\n", 404)
        reply = expect_one(server, "method", b"PUT /v1/completions HTTP/1.1\r\n" + host + big + b"\r\n", 405)
        assert reply.headers["allow"] == "POST"
        expect_one(server, "length", POST + host + b"Content-Type: text/plain\r\n\r\n", 411, closed=False)
        expect_one(server, "size", POST + host + b"Content-Type: text/plain\r\n" + big + b"\r\n", 413)
        expect_one(server, "type", POST + host + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n[}", 415)
        expect_one(server, "no type", POST + host + b"Content-Length: 2\r\n\r\n[}", 415)
        expect_one(server, "coded", POST + host + JSON + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[}", 415)
        expect_one(server, "body", POST + host + JSON + b"Content-Length: 2\r\n\r\n[}", 400, closed=False)
        reply = server.request("DELETE", "/health")
        assert reply.status == 405 and reply.headers["allow"] == "GET, HEAD", reply.headers
        assert server.request("HEAD", "/health").status == 200
        assert server.request("FOO", "/metrics").status == 405
        assert server.request("OPTIONS", "/v1/completions").status == 405


def test_size_limits():
    with harness.Server("--max-body-bytes", "4096") as server:
        good = b'{"prompt":"a","max_tokens":1,"user":"%s"}'
        fit = good % (b"x" * (4096 - len(good) + 2))
        assert len(fit) == 4096
        assert server.post("/v1/completions", fit).status == 200
        assert server.post("/v1/completions", fit[:-2] + b' "}').status == 413
        # counted when chunked; the client sends on and still reads the answer
        head = POST + b"Host: localhost\r\nTransfer-Encoding: chunked\r\n" + JSON + b"\r\n"
        chunks = b"400\r\n" + b"x" * 1024 + b"\r\n"
        expect_one(server, "chunked", head + chunks * 200, 413)
        replies, _ = server.raw(head + b"%x\r\n" % len(fit) + fit + b"\r\n0\r\n\r\n", timeout=0.2, wanted=1)
        assert replies[0].status == 200, replies
        # a large body by length: one answer, not a reset
        data = POST + b"Host: localhost\r\nContent-Length: 3000000\r\n" + JSON + b"\r\n" + b"x" * 3000000
        expect_one(server, "large", data, 413)
        reply = server.post("/v1/completions", b"{", headers={"Expect": "100-continue"})
        assert reply.status == 400
        # headers beyond libmicrohttpd's memory, a long path, a long query
        replies, _ = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40000 + b"\r\n\r\n", timeout=2.0)
        assert [r.status for r in replies] in ([431], [400], []), replies
        assert server.get("/" + "a" * 2100).status == 414
        assert server.get("/health?" + "a" * 2100).status == 200


def test_paths_and_queries():
    with harness.Server() as server:
        for path in ("/%00", "/health%00", "/v1/models/..%2f..%2fetc", "/../etc", "/a%5cb", "/a\\b", "/%zz", "/%f", "/%ff",
                     "/v1/models/%0a"):
            reply = server.get(path)
            assert reply.status == 400, (path, reply)
        assert server.get("/health%2Flive").status == 200
        assert server.get("/healt%68").status == 200
        assert server.get("/v1/models/nobody").status == 404
        assert server.get("http://localhost/health/live?x=1").status == 200
        assert server.get("http://127.0.0.1/health").status == 400
        assert server.get("/health?x=1").status == 200
        assert server.get("/metrics?x=1").status == 200
        assert server.get("/v1/models?x=1").status == 200
        reply = server.get("/v1/limits?x=1")
        assert reply.status == 400 and reply.error()["param"] == "x", reply
        assert server.get("/v1/attention/backends?&=&").status == 400


def test_host():
    with harness.Server() as server:
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]", "[::1]:99"):
            assert server.get("/health", headers={"Host": host}).status == 200, host
        for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.x", "localhost:80a", "[::1]x"):
            assert server.get("/health", headers={"Host": host}).status == 403, host
    with harness.Server("--allowed-host", "a.example,b.example") as server:
        assert server.get("/health", headers={"Host": "b.example:1"}).status == 200
        assert server.get("/health", headers={"Host": "c.example"}).status == 403


def test_request_id_and_log():
    with harness.Server() as server:
        assert server.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
        made = server.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"]
        assert made != server.get("/health").headers["x-request-id"] and len(made) > 8
        server.complete(prompt="the secret prompt", max_tokens=1)
        server.get("/no%1bpath")
    lines = [line for line in server.log if " id=" in line]
    assert any("id=abc-1 client=127.0.0.1 method=GET path=/health status=200 bytes=15" in line for line in lines), lines
    assert any("path=/v1/completions status=200" in line for line in lines)
    assert any("path=/no" in line for line in lines)
    assert not any("secret" in line for line in server.log)


def test_connection_limits():
    with harness.Server("--max-connections", "8", "--max-connections-per-ip", "6") as server:
        held = [server.connect() for _ in range(6)]
        reply = server.get("/health")  # asked again where it came too late for its spare place
        assert reply.status == 503 and int(reply.headers["retry-after"]) >= 1, reply.headers
        assert reply.headers["connection"].lower() == "close"
        for link in held:
            link.close()
        deadline = time.time() + 60
        while server.get("/health").status != 200:
            assert time.time() < deadline
            time.sleep(0.05)
    for limits in (("4", "100"), ("100", "4")):
        check_idle_makes_room(*limits)


def idle_ones(server, n):
    """Connections that were answered and wait for their next request."""
    idle = [server.connect() for _ in range(n)]
    for i, link in enumerate(idle):
        link.sendall(SECOND.replace(b"\r\n\r\n", b"\r\nX-Request-Id: idle-%d\r\n\r\n" % i))
        assert b"200 OK" in harness.read_some(link)
        with server.seen:  # it is idle before it is logged
            assert server.seen.wait_for(lambda: any("id=idle-%d " % i in line for line in server.log), 60)
    return idle


def check_idle_makes_room(limit, limit_per_ip):
    with harness.Server("--max-connections", limit, "--max-connections-per-ip", limit_per_ip) as server:
        idle = idle_ones(server, 4)
        assert server.get("/health").status == 200  # the oldest idle one has made room
        assert idle[0].recv(1) == b""
        idle[3].sendall(SECOND)
        assert b"200 OK" in harness.read_some(idle[3])


def test_closed_connections_make_room():
    """Idle ones that their clients have closed make room, though the library has not noticed that of any of them."""
    for _ in range(8):
        with harness.Server("--max-connections", 4, "--max-connections-per-ip", 4) as server:
            idle = idle_ones(server, 4)
            server.process.send_signal(signal.SIGSTOP)
            for link in idle:
                link.close()
            link = server.connect()
            link.sendall(SECOND)
            server.process.send_signal(signal.SIGCONT)
            answer = harness.read_some(link)
            assert b"200 OK" in answer, answer


def test_keep_alive_and_pipelining():
    with harness.Server() as server:
        replies, _ = server.raw(SECOND * 5, timeout=0.2, wanted=5)
        assert [r.status for r in replies] == [200] * 5, replies
        body = b'{"prompt":"a","max_tokens":1,"temperature":0}'
        one = POST + b"Host: localhost\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body
        replies, _ = server.raw(one * 3, timeout=0.2, wanted=3)
        assert [r.status for r in replies] == [200] * 3, replies
        assert len({r.json()["choices"][0]["text"] for r in replies}) == 1


def test_mutated_requests():
    """Seeded damage to whole requests: whatever comes back, the server goes on."""
    body = b'{"prompt":"a","max_tokens":2,"stream":true}'
    host = b"Host: localhost\r\nConnection: close\r\n"
    seeds = [POST + host + JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body,
             POST + host + JSON + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\nX: y\r\n\r\n",
             b"GET /v1/models/austen?x=%41 HTTP/1.1\r\n" + host + b"X-Request-Id: a\r\n\r\n"]
    inserts = [b"\r\n", b" ", b"\0", b"%00", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"]
    draw = random.Random(9)
    with harness.Server() as server:
        for _ in range(200):
            data = bytearray(draw.choice(seeds))
            for _ in range(draw.choice([1, 1, 2, 5])):
                at, kind = draw.randrange(len(data)), draw.random()
                if kind < 0.5:
                    data[at] = draw.choice([0, 10, 13, 32, 58, 255, draw.randrange(256)])
                elif kind < 0.7:
                    del data[at:at + min(draw.randrange(1, 8), len(data) - 1)]
                else:
                    data[at:at] = draw.choice(inserts)
            replies, _ = server.raw(bytes(data), timeout=0.02)
            # 429: where the server stood still, those that have left meanwhile are still in its queue
            assert all(r.status in (0, 200, 400, 403, 404, 405, 411, 413, 414, 415, 429, 431) for r in replies), (data, replies)
        assert server.get("/health").status == 200
        server.until_idle()


harness.main(globals())
