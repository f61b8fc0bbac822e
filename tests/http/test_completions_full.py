"""POST /v1/completions in full: the effect of every field, several choices, logprobs as lm-evaluation-harness reads
them, streams that interleave; and the 400 that names a field out of range."""
import json
import math
import os
import sys
import threading

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

PROMPT = "It is a truth universally acknowledged"


def choices(server, **fields):
    reply = server.complete(**fields)
    assert reply.status == 200, (fields, reply)
    return reply.json()["choices"]


def ids_of(server, text, **more):
    """The prompt's token ids, by echo of ids."""
    fields = dict(prompt=text, max_tokens=0, return_token_ids=True)
    return choices(server, **dict(fields, **more))[0]["prompt_token_ids"]


def assemble(reply):
    """{index: {text, finish_reason, logprobs}} and the frames of a stream."""
    assert reply.status == 200, reply
    data = harness.frames(reply.body)
    assert data[-1] == "[DONE]", data[-1]
    frames = [json.loads(d) for d in data[:-1]]
    out = {}
    for frame in frames:
        for choice in frame["choices"]:
            one = out.setdefault(choice["index"], {"text": "", "finish_reason": None, "logprobs": None, "token_ids": []})
            assert one["finish_reason"] is None, "a chunk after the last"
            one["text"] += choice["text"]
            one["finish_reason"] = choice["finish_reason"]
            one["token_ids"] += choice.get("token_ids", [])
            if choice["logprobs"]:
                if one["logprobs"] is None:
                    one["logprobs"] = {name: [] for name in choice["logprobs"]}
                for name, rows in choice["logprobs"].items():
                    one["logprobs"][name] += rows
    return out, frames


def test_n_is_what_each_alone_gives(server):
    fields = dict(prompt=PROMPT, max_tokens=20, seed=40)
    three = choices(server, n=3, **fields)
    assert [c["index"] for c in three] == [0, 1, 2]
    for i, choice in enumerate(three):
        (alone,) = choices(server, **dict(fields, seed=40 + i))
        assert choice["text"] == alone["text"] and choice["finish_reason"] == alone["finish_reason"]
        assert choice["attention_report"]["prefill"]["tokens"] == len(ids_of(server, PROMPT))
    assert len({c["text"] for c in three}) == 3
    assert len(choices(server, n=16, max_tokens=2, prompt="a")) == 16


def test_several_prompts(server):
    prompts = [PROMPT, "The family of Dashwood", "Emma"]
    each = [choices(server, prompt=p, max_tokens=10, seed=5, n=2) for p in prompts]
    reply = server.complete(prompt=prompts, max_tokens=10, seed=5, n=2).json()
    assert [c["index"] for c in reply["choices"]] == list(range(6))
    assert [c["text"] for c in reply["choices"]] == [c["text"] for pair in each for c in pair]
    assert reply["usage"]["prompt_tokens"] == sum(len(ids_of(server, p)) for p in prompts)
    lists = [ids_of(server, p) for p in prompts]
    by_ids = server.complete(prompt=lists, max_tokens=10, seed=5, n=2).json()
    assert [c["text"] for c in by_ids["choices"]] == [c["text"] for c in reply["choices"]]
    assert len(choices(server, prompt=["a"] * 128, max_tokens=1, n=2)) == 256
    for value in ({"prompt": ["a"] * 129}, {"prompt": ["a"] * 17, "n": 16}):
        reply = server.complete(max_tokens=1, **value)
        assert reply.status == 400 and reply.error()["param"] in ("prompt", "n"), reply


