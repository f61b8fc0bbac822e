"""GET /v1/requests and DELETE /v1/requests/{id}: what runs for the same key, in every state and route, and cancelling it."""
import json
import os
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

LONG = dict(prompt="a", max_tokens=harness.ENDLESS, ignore_eos=True)


def listed(server, **more):
    reply = server.get("/v1/requests", **more)
    assert reply.status == 200, reply
    value = reply.json()
    assert value["object"] == "list" and set(value) == {"object", "data"}
    return value["data"]


class Asking(threading.Thread):
    """A plain request on a thread of its own."""

    def __init__(self, server, path, value, **more):
        super().__init__()
        self.arguments, self.reply = (server, path, value, more), None
        self.start()

    def run(self):
        server, path, value, more = self.arguments
        self.reply = server.post(path, value, **more)


def test_stream_is_cancelled(server):
    assert listed(server) == []
    link = server.open_stream(**LONG)
    first = harness.read_some(link, 600)
    (one,) = harness.until(lambda: listed(server))
    assert set(one) == {"id", "route", "state", "tokens", "seconds"} and one["route"] == "/v1/completions", one
    assert one["state"] == "decode" and one["tokens"] > 0 and one["seconds"] >= 0 and one["id"].encode() in first, one
    reply = server.request("DELETE", "/v1/requests/" + one["id"])
    assert reply.status == 200 and reply.json() == {"id": one["id"], "object": "request", "cancelled": True}, reply
    while not first.endswith(b"0\r\n\r\n"):
        first += harness.read_some(link)
    (whole,) = harness.parse_replies(first)
    data = harness.frames(whole.body)
    assert data[-1] == "[DONE]" and json.loads(data[-2])["error"]["code"] == 409, data[-2:]
    assert json.loads(data[-2])["error"]["type"] == "conflict_error" and len(data) < harness.ENDLESS
    link.close()
    server.until_idle()
    assert listed(server) == []
    again = server.request("DELETE", "/v1/requests/" + one["id"])
    assert again.status == 404 and again.error()["type"] == "not_found_error", again


def test_plain_request_is_cancelled(server):
    for path, value in (("/v1/completions", dict(LONG, n=2)),
                        ("/v1/chat/completions", dict(LONG, prompt=None, messages=[{"role": "user", "content": "a"}])),
                        ("/v1/score", {"input": ["word " * 1900] * 60}),
                        ("/v1/embeddings", {"input": ["word " * 1900] * 60})):  # fmt: skip
        asking = Asking(server, path, value)
        (one,) = harness.until(lambda: listed(server))
        assert one["route"] == path and one["state"] in ("waiting", "prefill", "decode"), one
        assert server.request("DELETE", "/v1/requests/" + one["id"]).status == 200
        asking.join()
        assert asking.reply.status == 409 and asking.reply.error()["type"] == "conflict_error", (path, asking.reply)
        server.until_idle()
        assert listed(server) == []


def test_waiting_ones(server):
    with harness.lasting("--max-sequences", "1") as small:
        first = small.open_plain(**LONG)
        harness.until(lambda: small.gauge("sparsed_num_requests_running") == 1)
        asking = Asking(small, "/v1/completions", dict(LONG, max_tokens=3))
        states = ["decode", "waiting"]
        rows = harness.until(lambda: [rows for rows in [listed(small)] if sorted(one["state"] for one in rows) == states])[0]
        (waiting,) = [one for one in rows if one["state"] == "waiting"]
        assert waiting["tokens"] == 0, rows
        assert small.request("DELETE", "/v1/requests/" + waiting["id"]).status == 200
        asking.join()
        assert asking.reply.status == 409
        first.close()
        small.until_idle()


def test_nothing_else(server):
    for path in ("x", "cmpl-", "..", "%20", "cmpl-" + "0" * 24, "x" * 300):
        assert server.request("DELETE", "/v1/requests/" + path).status in (400, 404), path
    reply = server.request("GET", "/v1/requests/x")
    assert reply.status == 405 and reply.headers["allow"] == "DELETE", reply.headers
    assert server.request("DELETE", "/v1/requests").status == 405
    assert server.get("/v1/requests?all=1").status == 400
    assert server.request("HEAD", "/v1/requests").status == 200


def test_keys_see_their_own(server):
    one, two = "sk-first-of-two", "sk-second-of-two"
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write(one + "\n" + two + "\n")
        keys.flush()
        with harness.lasting("--api-key-file", keys.name) as guarded:
            def head(key):
                return {"Authorization": "Bearer " + key}

            asking = Asking(guarded, "/v1/completions", LONG, headers=head(one))
            (mine,) = harness.until(lambda: listed(guarded, headers=head(one)))
            assert listed(guarded, headers=head(two)) == []
            foreign, unknown = (guarded.request("DELETE", "/v1/requests/" + one_id, headers=head(two))
                                for one_id in (mine["id"], "cmpl-" + "0" * 24))  # fmt: skip
            assert foreign.status == unknown.status == 404
            assert foreign.body.replace(mine["id"].encode(), b"cmpl-" + 24 * b"0") == unknown.body, "it tells that there is one"
            assert guarded.request("DELETE", "/v1/requests/" + mine["id"]).status == 401
            assert len(listed(guarded, headers=head(one))) == 1
            assert guarded.request("DELETE", "/v1/requests/" + mine["id"], headers={"X-Api-Key": one}).status == 200
            asking.join()
            assert asking.reply.status == 409


def test_under_load(server):
    """Cancelled and finished ones at once: every request ends as one of the two; some would never end by themselves."""
    lengths = [harness.ENDLESS if i % 8 == 0 else 30 + i for i in range(24)]
    askings = [Asking(server, "/v1/completions", dict(LONG, max_tokens=n, n=1 + i % 3)) for i, n in enumerate(lengths)]
    while any(a.is_alive() for a in askings):
        for one in listed(server)[:3]:
            assert server.request("DELETE", "/v1/requests/" + one["id"]).status in (200, 404)
    statuses = sorted({a.reply.status for a in askings})
    assert set(statuses) <= {200, 409} and 409 in statuses, statuses
    server.until_idle()


with harness.lasting("--chat-template", "plain") as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
