"""POST /v1/completions: replies, streams, stop, seed, usage, attention, and the field that every refusal names."""
import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

PROMPT = "It is a truth universally acknowledged"


def text_of(data):
    return "".join(json.loads(d)["choices"][0]["text"] for d in data if d != "[DONE]" and json.loads(d)["choices"])


def stream(server, **fields):
    reply = server.complete(stream=True, **fields)
    assert reply.status == 200 and reply.whole, reply
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache" and reply.headers["x-accel-buffering"] == "no"
    data = harness.frames(reply.body)
    assert data[-1] == "[DONE]" and data.count("[DONE]") == 1
    return data


def test_plain_reply(server):
    begin = int(time.time())
    reply = server.complete(prompt=PROMPT, max_tokens=12, temperature=0)
    assert reply.status == 200 and reply.headers["content-type"] == "application/json; charset=utf-8"
    value = reply.json()
    assert value["id"].startswith("cmpl-") and value["object"] == "text_completion"
    assert begin <= value["created"] <= time.time() + 1
    assert value["model"] == "austen" and value["system_fingerprint"].startswith("b")
    (choice,) = value["choices"]
    assert choice["index"] == 0 and choice["logprobs"] is None and choice["finish_reason"] == "length"
    assert len(choice["text"]) > 10
    usage = value["usage"]
    assert usage["completion_tokens"] == 12 and usage["prompt_tokens"] >= 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    report, timings = value["attention_report"], value["timings"]
    assert report["backend"] == "dense" and report["prefill"]["tokens"] == usage["prompt_tokens"], report
    for name in ("queue_seconds", "prefill_seconds", "first_token_seconds", "decode_tokens_per_second"):
        assert timings[name] >= 0, timings
    for path in ("/completions", "/v1/completions?api-version=1"):
        again = server.post(path, {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "model": "austen"}).json()
        assert again["choices"] == value["choices"]
    assert server.complete(prompt=PROMPT).json()["usage"]["completion_tokens"] <= 16


def test_stream_equals_plain(server):
    for fields in ({"temperature": 0}, {"seed": 7}, {"seed": 7, "top_k": 20, "top_p": 0.9, "min_p": 0.01}):
        fields.update(prompt=PROMPT, max_tokens=40)
        whole = server.complete(**fields).json()
        data = stream(server, **fields)
        chunks = [json.loads(d) for d in data[:-1]]
        assert text_of(data) == whole["choices"][0]["text"]
        assert len({(c["id"], c["created"], c["model"], c["object"], c["system_fingerprint"]) for c in chunks}) == 1
        assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert all("usage" not in c and "attention_report" not in c for c in chunks[:-1])
        last = chunks[-1]
        assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
        assert last["attention_report"]["backend"] == "dense" and last["timings"]["prefill_seconds"] > 0
        assert len(chunks) > 10, "text came at once"


def test_stream_usage(server):
    data = stream(server, prompt=PROMPT, max_tokens=5, stream_options={"include_usage": True})
    chunks = [json.loads(d) for d in data[:-1]]
    assert all(c["usage"] is None for c in chunks[:-1])
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 5
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


