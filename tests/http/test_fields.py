"""Every member of a completion and of a chat request, one by one: what it changes, and the 400 that names it for each bad
value. Both tables are compared with the members that server/README.md lists, so that a new one needs its rows here. What is
ignored on purpose (`user` and its like) changes nothing at any value; what is refused on purpose is 400 at any that asks."""
import json
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness
import tiny_model

PROMPT = "It is a truth universally acknowledged"
NUMBERS = ("1", [], {}, True)
IGNORED = ("user", "metadata", "store", "service_tier")


class Route:
    """A route and how to ask it."""

    def __init__(self, server, path, base):
        self.server, self.path, self.base, self.chat = server, path, base, "chat" in path

    def post(self, **fields):
        return self.server.post(self.path, dict(self.base, **fields))

    def reply(self, **fields):
        reply = self.post(**fields)
        assert reply.status == 200, (fields, reply)
        return reply.json()

    def choices(self, **fields):
        return self.reply(**fields)["choices"]

    def text_of(self, choice):
        return choice["message"]["content"] if self.chat else choice["text"]

    def text(self, **fields):
        return self.text_of(self.choices(**fields)[0])

    def ids(self, **fields):
        return self.choices(return_token_ids=True, **fields)[0]["token_ids"]

    def frames(self, **fields):
        reply = self.post(stream=True, **fields)
        assert reply.status == 200, reply
        data = harness.frames(reply.body)
        assert data[-1] == "[DONE]"
        return [json.loads(one) for one in data[:-1]]


# --- effects: each asserts that the member does what the reference says ---
def model(r):
    assert r.reply(model="austen")["model"] == r.reply()["model"] == "austen"
    reply = r.post(model="another")
    assert reply.status == 404 and reply.error()["param"] == "model"


def prompt(r):
    assert r.text(prompt="Emma was", temperature=0) != r.text(prompt="Mr. Darcy said", temperature=0)
    assert len(r.choices(prompt=["Emma", "Mr. Darcy"])) == 2 and r.reply(prompt=[5, 6, 7])["usage"]["prompt_tokens"] == 3
    assert len(r.choices(prompt=[[5, 6], [7]])) == 2


def messages(r):
    one, other = [{"role": "user", "content": "Emma"}], [{"role": "user", "content": "Darcy"}]
    assert r.text(messages=one, temperature=0) != r.text(messages=other, temperature=0)
    two = one + [{"role": "assistant", "content": "Yes."}] + other
    assert r.reply(messages=two)["usage"]["prompt_tokens"] > r.reply(messages=one)["usage"]["prompt_tokens"]
    for role in ("system", "developer"):
        with_system = [{"role": role, "content": [{"type": "text", "text": "Be brief."}]}] + one
        assert r.reply(messages=with_system)["usage"]["prompt_tokens"] > r.reply(messages=one)["usage"]["prompt_tokens"]


def max_tokens(r, name="max_tokens"):
    for n in (0, 1, 5):
        assert r.reply(ignore_eos=True, **{name: n})["usage"]["completion_tokens"] == n
    assert r.choices(ignore_eos=True, **{name: 3})[0]["finish_reason"] == "length"


def max_completion_tokens(r):
    max_tokens(r, "max_completion_tokens")
    assert r.reply(ignore_eos=True, max_completion_tokens=2, max_tokens=6)["usage"]["completion_tokens"] == 2


def min_tokens(r):
    end = {"0": 100}
    assert len(r.ids(logit_bias=end, max_tokens=6)) == 1 and len(r.ids(logit_bias=end, max_tokens=6, min_tokens=4)) == 5


def n(r):
    three = r.choices(n=3, seed=9)
    assert [c["index"] for c in three] == [0, 1, 2] and len({r.text_of(c) for c in three}) == 3
    assert r.text_of(three[2]) == r.text(seed=11)


