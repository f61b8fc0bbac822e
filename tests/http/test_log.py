"""The log: one line a request as text or JSON, whatever bytes a request line or header holds; no prompts, keys or queries."""
import json
import os
import re
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

KEY = "sk-never-in-a-log"
SECRET = "a-prompt-nobody-logs"
SLY = [b"/%0aINFO%20forged", b"/a\"b", b"/a\\b", b"/\xff\xfe", b"/caf\xc3\xa9", b"/x status=200", b"/" + b"y" * 3000, b"/%22%5c", b"/\xc2\x9b31m",
       b'/"},{"level":"error']  # fmt: skip
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def drive(server):
    head = {"Authorization": "Bearer " + KEY}
    assert server.post("/v1/completions?token=" + KEY, {"prompt": SECRET, "max_tokens": 2, "user": SECRET}, headers=head).status == 200
    assert server.get("/health?" + SECRET).status == 200
    assert server.get("/v1/models", headers={"X-Api-Key": KEY + "-wrong"}).status == 401
    for path in SLY:
        server.raw(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    server.raw(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-Id: my\"id\\\r\n\r\n")
    link = server.connect()  # asks for more than the buffers on its way hold
    body = json.dumps({"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True, "logprobs": 20}).encode()
    link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % (KEY.encode(), len(body)) + body)  # fmt: skip
    harness.read_some(link, 100)
    link.close()
    harness.until(lambda: any("aborted" in line and "/v1/completions" in line for line in server.log), 60)
    time.sleep(0.1)


def run(*options):
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write(KEY + "\n")
        keys.flush()
        with harness.Server("--api-key-file", keys.name, *options) as server:
            drive(server)
    assert not any(KEY in line or SECRET in line for line in server.log)
    return [line for line in server.log if not line.startswith("sparsed: serving")]


def test_text():
    lines = run()
    assert all(re.match(STAMP + r" (error|warn |info |debug) ", line) for line in lines), lines
    assert all(c >= " " for line in lines for c in line), "a control byte"
    requests = [line for line in lines if " http id=" in line]
    wanted = re.compile(r" http id=\S+ client=127\.0\.0\.1 method=[A-Z]+ path=\S* status=\d+( aborted)? bytes=\d+ seconds=\d+\.\d{3}$")
    assert len(requests) >= 12 and all(wanted.search(line) for line in requests), requests
    assert any("path=/x%20status=200 status=401 " in line for line in requests), requests
    assert any('id=my"id\\ ' in line for line in requests)


def test_json():
    lines = [json.loads(line) for line in run("--log-format", "json")]
    assert all({"time", "level", "message"} <= set(line) and re.fullmatch(STAMP, line["time"]) for line in lines)
    assert any("memory ceiling" in line["message"] for line in lines)
    requests = [line for line in lines if line["message"] == "http"]
    assert len(requests) >= 12
    for line in requests:
        assert set(line) == {"time", "level", "message", "id", "client", "method", "path", "status", "aborted", "bytes", "seconds"}
        assert line["client"] == "127.0.0.1" and "?" not in line["path"] and len(line["path"]) <= 256 and line["seconds"] < 60
    by_path = {line["path"]: line for line in requests if line["method"] == "GET"}
    assert by_path["/health"]["status"] == 200 and by_path["/v1/models"]["status"] == 401
    assert '/a"b' in by_path and "/a\\b" in by_path and "/caf\u00e9" in by_path
    assert any(line["id"] == 'my"id\\' for line in requests)
    assert any(line["aborted"] and line["path"] == "/v1/completions" for line in requests)


def test_disk_full():
    """Lines that can't be written are counted, and serving goes on."""
    with open("/dev/full", "w") as full, harness.Server("--kv-bytes", "64M", log=full) as server:
        for _ in range(5):
            assert server.complete(prompt="a", max_tokens=1).status == 200
        harness.until(lambda: server.gauge("sparsed_log_lines_lost_total") >= 5)  # written a moment after the answer


def test_reader_stands_still():
    """A pipe that nobody reads fills up; then lines are lost, not requests."""
    reader, writer = os.pipe()
    with harness.Server("--kv-bytes", "64M", log=writer) as server:
        os.close(writer)
        begin = time.time()
        while server.gauge("sparsed_log_lines_lost_total") < 5:
            assert server.get("/health/live", headers={"X-Request-Id": "y" * 64}).status == 200
            assert time.time() - begin < 60
        assert server.complete(prompt="a", max_tokens=1).status == 200
        assert b"http id=yyyy" in os.read(reader, 1 << 20)  # it is read again: lines come again
        lost = server.gauge("sparsed_log_lines_lost_total")
        assert server.get("/health/live", headers={"X-Request-Id": "still-there"}).status == 200
        got, deadline = b"", time.time() + 60
        while b"still-there" not in got:
            assert time.time() < deadline
            got += os.read(reader, 1 << 16)
        assert server.gauge("sparsed_log_lines_lost_total") == lost
        os.close(reader)


harness.main(globals())