def test_stream_of_several_choices(server):
    # many tokens: choices begin one after another, where the machine is busy not at once
    fields = dict(prompt=[PROMPT, "Emma"], max_tokens=120, seed=9, n=2, logprobs=2, return_token_ids=True)
    whole = choices(server, **fields)
    parts, frames = assemble(server.complete(stream=True, stream_options={"include_usage": True}, **fields))
    assert sorted(parts) == [0, 1, 2, 3]
    for choice in whole:
        part = parts[choice["index"]]
        assert part["text"] == choice["text"] and part["finish_reason"] == choice["finish_reason"]
        assert part["logprobs"] == choice["logprobs"] and part["token_ids"] == choice["token_ids"]
    order = [f["choices"][0]["index"] for f in frames if f["choices"]]
    assert any(order[i] != order[i + 1] and order[i] in order[i + 1:] for i in range(len(order) - 1)), "not interleaved"
    assert frames[-1]["choices"] == [] and frames[-1]["usage"]["completion_tokens"] == sum(len(c["token_ids"]) for c in whole)
    assert all(f["usage"] is None for f in frames[:-1])
    ends = [f for f in frames if f["choices"] and f["choices"][0]["finish_reason"]]
    assert len(ends) == 4 and all("attention_report" in f and "timings" in f for f in ends)


def test_continuous_usage(server):
    options = {"include_usage": True, "continuous_usage_stats": True}
    _, frames = assemble(server.complete(prompt=PROMPT, max_tokens=12, stream=True, stream_options=options, temperature=0))
    counts = [f["usage"]["completion_tokens"] for f in frames]
    assert counts == sorted(counts) and counts[0] >= 1 and counts[-1] == 12 and frames[-1]["choices"] == []


def test_logprobs(server):
    (choice,) = choices(server, prompt=PROMPT, max_tokens=15, temperature=0, logprobs=3)
    rows = choice["logprobs"]
    assert set(rows) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert all(len(rows[name]) == 15 for name in rows)
    assert "".join(rows["tokens"]) == choice["text"]
    place = 0
    for token, offset, logprob, top in zip(rows["tokens"], rows["text_offset"], rows["token_logprobs"], rows["top_logprobs"]):
        assert offset == place and 3 <= len(top) <= 4
        assert logprob == max(top.values()) == top[token] and logprob <= 0
        assert sum(math.exp(value) for value in top.values()) <= 1.0001
        place += len(token)
    (none,) = choices(server, prompt=PROMPT, max_tokens=15, temperature=0, logprobs=0)
    assert none["logprobs"]["top_logprobs"] == [{t: l} for t, l in zip(rows["tokens"], rows["token_logprobs"])]
    (drawn,) = choices(server, prompt=PROMPT, max_tokens=30, seed=3, temperature=1.5, logprobs=1)
    inside = [len(top) for top in drawn["logprobs"]["top_logprobs"]]
    assert set(inside) <= {1, 2} and 2 in inside
    for token, logprob, top in zip(*(drawn["logprobs"][n] for n in ("tokens", "token_logprobs", "top_logprobs"))):
        assert top[token] == logprob
    assert choices(server, prompt=PROMPT, max_tokens=2)[0]["logprobs"] is None


def test_logprobs_of_bytes(server):
    """Tokens that are part of a character have keys of their own and offsets that do not move."""
    text = "caf\u00e9 \U0001f600\U0001f600 \u4e2d"
    (choice,) = choices(server, prompt=text, max_tokens=1, logprobs=20, echo=True, temperature=0)
    rows = choice["logprobs"]
    assert choice["text"].startswith(text)
    spelled = b""
    for token in rows["tokens"][:-1]:
        spelled += bytes(int(h, 16) for h in token[8:].split("\\x")) if token.startswith("bytes:") else token.encode()
    assert spelled == text.encode(), rows["tokens"]
    assert all(len(top) >= 20 for top in rows["top_logprobs"][1:]), "keys collide"
    assert rows["text_offset"] == sorted(rows["text_offset"]) and rows["text_offset"][-1] == len(text)