def temperature(r):
    assert r.text(temperature=0, seed=1) == r.text(temperature=0, seed=2) == r.text(temperature=1e-9, seed=3)
    assert r.text(temperature=0, seed=1) != r.text(temperature=3, seed=1) != r.text(temperature=0.7, seed=1)


def only_the_best(**fields):
    def check(r):
        assert r.text(seed=4, **fields) == r.text(temperature=0) != r.text(seed=4)

    return check


def top_k(r):
    only_the_best(top_k=1)(r)
    assert r.text(seed=4, top_k=-1) == r.text(seed=4, top_k=0) == r.text(seed=4, top_k=4096) == r.text(seed=4)


def penalty(name, value):
    def check(r):
        def repeats(**fields):
            ids = r.ids(max_tokens=50, temperature=0, ignore_eos=True, **fields)
            return len(ids) - len(set(ids))

        assert repeats(**{name: value}) < repeats()

    return check


def logit_bias(r):
    best = r.ids(temperature=0, max_tokens=1)[0]
    assert r.ids(temperature=0, max_tokens=1, logit_bias={str(best): -100}) != [best]
    assert r.ids(max_tokens=3, logit_bias={"300": 100}) == [300] * 3


def seed(r):
    assert r.text(seed=5) == r.text(seed=5) != r.text(seed=6) and len({r.text() for _ in range(4)}) > 1


def stop(r):
    whole = r.text(temperature=0, max_tokens=20, ignore_eos=True)
    word = [w for w in whole.split(" ") if len(w) > 2][2]
    for value in (word, ["not there", word]):
        (choice,) = r.choices(temperature=0, max_tokens=20, ignore_eos=True, stop=value)
        assert r.text_of(choice) == whole[:whole.index(word)] and choice["finish_reason"] == "stop"


def stop_token_ids(r):
    ids = r.ids(temperature=0, max_tokens=12, ignore_eos=True)
    at = next(i for i in range(3, 12) if ids[i] not in ids[:i])
    assert r.ids(temperature=0, max_tokens=12, ignore_eos=True, stop_token_ids=[ids[at]]) == ids[:at + 1]


def ignore_eos(r):
    assert len(r.ids(logit_bias={"0": 100}, max_tokens=4)) == 1 and len(r.ids(logit_bias={"0": 100}, max_tokens=4, ignore_eos=True)) == 4


def logprobs(r):
    assert r.choices()[0]["logprobs"] is None
    rows = r.choices(logprobs=2, max_tokens=3, ignore_eos=True, temperature=0)[0]["logprobs"]
    assert len(rows["tokens"]) == 3 and all(2 <= len(top) <= 3 for top in rows["top_logprobs"])
    assert all(len(top) == 1 for top in r.choices(logprobs=0, max_tokens=3)[0]["logprobs"]["top_logprobs"])


def chat_logprobs(r):
    assert r.choices()[0]["logprobs"] is None and r.choices(logprobs=False)[0]["logprobs"] is None
    assert len(r.choices(logprobs=True, max_tokens=3, ignore_eos=True)[0]["logprobs"]["content"]) == 3


def top_logprobs(r):
    for count in (0, 4, 20):
        rows = r.choices(logprobs=True, top_logprobs=count, max_tokens=2)[0]["logprobs"]["content"]
        assert all(len(row["top_logprobs"]) == count for row in rows)
    reply = r.post(top_logprobs=1)
    assert reply.status == 400 and reply.error()["param"] == "top_logprobs", "needs logprobs"


def echo(r):
    assert r.text(echo=True, temperature=0) == PROMPT + r.text(temperature=0) and r.text(echo=True, max_tokens=0) == PROMPT


def return_token_ids(r):
    choice = r.choices(return_token_ids=True, max_tokens=2, ignore_eos=True)[0]
    assert len(choice["token_ids"]) == 2 and len(choice["prompt_token_ids"]) > 2 and "token_ids" not in r.choices()[0]


