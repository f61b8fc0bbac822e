"""POST /v1/embeddings: against the hidden states of an independent implementation, both poolings, cuts, lengths, float and
base64, the four shapes of input, and the field that every refusal names."""
import base64
import json
import math
import os
import struct
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness


def embed(server, **fields):
    reply = server.post("/v1/embeddings", fields)
    assert reply.status == 200, reply
    return reply.json()


def unit(values):
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def near(a, b, tolerance):
    assert len(a) == len(b)
    return max(abs(x - y) for x, y in zip(a, b)) <= tolerance


def test_reference_states(server):
    for name in ("tiny-llama", "tiny-qwen3", "tiny-llama-entmax15"):
        folder = os.path.join(sys.argv[1], "tests", "golden", "models", name)
        with open(os.path.join(folder, "golden.json"), encoding="utf-8") as file:
            cases = json.load(file)["cases"]
        with harness.Server("--kv", "f32", "--weights", "f32", model=folder) as tiny:
            inputs = [case["ids"] for case in cases]
            for pooling, key in (("mean", "hidden_mean"), ("last", "hidden_last")):
                value = embed(tiny, input=inputs, pooling=pooling, normalize=False)
                assert [d["index"] for d in value["data"]] == list(range(len(cases)))
                for case, data in zip(cases, value["data"]):
                    assert near(data["embedding"], case[key], 1e-4), (name, pooling, case["length"])
                scaled = embed(tiny, input=inputs[2:3], pooling=pooling)["data"][0]["embedding"]
                assert near(scaled, unit(cases[2][key]), 1e-4)
                cut = embed(tiny, input=inputs[2:3], pooling=pooling, dimensions=8)["data"][0]["embedding"]
                assert near(cut, unit(cases[2][key][:8]), 1e-4)


def test_shape(server):
    value = embed(server, input="It is a truth", model="austen")
    assert value["object"] == "list" and value["model"] == "austen"
    (data,) = value["data"]
    assert data["object"] == "embedding" and abs(sum(v * v for v in data["embedding"]) - 1) < 1e-5
    tokens = server.complete(prompt="It is a truth", max_tokens=0).json()["usage"]["prompt_tokens"]
    assert value["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    packed = embed(server, input="It is a truth", encoding_format="base64")["data"][0]["embedding"]
    raw = base64.b64decode(packed, validate=True)
    assert list(struct.unpack("<%df" % (len(raw) // 4), raw)) == [struct.unpack("<f", struct.pack("<f", v))[0] for v in data["embedding"]]
    for n in (1, 2, 3):
        raw = base64.b64decode(embed(server, input="a", encoding_format="base64", dimensions=n)["data"][0]["embedding"], validate=True)
        assert len(raw) == 4 * n
    ids = server.post("/tokenize", {"prompt": "It is a truth"}).json()["tokens"]
    assert embed(server, input=ids)["data"] == value["data"] == embed(server, input=[ids])["data"]
    two = embed(server, input=["Emma", "It is a truth"])
    assert two["data"][1]["embedding"] == data["embedding"] and two["usage"]["prompt_tokens"] > tokens
    assert server.post("/embeddings", {"input": "It is a truth"}).json()["data"] == value["data"]
    assert len(embed(server, input=["a"] * 128)["data"]) == 128
    last = embed(server, input="It is a truth", pooling="last")["data"][0]["embedding"]
    assert last != data["embedding"]
    long = "It is a truth universally acknowledged. " * 60
    assert embed(server, input=long, attention="strided")["data"] != embed(server, input=long)["data"]
    assert embed(server, input=long, attention="strided")["attention_report"]["backend"] == "strided"
    # chunks of the prompt and company do not change it
    assert embed(server, input=[long, "a"])["data"][0]["embedding"] == embed(server, input=long)["data"][0]["embedding"]


def test_cache_salt(server):
    def hits(**fields):
        before = server.gauge("sparsed_prefix_cache_hits_total")
        embed(server, input="salted " * 100, pooling="last", **fields)
        return server.gauge("sparsed_prefix_cache_hits_total") - before

    assert hits() == 0 and hits() > 0
    assert hits(cache_salt="a") == 0, "a salt of its own"
    assert hits(cache_salt="a") > 0 and hits(cache_salt="b") == 0 and hits(cache_salt=None) > 0


def test_errors(server):
    rows = [("input", v) for v in (None, 5, [], [[]], {}, [1.5], ["a", 1], [-1], [4096], ["a"] * 129)]
    rows += [("encoding_format", v) for v in ("hex", 1)] + [("dimensions", v) for v in (0, -1, 100000, "2", 1.5)]
    rows += [("pooling", v) for v in ("max", 1)] + [("normalize", 1), ("add_special_tokens", "x"), ("attention", "nothing"), ("cache_salt", 5)]
    for name, value in rows:
        fields = {"input": "a"}
        fields[name] = value
        reply = server.post("/v1/embeddings", fields)
        assert reply.status == 400 and reply.error()["param"] == name, (name, value, reply)
    assert server.post("/v1/embeddings", {"input": "a", "model": "x"}).status == 404
    reply = server.post("/v1/embeddings", {"input": ["a", "word " * 3000]})
    assert reply.status == 400 and reply.error()["type"] == "exceed_context_size_error" and reply.error()["param"] == "input", reply
    assert server.post("/v1/embeddings", {"input": "a", "user": "u", "unknown": 1}).status == 200


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
