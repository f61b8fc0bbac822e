"""Hostile JSON: each row gets its 400 (or its answer), and a valid request after it gives the same bytes as before."""
import json
import os
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness
from json_rows import REFUSED, TAKEN

GOOD = {"prompt": "It is a truth", "max_tokens": 4, "temperature": 0}


def answer(server):
    value = server.complete(**GOOD).json()
    return value["choices"], value["usage"]


def test_rows(server):
    before = answer(server)
    for row, body in REFUSED.items():
        reply = server.post("/v1/completions", body)
        assert reply.status == 400, (row, reply)
        error = reply.error()
        assert error["type"] == "invalid_request_error" and error["code"] == 400 and error["message"], (row, error)
        assert answer(server) == before, row
    for row, body in TAKEN.items():
        reply = server.post("/v1/completions", body)
        assert reply.status == 200, (row, reply)
        assert answer(server) == before, row


def test_every_truncation(server):
    before = answer(server)
    whole = json.dumps(dict(GOOD, stop=["\u00e9", "\\"], attention={"backend": "strided", "params": {"stride": 64}},
                            user=[1.5e-3, True, None, {"a": []}]), ensure_ascii=False).encode()
    for size in range(len(whole)):
        reply = server.post("/v1/completions", whole[:size])
        assert reply.status == 400, (whole[:size], reply)
    assert server.post("/v1/completions", whole).status == 200
    assert answer(server) == before


def test_one_byte_chunks(server):
    whole = json.dumps(GOOD).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in whole) + b"0\r\n\r\n"
    head = (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    replies, _ = server.raw(head + chunks)
    value = replies[0].json()
    assert (value["choices"], value["usage"]) == answer(server)


def test_largest_bodies(server):
    before = answer(server)
    many = b'{"prompt":[' + b"1," * 500000 + b"1]}"  # half a million ids: parsed, then too long
    reply = server.post("/v1/completions", many)
    assert reply.status == 400 and reply.error()["type"] == "exceed_context_size_error", reply
    text = b'{"prompt":"' + b"a" * 1000000 + b'"}'
    reply = server.post("/v1/completions", text)
    assert reply.status == 400 and reply.error()["type"] == "exceed_context_size_error", reply
    keys = b'{"prompt":"a","max_tokens":1' + b"".join(b',"k%d":1' % i for i in range(70000)) + b"}"
    assert server.post("/v1/completions", keys).status == 200
    assert answer(server) == before


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