def add_special_tokens(r):
    """The bundled model adds nothing; one that puts BOS before a text does."""
    assert r.reply(add_special_tokens=True)["usage"] == r.reply(add_special_tokens=False)["usage"]
    with tempfile.TemporaryDirectory() as folder:
        tiny_model.write(folder)
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
            json.dump({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": True}, file)
        with harness.Server(model=folder) as tiny:
            def prompt_ids(**fields):
                return tiny.complete(prompt="the", max_tokens=0, return_token_ids=True, **fields).json()["choices"][0]["prompt_token_ids"]

            assert prompt_ids() == prompt_ids(add_special_tokens=True) == [0] + prompt_ids(add_special_tokens=False)


def stream(r):
    frames = r.frames(seed=2, max_tokens=8, ignore_eos=True)
    pieces = [c["delta"].get("content", "") if r.chat else c["text"] for f in frames for c in f["choices"]]
    assert len(frames) > 4 and "".join(pieces) == r.text(seed=2, max_tokens=8, ignore_eos=True) == r.text(seed=2, max_tokens=8, ignore_eos=True, stream=False)


def stream_options(r):
    frames = r.frames(max_tokens=3, ignore_eos=True, stream_options={"include_usage": True})
    assert frames[-1]["choices"] == [] and frames[-1]["usage"]["completion_tokens"] == 3 and frames[0]["usage"] is None
    frames = r.frames(max_tokens=3, ignore_eos=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [f["usage"]["completion_tokens"] for f in frames]
    assert counts == sorted(counts) and counts[-1] == 3
    assert "usage" not in r.frames(max_tokens=3, stream_options={"include_usage": False})[-1]


def attention(r):
    reports = [r.reply(attention=value)["attention_report"]["backend"] for value in ("strided", {"backend": "window"}, None)]
    assert reports == ["strided", "window", "dense"]


def nothing(name, *values):
    """Accepted at these values, and the answer stays the same."""

    def check(r):
        for value in values:
            assert r.text(seed=8, **{name: value}) == r.text(seed=8), (name, value)

    return check


def ignored(name):
    return nothing(name, "a", 5, True, None, [1], {"a": {"b": []}})


BOOLEANS = (1, 0, "true", [], {})
TEXTS = (5, True, [], {})
SHARED = {
    "model": (model, TEXTS),
    "max_tokens": (max_tokens, (-1, 2049, 2**31, 2**63, 1.5) + NUMBERS),
    "min_tokens": (min_tokens, (-1, 9, 1.5) + NUMBERS),  # at most max_tokens
    "n": (n, (0, 17, 1.5) + NUMBERS),
    "temperature": (temperature, (-0.1, 100.1) + NUMBERS),
    "top_p": (only_the_best(top_p=1e-9), (0, -1, 1.1) + NUMBERS),
    "top_k": (top_k, (-2, 4097, 1.5) + NUMBERS),
    "min_p": (only_the_best(min_p=1), (-0.1, 1.1) + NUMBERS),
    "presence_penalty": (penalty("presence_penalty", 2), (-2.1, 2.1) + NUMBERS),
    "frequency_penalty": (penalty("frequency_penalty", 2), (-2.1, 2.1) + NUMBERS),
    "repetition_penalty": (penalty("repetition_penalty", 1.8), (0, -1, 100.1) + NUMBERS),
    "logit_bias": (logit_bias, ({"4096": 1}, {"-1": 1}, {"x": 1}, {"1": 101}, {"1": "2"}, [], "x", 5)),
    "seed": (seed, (2**63, -2**63 - 1, 1.5) + NUMBERS),
    "stop": (stop, (["a"] * 17, "", [""], "x" * 1025, [1], 5, {}, True)),
    "stop_token_ids": (stop_token_ids, (1, "a", [1.5], [-1], [4096], ["1"], [1] * 65, {})),
    "ignore_eos": (ignore_eos, BOOLEANS),
    "return_token_ids": (return_token_ids, BOOLEANS),
    "stream": (stream, BOOLEANS),
    "stream_options": (stream_options, ({"include_usage": True}, 5, "x", [], True)),  # without "stream": true
    "attention": (attention, ("nothing", 5, True, [])),
    # refused where they ask for something
    "best_of": (nothing("best_of", 1, None), (0, 2, 16, "1", True)),
    "suffix": (nothing("suffix", None), ("", "x", 5)),
    "prompt_logprobs": (nothing("prompt_logprobs", None), (0, 1, 5)),
    "tools": (nothing("tools", None, []), ([{"type": "function"}], "x", 5)),
    "tool_choice": (nothing("tool_choice", None, "none", "auto"), ("required", {"type": "function"}, 5)),
    "response_format": (nothing("response_format", None, {"type": "text"}), ({"type": "json_object"}, {"type": "json_schema"}, {}, "text", 5)),
    "cache_salt": (nothing("cache_salt", "a", "b", None), TEXTS),
}  # fmt: skip
SHARED.update({name: (ignored(name), ()) for name in IGNORED})
COMPLETIONS = dict(SHARED, **{
    "prompt": (prompt, (5, True, {}, [], [[]], [1, "a"], ["a", 1], [[1], 2], [-1], [4096], [1.5], [None])),
    "logprobs": (logprobs, (-1, 21, 1.5) + NUMBERS),
    "echo": (echo, BOOLEANS),
    "add_special_tokens": (add_special_tokens, BOOLEANS),
})  # fmt: skip
CHAT = dict(SHARED, **{
    "messages": (messages, ([], "x", {}, [1], [{}], [{"role": "user"}], [{"role": "tool", "content": "x"}], [{"role": "x", "content": "x"}],
                            [{"role": "user", "content": 5}], [{"role": "user", "content": [{"type": "image_url"}]}], None)),
    "max_completion_tokens": (max_completion_tokens, (-1, 2049, 1.5) + NUMBERS),
    "logprobs": (chat_logprobs, BOOLEANS + (3,)),
    "top_logprobs": (top_logprobs, (-1, 21, 1.5) + NUMBERS),
})  # fmt: skip


def documented(title):
    """Members in the table below a heading of server/README.md."""
    with open(os.path.join(harness.ROOT, "server", "README.md"), encoding="utf-8") as file:
        section = file.read().split("## %s\n" % title, 1)[1].split("\n## ", 1)[0]
    return {name for row in re.findall(r"^\| (`\w+`[^|]*) \|", section, re.M) for name in re.findall(r"`(\w+)`", row)}


def test_tables_are_whole(server):
    own = documented("POST /v1/completions")
    assert len(own) > 20 and not own - COMPLETIONS.keys(), own - COMPLETIONS.keys()
    in_chat = (own - {"prompt", "echo", "add_special_tokens"}) | documented("POST /v1/chat/completions")
    assert not in_chat - CHAT.keys(), in_chat - CHAT.keys()
    assert not COMPLETIONS.keys() - own - {"best_of", "suffix", "prompt_logprobs", "tools", "tool_choice", "response_format",
                                           "cache_salt"} - set(IGNORED)  # fmt: skip


def check(route, table):
    for name, (effect, bad) in table.items():
        try:
            effect(route)
        except AssertionError as error:
            raise AssertionError("%s of %s has another effect" % (name, route.path)) from error
        for value in bad:
            reply = route.post(**{name: value})
            assert reply.status == 400, (name, value, reply)
            error = reply.error()
            assert error["param"].split(".")[0] == name and name in error["message"], (name, value, error)
            assert error["type"] == "invalid_request_error" and error["code"] == 400, (name, value, error)


def test_completions(server):
    check(Route(server, "/v1/completions", dict(prompt=PROMPT, max_tokens=8)), COMPLETIONS)


def test_chat(server):
    check(Route(server, "/v1/chat/completions", dict(messages=[{"role": "user", "content": PROMPT}], max_tokens=8)), CHAT)


with harness.Server("--chat-template", "plain") as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