def test_echo_as_lm_evaluation_harness_reads_it(server):
    ids = [ids_of(server, PROMPT), ids_of(server, " Mr. Darcy was proud.")]
    reply = server.complete(prompt=ids, max_tokens=1, temperature=0, logprobs=1, echo=True).json()
    score = server.post("/v1/score", {"input": ids}).json()["data"]
    for i, choice in enumerate(reply["choices"]):
        rows, n = choice["logprobs"], len(ids[i])
        assert all(len(rows[name]) == n + 1 for name in rows), "prompt and exactly one row more"
        assert rows["token_logprobs"][0] is None and rows["top_logprobs"][0] is None
        assert rows["token_logprobs"][:-1] == score[i]["token_logprobs"]
        assert rows["tokens"][:-1] == score[i]["tokens"]
        for logprob, top in list(zip(rows["token_logprobs"], rows["top_logprobs"]))[1:]:
            assert logprob in top.values() and 1 <= len(top) <= 2 and logprob <= max(top.values())
        assert choice["text"].startswith("".join(score[i]["tokens"]))
        assert rows["text_offset"][n] == len("".join(score[i]["tokens"]))
    greedy = [rows["token_logprobs"][t] == max(rows["top_logprobs"][t].values()) for t in range(1, n)]
    assert any(greedy) and not all(greedy)
    # the one row stands even if it ends the text
    eos = 0
    (choice,) = choices(server, prompt=PROMPT, max_tokens=1, logprobs=1, echo=True, logit_bias={str(eos): 100})
    assert len(choice["logprobs"]["tokens"]) == len(ids[0]) + 1 and choice["finish_reason"] == "stop"


def test_echo(server):
    (alone,) = choices(server, prompt=PROMPT, max_tokens=6, temperature=0)
    (choice,) = choices(server, prompt=PROMPT, max_tokens=6, temperature=0, echo=True)
    assert choice["text"] == PROMPT + alone["text"] and choice["logprobs"] is None
    (only,) = choices(server, prompt=PROMPT, max_tokens=0, echo=True, logprobs=2)
    assert only["text"] == PROMPT and len(only["logprobs"]["tokens"]) == len(ids_of(server, PROMPT))
    assert only["finish_reason"] == "length"
    fields = dict(prompt=PROMPT, max_tokens=6, temperature=0, echo=True, logprobs=1)
    parts, frames = assemble(server.complete(stream=True, **fields))
    whole = choices(server, **fields)[0]
    assert frames[0]["choices"][0]["text"].startswith(PROMPT) and len(frames[0]["choices"][0]["text"]) > len(PROMPT)
    assert parts[0]["text"] == whole["text"] and parts[0]["logprobs"] == whole["logprobs"]
    # chunks of prefill do not change the rows
    long = (PROMPT + " ") * 40
    (one,) = choices(server, prompt=long, max_tokens=1, echo=True, logprobs=1, temperature=0)
    assert one["logprobs"]["token_logprobs"][:-1] == server.post("/v1/score", {"input": long}).json()["data"][0]["token_logprobs"]


def test_logit_bias(server):
    (plain,) = choices(server, prompt=PROMPT, max_tokens=1, temperature=0, return_token_ids=True, logprobs=2)
    (best,) = plain["token_ids"]
    (banned,) = choices(server, prompt=PROMPT, max_tokens=8, temperature=0, return_token_ids=True, logit_bias={str(best): -100})
    assert best not in banned["token_ids"]
    (forced,) = choices(server, prompt=PROMPT, max_tokens=5, seed=1, return_token_ids=True, logit_bias={"300": 100}, logprobs=1)
    assert forced["token_ids"] == [300] * 5
    assert all(value < -1 for value in forced["logprobs"]["token_logprobs"]), "logprobs are the model's own"
    many = {str(i): 0.5 for i in range(1024)}
    assert choices(server, prompt="a", max_tokens=1, logit_bias=many)
    for value in ({"4096": 1}, {"-1": 1}, {"a": 1}, {"": 1}, {"01": 1}, {"1": 101}, {"1": -100.5}, {"1": "2"}, {"1": None},
                  {str(i): 1 for i in range(1025)}, [], "x", 1):
        reply = server.complete(prompt="a", max_tokens=1, logit_bias=value)
        assert reply.status == 400 and reply.error()["param"] == "logit_bias", (str(value)[:60], reply)


def repeats(ids):
    return len(ids) - len(set(ids))