def test_stop(server):
    whole = server.complete(prompt=PROMPT, max_tokens=60, temperature=0, ignore_eos=True).json()["choices"][0]["text"]
    words = [w for w in whole.split(" ") if len(w) > 3]
    stop = words[len(words) // 2]
    wanted = whole[:whole.index(stop)]
    for value in (stop, [stop], ["never in it", stop], [stop + "zzz", stop]):
        fields = dict(prompt=PROMPT, max_tokens=60, temperature=0, ignore_eos=True, stop=value)
        reply = server.complete(**fields).json()
        assert reply["choices"][0] == {"index": 0, "text": wanted, "logprobs": None, "finish_reason": "stop"}, value
        assert text_of(stream(server, **fields)) == wanted
    assert server.complete(prompt=PROMPT, max_tokens=60, temperature=0, ignore_eos=True,
                           stop=[]).json()["choices"][0]["text"] == whole


def test_seed(server):
    def text(**more):
        return server.complete(prompt=PROMPT, max_tokens=24, **more).json()["choices"][0]["text"]

    assert text(seed=1) == text(seed=1) == text(seed=1.0)
    assert text(seed=1) != text(seed=2)
    assert len({text() for _ in range(4)}) > 1, "no seed must mean another one each time"
    # int64, exactly: neighbours beyond 2^53 differ
    assert text(seed=2**63 - 1) == text(seed=2**63 - 1)
    assert text(seed=2**53 + 1) != text(seed=2**53)
    assert text(seed=-2**63) == text(seed=-2**63)


def test_prompts(server):
    by_text = server.complete(prompt=PROMPT, max_tokens=8, temperature=0).json()
    assert server.complete(prompt=[PROMPT], max_tokens=8, temperature=0).json()["choices"] == by_text["choices"]
    ids = server.complete(prompt=[100, 200, 300], max_tokens=4, temperature=0).json()
    assert ids["usage"]["prompt_tokens"] == 3
    assert server.complete(prompt=[[100, 200, 300.0]], max_tokens=4, temperature=0).json()["choices"] == ids["choices"]
    assert server.complete(prompt="a", max_tokens=0).json()["usage"]["completion_tokens"] == 0
    unicode = server.complete(prompt="caf\u00e9 \U0001f600 \u0000 end", max_tokens=4)
    assert unicode.status == 200, unicode
    # a NUL is part of the prompt, not its end
    short = server.complete(prompt="abc", max_tokens=1).json()["usage"]["prompt_tokens"]
    assert server.complete(prompt="abc\u0000def", max_tokens=1).json()["usage"]["prompt_tokens"] > short
    mixed = server.complete(prompt="abc\u0000\ufdd0def \\u0000", max_tokens=1)
    assert mixed.status == 200, mixed


def test_attention(server):
    prompt = PROMPT * 60
    dense = server.complete(prompt=prompt, max_tokens=2, temperature=0).json()["attention_report"]
    for value in ("strided", {"backend": "strided", "params": {"stride": 32}}, {"backend": "fixed"},
                  {"backend": "window", "params": {"window": 65}}, {"backend": "longformer"}):
        reply = server.complete(prompt=prompt, max_tokens=2, temperature=0, attention=value)
        assert reply.status == 200, (value, reply)
        report = reply.json()["attention_report"]
        name = value if isinstance(value, str) else value["backend"]
        assert report["backend"] == name and report["trained"] is False
        assert 0 < report["prefill"]["edges"] < dense["prefill"]["edges"], value
    data = stream(server, prompt=prompt, max_tokens=2, attention="strided")
    assert json.loads(data[-2])["attention_report"]["backend"] == "strided"
    for value, param in (("nothing", "attention"), ({"backend": "strided", "params": {"stride": 0}}, "attention.params.stride"),
                         ({"backend": "strided", "params": {"strid": 1}}, "attention.params.strid"),
                         ({"backend": "strided", "colour": 1}, "attention.colour"), (5, "attention"),
                         ({"backend": "window", "params": {"window": 4}}, "attention.params.window"),
                         ({"normalizer": "relu"}, "attention.normalizer")):
        reply = server.complete(prompt="a", max_tokens=1, attention=value)
        assert reply.status == 400 and reply.error()["param"].startswith(param), (value, reply)
    assert server.complete(prompt="a", max_tokens=1, attention=None).status == 200


def test_errors_name_the_field(server):
    rows = [("temperature", v) for v in (-0.1, 100.1, "1", [], True, {})]
    rows += [("top_p", v) for v in (0, -1, 1.1, "x", True)] + [("min_p", v) for v in (-0.1, 1.1, "0")]
    rows += [("top_k", v) for v in (-2, 4097, 1.5, "1")] + [("seed", v) for v in (2**63, -2**63 - 1, 1.5, "1", True)]
    rows += [("max_tokens", v) for v in (-1, 2049, 2**31, 2**63, 1.5, "1", True)]
    rows += [("n", v) for v in (0, 17, "1", 1.5)] + [("best_of", v) for v in (0, 2)]
    rows += [("stop", v) for v in (["a"] * 17, "", [""], "x" * 1025, [1], 5, {}, [None])]
    rows += [("stream", v) for v in (1, "true", [])] + [("stream_options", {"include_usage": True}), ("ignore_eos", 1)]
    rows += [("suffix", "x"), ("presence_penalty", 3), ("frequency_penalty", -2.1), ("repetition_penalty", 0)]
    rows += [("prompt_logprobs", 1), ("response_format", {"type": "json_object"})]
    rows += [("prompt", v) for v in (5, True, {}, [], [[]], [1, "a"], ["a", 1], [[1], 2], [-1], [4096], [1.5], [None])]
    rows += [("model", 5)]
    for name, value in rows:
        fields = {"prompt": "a", "max_tokens": 1}
        fields[name] = value
        reply = server.complete(**fields)
        assert reply.status == 400, (name, value, reply)
        error = reply.error()
        assert error["param"] == name and error["type"] == "invalid_request_error" and error["code"] == 400, (name, value, error)
        assert name in error["message"], (name, error)
    assert server.complete(max_tokens=1).error()["param"] == "prompt"
    bad = server.complete(prompt="a", stream=True, stream_options={"include_usage": 1})
    assert bad.status == 400 and bad.error()["param"] == "stream_options.include_usage", bad
    neutral = dict(n=1, best_of=1, echo=False, presence_penalty=0, frequency_penalty=0.0, repetition_penalty=1, logit_bias={},
                   suffix=None, logprobs=None, min_tokens=0, stop=None, temperature=None, top_p=None, seed=None, top_k=-1,
                   stream=None, stream_options=None, user="u", metadata={"a": 1}, store=True, service_tier="x",
                   response_format={"type": "text"}, some_unknown_field=[1], add_special_tokens=True, cache_salt="s")
    assert server.complete(prompt="a", max_tokens=1, **neutral).status == 200
    harness.until(lambda: any("some_unknown_field" in line for line in server.log))  # another pipe than the answer
    assert sum("some_unknown_field" in line for line in server.log) == 1
    reply = server.complete(prompt="a", model="gpt-4")
    assert reply.status == 404 and reply.error()["param"] == "model" and reply.error()["type"] == "not_found_error"


def test_context(server):
    reply = server.complete(prompt="word " * 3000, max_tokens=1)
    error = reply.error()
    assert reply.status == 400 and error["type"] == "exceed_context_size_error", reply
    assert error["n_prompt_tokens"] > 2048 and error["n_ctx"] == 2048
    reply = server.complete(prompt=[5] * 2000, max_tokens=49)
    assert reply.status == 400 and reply.error()["param"] == "max_tokens", reply
    assert reply.error()["type"] == "invalid_request_error"
    assert server.complete(prompt=[5] * 2000, max_tokens=48, ignore_eos=True).json()["usage"]["total_tokens"] == 2048


def test_models(server):
    listed = server.get("/v1/models").json()
    assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == ["austen"]
    one = server.get("/v1/models/austen").json()
    assert one == listed["data"][0] and one["max_model_len"] == 2048 and "strided" in one["attention_backends"]
    assert server.get("/models").json() == listed and server.get("/models/austen").json() == one
    assert server.get("/v1/models/other").error()["type"] == "not_found_error"
    backends = {b["name"]: b for b in server.get("/v1/attention/backends").json()["data"]}
    assert {"dense", "strided", "fixed", "window", "longformer"} <= set(backends)
    assert backends["strided"]["params"][0]["name"] == "stride" and "streaming" in backends["strided"]["caps"]
    limits = server.get("/v1/limits").json()
    assert limits["max_queue"] == 64 and limits["max_body_bytes"] == 1048576 and limits["context"] == 2048
    assert limits["memory_ceiling_bytes"] > limits["max_tensor_bytes"]


def test_queue_is_bounded(server):
    with harness.lasting("--max-sequences", "1", "--max-queue", "2", "--queue-timeout", "1") as small:
        first = small.open_plain(prompt="a", max_tokens=harness.ENDLESS, ignore_eos=True)
        harness.until(lambda: small.gauge("sparsed_num_requests_running") == 1)
        replies = []

        def client():
            replies.append(small.complete(prompt="a", max_tokens=20, ignore_eos=True, stream=True))

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = sorted({r.status for r in replies})
        assert statuses == [429, 503], statuses  # too many, or too long in the queue
        for reply in replies:
            error = reply.error()
            assert int(reply.headers["retry-after"]) >= 1, reply.headers
            assert error["type"] == ("rate_limit_error" if reply.status == 429 else "unavailable_error")
        first.close()
        small.until_idle()


def test_request_timeout(server):
    with harness.lasting("--request-timeout", "0.2") as slow:
        reply = slow.complete(prompt="a", max_tokens=harness.ENDLESS, ignore_eos=True, attention="dense")
        assert reply.status == 503 and reply.headers["x-should-retry"] == "false", (reply, reply.headers)
        assert "retry-after" not in reply.headers and reply.error()["param"] is None, reply
        for _ in range(20):
            reply = slow.complete(prompt="a", max_tokens=harness.ENDLESS, ignore_eos=True, stream=True)
            if reply.status == 200:  # else it had not begun by then
                break
        data = harness.frames(reply.body)
        assert data[-1] == "[DONE]" and json.loads(data[-2])["error"]["code"] == 503, data[-3:]


def test_same_bytes_beside_others(server):
    fields = [dict(prompt=PROMPT[: 5 + 3 * i], max_tokens=30, seed=i) for i in range(8)]
    alone = [server.complete(**f).json()["choices"] for f in fields]
    beside = [None] * len(fields)

    def client(i):
        beside[i] = server.complete(**fields[i]).json()["choices"]

    threads = [threading.Thread(target=client, args=(i,)) for i in range(len(fields))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == beside


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
