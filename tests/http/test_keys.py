"""API keys, CORS and Host with keys: every route of the table without a key, keys that almost fit, reload on SIGHUP, the
order of refusals, and what a page of another origin may do."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

ONE, TWO = "sk-first-key-0001", "sk-zw\u00f6lf-key-2"
PUBLIC = {"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}


def key_file(text, folder=tempfile.mkdtemp(prefix="sparsed-keys-")):
    path = os.path.join(folder, "keys")
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(path + ".new", path)
    return path


def bearer(key):
    return {"Authorization": "Bearer " + key}


def request(server, method, path, headers=None, body=b""):
    head = "%s %s HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\nContent-Type: application/json\r\n" % (method, path)
    head += "Content-Length: %d\r\n" % len(body) if method == "POST" or body else ""
    lines = [("%s: %s\r\n" % item).encode() for item in (headers or {}).items()]
    replies, _ = server.raw(head.encode() + b"".join(lines) + b"\r\n" + body, head=method == "HEAD")
    assert len(replies) == 1, replies
    return replies[0]


def routes():
    with open(os.path.join(harness.ROOT, "server", "routes.c")) as file:
        found = re.findall(r'\{"(GET|POST|DELETE)", "([^"]+)"', file.read())
    assert len(found) > 20, found
    return [(method, re.sub("{.*}", "some-id", path)) for method, path in found]


def refused(reply):
    assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer" and "allow" not in reply.headers, reply
    error = reply.error()
    assert error["type"] == "authentication_error" and error["param"] is None and error["code"] == 401, error


def test_deny_by_default():
    """Every route and method of the table, and paths that are in none."""
    with harness.Server("--api-key-file", key_file(ONE + "\n")) as server:
        open_routes = set()
        for _, path in routes():
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
                reply = request(server, method, path)
                if reply.status == 401 and method != "HEAD":
                    refused(reply)
                if reply.status != 401:
                    open_routes.add((method, path))
        assert open_routes == {(m, p) for m in ("GET", "HEAD") for p in PUBLIC}, open_routes
        for path in ("/", "/nope", "/v1", "/health/", "/health/x", "//health", "/v1/models/", "/metrics/", "/Health"):
            refused(request(server, "GET", path))
        for _, path in routes():
            assert request(server, "GET", path, bearer(ONE)).status not in (401, 403), path


def test_keys_that_almost_fit():
    with harness.Server("--api-key-file", key_file("# staff\n  %s \n%s\n" % (ONE, TWO))) as server:
        for key in (ONE, TWO):
            for head in (bearer(key), {"X-Api-Key": key}, {"authorization": "bearer   " + key}, {"Authorization": "BEARER " + key}):
                body = ("\r\n".join("%s: %s" % item for item in head.items())).encode("utf-8")
                replies, _ = server.raw(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + body + b"\r\n\r\n")
                assert replies[0].status == 200, (head, replies)
        no_keys = (ONE[:-1], ONE + "1", ONE.upper(), "", " ", "# staff", "staff", ONE + " " + ONE, "x" * 257, "x" * 5000)
        for key in no_keys:
            refused(request(server, "GET", "/v1/models", bearer(key)))
            refused(request(server, "GET", "/v1/models", {"X-Api-Key": key}))
        for value in (ONE, "Basic " + ONE, "Bearer" + ONE, "Bearer", "Bearer\t" + ONE, "Token " + ONE):
            refused(request(server, "GET", "/v1/models", {"Authorization": value}))
        refused(request(server, "GET", "/v1/models?api_key=" + ONE))
        # a wrong one beside a right one of the other kind
        assert request(server, "GET", "/v1/models", {"Authorization": "Bearer none-at-all", "X-Api-Key": ONE}).status == 200
        # two headers of one kind are none
        twice = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + 2 * (b"Authorization: Bearer %s\r\n" % ONE.encode())
        refused(server.raw(twice + b"\r\n")[0][0])
        assert not any(ONE in line for line in server.log), "a key was logged"


def test_order_of_refusals():
    host, length = b"Host: localhost\r\n", b"Content-Length: 99999999\r\n"
    with harness.Server("--api-key-file", key_file(ONE + "\n"), "--allowed-host", "localhost") as server:
        def status(data):
            replies, _ = server.raw(data, timeout=0.2, wanted=1)
            assert len(replies) == 1, replies
            return replies[0].status

        assert status(b"POST /nope HTTP/1.1\r\n" + host + host + length + b"\r\n") == 400
        assert status(b"POST /nope HTTP/1.1\r\nHost: evil.example\r\n" + length + b"\r\n") == 403
        assert status(b"POST /nope HTTP/1.1\r\n" + host + length + b"\r\n") == 401
        assert status(b"POST /v1/completions HTTP/1.1\r\n" + host + length + b"\r\n") == 401
        key = b"Authorization: Bearer %s\r\n" % ONE.encode()
        assert status(b"POST /nope HTTP/1.1\r\n" + host + key + length + b"\r\n") == 404
        assert status(b"PUT /v1/completions HTTP/1.1\r\n" + host + key + length + b"\r\n") == 405
        assert status(b"POST /v1/completions HTTP/1.1\r\n" + host + key + length + b"\r\n") == 413
        # with keys and no list any Host will do: request() asks for any.example in the tests above


def test_reload():
    path = key_file(ONE + "\n")
    with harness.Server("--api-key-file", path) as server:
        def known(key):
            reply = request(server, "GET", "/v1/models", bearer(key))
            assert reply.status in (200, 401), reply
            return reply.status == 200

        def reload(text, line):
            seen = sum(line in one for one in server.log)
            if text is None:
                os.unlink(path)
            else:
                key_file(text)
            server.process.send_signal(signal.SIGHUP)
            harness.until(lambda: sum(line in one for one in server.log) > seen)

        assert known(ONE) and not known(TWO)
        running = {}

        def run():
            running["reply"] = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1500, "ignore_eos": True}, bearer(ONE))

        thread = threading.Thread(target=run)
        thread.start()
        harness.until(lambda: running or request(server, "GET", "/v1/requests", bearer(ONE)).json()["data"])
        reload("new-key-%s\n" % ("x" * 20), "keys read again")
        assert not known(ONE) and known("new-key-" + "x" * 20)
        thread.join()
        assert running["reply"].status == 200, "a request of a removed key finishes"
        for text in ("", "# none\n", "short\n", ONE + "\n\x01\x02bad-key\n", None):
            reload(text, "the API keys stay as they are")
            assert known("new-key-" + "x" * 20) and not known(ONE), text
        reload(ONE + "\n" + TWO + "\n", "2 API keys read again")
        assert known(ONE) and not known("new-key-" + "x" * 20)
        # under load nothing but 200 and 401 comes, and nobody who always was in the file is refused
        statuses = []

        def ask():
            for _ in range(40):
                statuses.append(request(server, "GET", "/v1/models", bearer(ONE)).status)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for one in threads:
            one.start()
        for i in range(20):
            key_file(ONE + "\n" + "other-key-%d\n" % i)
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        for one in threads:
            one.join()
        assert statuses == [200] * 160, statuses


def exit_of(*options):
    command = [os.path.join(harness.BUILD, "sparsed"), "serve", "--port", "0", "--model", harness.MODEL]
    done = subprocess.run(command + list(options), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_start_refuses():
    code, text = exit_of("--api-key-file", "/nonexistent/keys")
    assert code == 66 and "/nonexistent/keys" in text, (code, text)
    for content in ("", "# only\n", "short\n", "good-key-1\n" + "x" * 257 + "\n"):
        path = key_file(content)
        code, text = exit_of("--api-key-file", path)
        assert code == 65 and path in text, (content, code, text)
    assert exit_of("--api-key-file", harness.ROOT)[0] == 65
    for value in ("example.org", "https://", "https://a/path", "null", ",", "https://a b/"):
        code, text = exit_of("--cors-origin", value)
        assert code == 64 and "--cors-origin" in text, (value, code, text)
    assert exit_of("--host", "0.0.0.0")[0] == 64
    with harness.Server("--host", "0.0.0.0", "--api-key-file", key_file(ONE + "\n")) as server:
        assert request(server, "GET", "/v1/models", bearer(ONE)).status == 200


def test_metrics_and_limits():
    path = key_file(ONE + "\n")
    with harness.Server("--api-key-file", path, "--public-metrics") as server:
        assert request(server, "GET", "/metrics").status == request(server, "HEAD", "/metrics").status == 200
        refused(request(server, "POST", "/metrics"))
        refused(request(server, "GET", "/v1/limits"))
        limits = request(server, "GET", "/v1/limits", bearer(ONE)).json()
        assert limits["api_key_file"] == path and limits["public_metrics"] is True and limits["cors_origin"] is None
    with harness.Server() as server:
        assert server.get("/v1/models", headers=bearer("whatever")).status == 200, "without keys none is looked at"


ALLOW = "access-control-allow-"


def test_cors():
    listed, other = "https://app.example:8443", "https://evil.example"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type,x-stainless-os"}
    with harness.Server("--api-key-file", key_file(ONE + "\n"), "--cors-origin", listed + ", http://localhost:3000") as server:
        for path in ("/v1/chat/completions", "/health", "/nope"):
            reply = request(server, "OPTIONS", path, dict(ask, Origin=listed))
            assert reply.status == 200 and reply.headers[ALLOW + "origin"] == listed, (path, reply.headers)
            assert reply.headers["vary"] == "Origin" and reply.headers[ALLOW + "headers"] == ask["Access-Control-Request-Headers"]
            assert "POST" in reply.headers[ALLOW + "methods"] and reply.body == b""
        assert request(server, "OPTIONS", "/v1/models", dict(ask, Origin=listed), b"{}").status == 200
        reply = request(server, "OPTIONS", "/v1/completions", dict(ask, Origin=other))
        assert reply.status == 200 and not any(name.startswith(ALLOW) for name in reply.headers) and reply.headers["vary"] == "Origin"
        for origin in (other, listed + ".evil.example", listed[:-1], "null", "", listed.upper(), listed + "/", "*"):
            reply = request(server, "GET", "/v1/models", dict(bearer(ONE), Origin=origin))
            assert reply.status == 200 and not any(name.startswith(ALLOW) for name in reply.headers), (origin, reply.headers)
        for status, key in ((200, ONE), (401, "no-such-key")):
            reply = request(server, "GET", "/v1/models", dict(bearer(key), Origin=listed))
            assert reply.status == status and reply.headers[ALLOW + "origin"] == listed, reply.headers
        body = b'{"prompt": "a", "max_tokens": 2, "stream": true}'
        reply = request(server, "POST", "/v1/completions", dict(bearer(ONE), Origin=listed), body)
        assert reply.status == 200 and reply.headers[ALLOW + "origin"] == listed
        injected = server.raw(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: %s\r\n"
                              b"Access-Control-Request-Headers: a;b=<script>\r\n\r\n" % listed.encode())[0][0]
        assert injected.status == 200 and ALLOW + "headers" not in injected.headers
    with harness.Server("--cors-origin", "*") as server:
        reply = server.get("/v1/models", headers={"Origin": other})
        assert reply.headers[ALLOW + "origin"] == "*" and ALLOW + "credentials" not in reply.headers
    with harness.Server() as server:
        reply = server.get("/v1/models", headers={"Origin": listed})
        assert not any(name.startswith("access-control") for name in reply.headers) and "vary" not in reply.headers
        assert server.request("OPTIONS", "/v1/models").status == 405


harness.main(globals())