def test_penalties(server):
    base = dict(prompt="and and and and and and", max_tokens=60, temperature=0, ignore_eos=True, return_token_ids=True)
    plain = choices(server, **base)[0]["token_ids"]
    for name, value in (("frequency_penalty", 2), ("presence_penalty", 2), ("repetition_penalty", 1.8)):
        ids = choices(server, **dict(base, **{name: value}))[0]["token_ids"]
        assert repeats(ids) < repeats(plain), name
    # a negative penalty asks for what is there already
    less = choices(server, **dict(base, frequency_penalty=-2))[0]["token_ids"]
    assert repeats(less) > repeats(plain)
    # repetition counts the prompt, the others do not: the first token differs only there
    first = dict(base, max_tokens=1)
    start = choices(server, **first)[0]["token_ids"]
    assert choices(server, **dict(first, frequency_penalty=2, presence_penalty=2))[0]["token_ids"] == start
    fields = dict(base, frequency_penalty=0.7, presence_penalty=0.3, repetition_penalty=1.1, temperature=1, seed=2)
    assert choices(server, **fields) == choices(server, **fields)
    for name, value in (("presence_penalty", 2.1), ("presence_penalty", -2.1), ("frequency_penalty", 2.1), ("frequency_penalty", "1"),
                        ("repetition_penalty", 0), ("repetition_penalty", -1), ("repetition_penalty", 100.1), ("repetition_penalty", True)):
        reply = server.complete(prompt="a", max_tokens=1, **{name: value})
        assert reply.status == 400 and reply.error()["param"] == name, (name, value, reply)


def test_min_p_and_top_k(server):
    greedy = choices(server, prompt=PROMPT, max_tokens=20, temperature=0)[0]["text"]
    assert choices(server, prompt=PROMPT, max_tokens=20, seed=4, min_p=1)[0]["text"] == greedy
    assert choices(server, prompt=PROMPT, max_tokens=20, seed=4, top_k=1)[0]["text"] == greedy
    assert choices(server, prompt=PROMPT, max_tokens=20, seed=4, top_p=1e-9)[0]["text"] == greedy
    assert choices(server, prompt=PROMPT, max_tokens=20, seed=4)[0]["text"] != greedy


def test_stop_token_ids_and_min_tokens(server):
    base = dict(prompt=PROMPT, max_tokens=30, temperature=0, ignore_eos=True, return_token_ids=True)
    (plain,) = choices(server, **base)
    ids = plain["token_ids"]
    stop = next(i for i in range(8, 30) if ids[i] not in ids[:i])
    (cut,) = choices(server, **dict(base, stop_token_ids=[ids[stop], 4095]))
    assert cut["token_ids"] == ids[:stop + 1] and cut["finish_reason"] == "stop"
    assert plain["text"].startswith(cut["text"]) and len(cut["text"]) < len(plain["text"])
    (late,) = choices(server, **dict(base, stop_token_ids=[ids[stop]], min_tokens=stop + 4))
    assert len(late["token_ids"]) >= stop + 4 and late["token_ids"][:stop] == ids[:stop]
    assert ids[stop] not in late["token_ids"][:stop + 4]
    eos = {"0": 100}
    assert choices(server, prompt="a", max_tokens=9, logit_bias=eos, return_token_ids=True)[0]["token_ids"] == [0]
    (held,) = choices(server, prompt="a", max_tokens=9, logit_bias=eos, min_tokens=5, return_token_ids=True)
    assert len(held["token_ids"]) == 6 and 0 not in held["token_ids"][:5] and held["finish_reason"] == "stop"
    (ignored,) = choices(server, prompt="a", max_tokens=9, logit_bias=eos, ignore_eos=True, return_token_ids=True)
    assert ignored["token_ids"] == [0] * 9 and ignored["finish_reason"] == "length"
    # stop strings count from the token after the last that must come
    word = plain["text"].split(" ")[2]
    (early,) = choices(server, **dict(base, stop=word))
    (after,) = choices(server, **dict(base, stop=word, min_tokens=20))
    assert len(early["token_ids"]) < 20 <= len(after["token_ids"]) and word in after["text"]


