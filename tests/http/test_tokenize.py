"""POST /tokenize, /detokenize, GET /tokenizer_info and the fields of /v1/models: the shapes of llama.cpp, vLLM and
text-embeddings-inference, offsets, and the field that every refusal names."""
import os
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

TEXT = "It is a truth, caf\u00e9 \U0001f600 end"


def tokenize(server, **fields):
    reply = server.post("/tokenize", fields)
    assert reply.status == 200, reply
    return reply.json()


def test_both_shapes(server):
    value = tokenize(server, prompt=TEXT)
    assert value["count"] == len(value["tokens"]) and value["max_model_len"] == 2048 and value["token_strs"] is None
    wanted = server.complete(prompt=TEXT, max_tokens=0, return_token_ids=True).json()["choices"][0]["prompt_token_ids"]
    assert value["tokens"] == wanted == tokenize(server, content=TEXT)["tokens"]
    strings = tokenize(server, prompt=TEXT, return_token_strs=True)["token_strs"]
    assert len(strings) == len(wanted) and all(isinstance(s, str) for s in strings)
    pieces = tokenize(server, content=TEXT, with_pieces=True)["tokens"]
    assert [p["id"] for p in pieces] == wanted
    joined = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert joined == TEXT.encode() and any(isinstance(p["piece"], list) for p in pieces)


def test_special_tokens(server):
    mark = server.get("/tokenizer_info").json()["eos_token"]
    plain = tokenize(server, prompt=mark + "a", parse_special=False)["tokens"]
    parsed = tokenize(server, prompt=mark + "a")["tokens"]
    assert len(plain) > len(parsed) == 2 and parsed[0] == 0
    assert parsed == tokenize(server, content=mark + "a", parse_special=True)["tokens"]
    assert plain == server.complete(prompt=mark + "a", max_tokens=0, return_token_ids=True).json()["choices"][0]["prompt_token_ids"]


def test_offsets(server):
    (rows,) = tokenize(server, inputs=TEXT)
    assert [r["id"] for r in rows] == tokenize(server, prompt=TEXT)["tokens"]
    assert rows[0]["start"] == 0 and rows[-1]["stop"] == len(TEXT)
    for row in rows:
        assert set(row) == {"id", "text", "special", "start", "stop"} and row["special"] is False
        if "\ufffd" not in row["text"]:
            assert TEXT[row["start"]:row["stop"]] == row["text"], row
    assert [a["stop"] for a in rows if "\ufffd" not in a["text"]] == sorted(a["stop"] for a in rows if "\ufffd" not in a["text"])
    assert len(tokenize(server, inputs=["a", "b c"])) == 2


def test_detokenize(server):
    ids = tokenize(server, prompt=TEXT)["tokens"]
    assert server.post("/detokenize", {"tokens": ids}).json() == {"content": TEXT, "prompt": TEXT}
    assert server.post("/detokenize", {"tokens": []}).json() == {"content": "", "prompt": ""}
    assert server.post("/detokenize", {"tokens": [0, ids[0]]}).json()["content"].endswith("It")


def test_info_and_models(server):
    info = server.get("/tokenizer_info").json()
    assert info["eos_token"] == info["bos_token"] == "<|endoftext|>" and info["pad_token"] is None
    assert info["chat_template"] is None and info["chat_family"] is None and info["add_bos_token"] is False
    assert info["model_max_length"] == 2048 and info["vocab_size"] <= 4096
    one = server.get("/v1/models/austen").json()
    assert one["object"] == "model" and one["max_model_len"] == 2048 and one["root"] == "austen" and one["parent"] is None
    assert one["tasks"] == ["generate", "score", "embed"] and "dense" in one["attention_backends"]
    meta = one["meta"]
    assert meta["n_ctx_train"] == 2048 and meta["n_vocab"] == 4096 and meta["n_params"] > 1000 * meta["n_embd"] and meta["size"] > 0
    with harness.Server("--chat-template", "plain") as plain:
        assert plain.get("/v1/models/austen").json()["tasks"] == ["generate", "chat", "score", "embed"]
        assert plain.get("/tokenizer_info").json()["chat_family"] == "plain"


def test_errors(server):
    rows = [("prompt", v) for v in (5, [1], {}, None)] + [("content", v) for v in (5, [1])] + [("inputs", v) for v in (5, [], [[1]])]
    rows += [("add_special", 1), ("add_special_tokens", "x"), ("parse_special", 0), ("with_pieces", 1), ("return_token_strs", [])]
    for name, value in rows:
        fields = {name: value} if name in ("prompt", "content", "inputs") else {"prompt": "a", name: value}
        reply = server.post("/tokenize", fields)
        assert reply.status == 400 and reply.error()["param"] == name, (name, value, reply)
    reply = server.post("/tokenize", {"prompt": "a", "content": "b"})
    assert reply.status == 400 and reply.error()["param"] in ("prompt", "content"), reply
    for value in (None, 5, "a", [1.5], [-1], [4096], ["a"]):
        reply = server.post("/detokenize", {"tokens": value})
        assert reply.status == 400 and reply.error()["param"] == "tokens", (value, reply)
    assert server.post("/tokenize", {"prompt": "a", "model": "x"}).status == 404
    assert server.get("/tokenize").status == 405


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