def test_return_token_ids(server):
    ids = ids_of(server, PROMPT)
    (choice,) = choices(server, prompt=ids, max_tokens=5, temperature=0, return_token_ids=True)
    assert choice["prompt_token_ids"] == ids and len(choice["token_ids"]) == 5
    (plain,) = choices(server, prompt=PROMPT, max_tokens=5, temperature=0)
    assert plain["text"] == choice["text"] and "token_ids" not in plain and "prompt_token_ids" not in plain
    _, frames = assemble(server.complete(prompt=PROMPT, max_tokens=5, temperature=0, return_token_ids=True, stream=True))
    assert frames[0]["choices"][0]["prompt_token_ids"] == ids
    assert all("prompt_token_ids" not in f["choices"][0] for f in frames[1:])


def test_errors(server):
    rows = [("n", v) for v in (0, 17, "2", 1.5, True)] + [("best_of", v) for v in (0, 2, "1")]
    rows += [("echo", v) for v in (1, "true", [])] + [("return_token_ids", 1), ("add_special_tokens", "no")]
    rows += [("logprobs", v) for v in (-1, 21, True, 1.5, "1")] + [("suffix", ""), ("prompt_logprobs", 0)]
    rows += [("min_tokens", v) for v in (-1, 2, 1.5, "1")] + [("ignore_eos", 0)]
    rows += [("stop_token_ids", v) for v in (1, "a", [1.5], [-1], [4096], ["1"], [1] * 65, {})]
    rows += [("tools", [{"type": "function"}]), ("tool_choice", "required"), ("response_format", {"type": "json_schema"})]
    for name, value in rows:
        fields = {"prompt": "a", "max_tokens": 1}
        fields[name] = value
        reply = server.complete(**fields)
        assert reply.status == 400, (name, value, reply)
        assert reply.error()["param"] == name and name in reply.error()["message"], (name, value, reply)
    for name in ("include_usage", "continuous_usage_stats"):
        reply = server.complete(prompt="a", max_tokens=1, stream=True, stream_options={name: 1})
        assert reply.status == 400 and reply.error()["param"] == "stream_options." + name, reply
    reply = server.complete(prompt="a", max_tokens=1, stream=True, stream_options={"continuous_usage_stats": True})
    assert reply.status == 400 and reply.error()["param"] == "stream_options.continuous_usage_stats", reply
    # one prompt of several is too long: nothing of the request runs
    reply = server.complete(prompt=["a", "word " * 3000], max_tokens=1, stream=True)
    assert reply.status == 400 and reply.error()["type"] == "exceed_context_size_error", reply
    assert server.complete(prompt="a", max_tokens=1, tools=[], tool_choice="none", user="u", store=False).status == 200


def test_choices_do_not_count_in_the_queue(server):
    with harness.Server("--max-sequences", "1", "--max-queue", "1") as small:
        reply = small.complete(prompt=["a", "b", "c"], n=4, max_tokens=3, seed=1)
        assert reply.status == 200 and len(reply.json()["choices"]) == 12, reply
        wanted = [server.complete(prompt=p, n=4, max_tokens=3, seed=1).json()["choices"] for p in "abc"]
        assert [c["text"] for c in reply.json()["choices"]] == [c["text"] for four in wanted for c in four]


def test_client_leaves(server):
    link = server.open_stream(prompt="a", n=16, max_tokens=2000, ignore_eos=True)
    harness.read_some(link, 2000)
    link.close()
    server.until_idle()


def test_beside_others(server):
    fields = [dict(prompt=PROMPT[:6 + 4 * i], max_tokens=20, seed=i, n=2, frequency_penalty=0.2 * i, logit_bias={str(200 + i): 5},
                   logprobs=2, echo=i % 2 == 0) for i in range(6)]
    def without(choices):
        return [{k: v for k, v in c.items() if k != "attention_report"} for c in choices]
    alone = [without(choices(server, **f)) for f in fields]
    beside = [None] * len(fields)
    threads = [threading.Thread(target=lambda i=i: beside.__setitem__(i, without(choices(server, **fields[i])))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == beside


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
