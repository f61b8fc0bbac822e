"""The rows of checks/hostile.py: what hostile clients send, and what must come back.

A row is sent on a connection of its own. `statuses` are the statuses that its replies may have, in order: [400] is one
reply and nothing else; a set in the list names alternatives. `param` is what the error must name (None: anything).
Everything is generated from limits that the server itself states (/v1/limits, /v1/attention/backends, /openapi.json),
so that a new parameter or route gets its rows. Heads of requests: head_rows.py; ill-formed JSON: json_rows.py.
"""
import collections
import json
import struct

from head_rows import EARLY, HOST, JSON, LENIENT, POST, SECOND, SMUGGLED
from json_rows import REFUSED, TAKEN

Row = collections.namedtuple("Row", "group name send statuses param closed")
CAPTURES = "/v1/attention/captures"
TEXT = "It is a truth universally acknowledged, that a single man"


def post(path, body, headers=None):
    def send(server):
        return [server.post(path, body, headers)], True

    return send


def get(path, method="GET", headers=None):
    return lambda server: ([server.request(method, path, headers=headers)], True)


def raw(data, replies=0):
    """replies: so many come and the connection stays open; 0: it is closed."""
    return lambda server: server.raw(data, timeout=0.5 if replies else 60.0, wanted=replies)


def row(group, name, send, statuses, param=None, closed=None):
    return Row(group, name, send, statuses if isinstance(statuses, list) else [statuses], param, closed)


def spelled(base, **members):
    """A JSON object of `base` and of members whose values are given as text."""
    inner = json.dumps(base)[1:-1]
    more = ", ".join("%s: %s" % (json.dumps(k), v) for k, v in members.items())
    return ("{" + inner + (", " if inner else "") + more + "}").encode()


# --- numbers ---
NOT_NUMBERS = ['"1"', "[]", "{}", "true", "false", '""', "[1]"]
NOT_JSON = ["NaN", "-Infinity", "1e999", "01", "+1", "1.", "0x1", "--1"]


def step(x, whole):
    return 1 if whole else max(abs(x) * 1e-6, 1e-6)


def numeric(group, path, base, field, low, high, whole, good=200, name=None, open_low=False, inside=None, headers=None):
    """The rows of one numeric member. `inside(text)`: how the value stands in the request, by default as the member."""
    name = name or field
    put = inside or (lambda text: spelled(base, **{field: text}))
    bad = [low - step(low, whole), high + step(high, whole), 2**64 if whole else 1e300, -1e300]
    bad += [low] if open_low else []
    taken = [high] + ([] if open_low else [low])
    rows = []

    def one(text, statuses, param):
        rows.append(row(group, "%s %s=%s" % (path, name, text), post(path, put(text), headers), statuses, param))

    for value in bad:
        one(repr(int(value) if whole else value), 400, name)
    for value in taken:
        one(repr(int(value) if whole else value), good, None)
        if whole and abs(value) < 2**53:
            one("%d.0" % value, good, None)
    if whole:
        for text in ("1.5", "1e-1", "0.9999999999999999"):
            one(text, 400, name)
        one("9007199254740993" if high < 2**53 else "1e30", 400, name)
    for text in NOT_NUMBERS:
        one(text, 400, name)
    for text in NOT_JSON:
        one(text, 400, None)
    one("null", 200 if isinstance(good, int) else good, None)
    if not whole:
        one("1e-400", 400 if open_low or low > 0 else good, None)
        one("-0.0", 400 if open_low or low > 0 else good, None)
    return rows


def field_rows(limits, vocab):
    context = limits["context"]
    short = {"prompt": [5, 6, 7], "max_tokens": 1, "seed": 1}
    chat = {"messages": [{"role": "user", "content": "Emma"}], "max_completion_tokens": 1, "seed": 1}
    completions, chats = "/v1/completions", "/v1/chat/completions"
    rows = []
    for path, base in ((completions, short), (chats, chat)):
        for field, low, high, open_low in (("temperature", 0, 100, False), ("top_p", 0, 1, True), ("min_p", 0, 1, False),
                                           ("presence_penalty", -2, 2, False), ("frequency_penalty", -2, 2, False),
                                           ("repetition_penalty", 0, 100, True)):  # fmt: skip
            rows += numeric("fields", path, base, field, low, high, False, open_low=open_low)
        rows += numeric("fields", path, base, "top_k", -1, vocab, True)
        rows += numeric("fields", path, base, "n", 1, 16, True)
        rows += numeric("fields", path, base, "min_tokens", 0, 1, True)
        without = {k: v for k, v in base.items() if k != "seed"}
        rows += numeric("fields", path, without, "seed", -2**63, 2**63 - 1, True)
    without = {"prompt": [5, 6, 7], "stop_token_ids": list(range(vocab))[:64], "logit_bias": {"1": 100}}
    rows += numeric("fields", completions, without, "max_tokens", 0, context - 3, True)
    rows += numeric("fields", completions, short, "logprobs", 0, 20, True)
    rows += numeric("fields", completions, short, "best_of", 1, 1, True)
    rows += numeric("fields", chats, dict(chat, logprobs=True), "top_logprobs", 0, 20, True)
    rows += numeric("fields", "/v1/score", {"input": [5, 6, 7]}, "min_context", 0, context, True)
    for path, field in ((completions, "prompt"), ("/v1/score", "input"), ("/v1/embeddings", "input"), (CAPTURES, "input"),
                        ("/detokenize", "tokens")):  # fmt: skip
        good = 201 if path == CAPTURES else 200
        for text, status in (("0", good), (str(vocab - 1), good), (str(vocab), 400), ("-1", 400), ("1.0", good), ("1.5", 400),
                             ('"1"', 400), ("null", 400), ("true", 400), ("[]", 400), ("{}", 400), ("2147483648", 400),
                             ("4294967301", 400), ("1e300", 400), ("NaN", 400), ("18446744073709551621", 400)):  # fmt: skip
            base = {"max_tokens": 1} if path == completions else {}
            rows.append(row("ids", "%s %s=[5,%s]" % (path, field, text), post(path, spelled(base, **{field: "[5,%s]" % text})), status,
                            None if status != 400 or text == "NaN" else field))  # fmt: skip
    return rows


def list_rows(limits, vocab):
    """Lengths of lists and texts: at their limit and one beyond."""
    completions = "/v1/completions"
    base = {"prompt": "a", "max_tokens": 1}
    wide = {str(i): 0.5 for i in range(1025)}
    table = [
        ("stop", [], 200), ("stop", ["a"] * 16, 200), ("stop", ["a"] * 17, 400), ("stop", ["a"] * 100000, 400),
        ("stop", "", 400), ("stop", [""], 400), ("stop", "x" * 1024, 200), ("stop", "x" * 1025, 400), ("stop", ["x" * 1024] * 16, 200),
        ("stop", "\u00e9" * 512, 200), ("stop", "\u00e9" * 512 + "x", 400), ("stop", ["a", None], 400), ("stop", [["a"]], 400),
        ("stop", {"a": 1}, 400), ("stop", 1, 400), ("stop", "\0", 200), ("stop", "\ufffd", 200), ("stop", [True], 400),
        ("logit_bias", {}, 200), ("logit_bias", dict(list(wide.items())[:1024]), 200), ("logit_bias", wide, 400),
        ("logit_bias", {"0": -100}, 200), ("logit_bias", {"0": 100}, 200), ("logit_bias", {"0": -100.001}, 400),
        ("logit_bias", {"0": 100.001}, 400), ("logit_bias", {str(vocab - 1): 1}, 200), ("logit_bias", {str(vocab): 1}, 400),
        ("logit_bias", {"-1": 1}, 400), ("logit_bias", {"": 1}, 400), ("logit_bias", {"1.0": 1}, 400), ("logit_bias", {"01": 1}, 400),
        ("logit_bias", {" 1": 1}, 400), ("logit_bias", {"1e1": 1}, 400), ("logit_bias", {"4294967296": 1}, 400),
        ("logit_bias", {"18446744073709551617": 1}, 400), ("logit_bias", {"1": None}, 400), ("logit_bias", {"1": "1"}, 400),
        ("logit_bias", {"1": True}, 400), ("logit_bias", {"1": [1]}, 400), ("logit_bias", [1], 400), ("logit_bias", "1", 400),
        ("stop_token_ids", list(range(64)), 200), ("stop_token_ids", list(range(65)), 400), ("stop_token_ids", [vocab], 400),
        ("stop_token_ids", [-1], 400), ("stop_token_ids", [None], 400), ("stop_token_ids", [2**31], 400), ("stop_token_ids", [2**32], 400),
        ("prompt", ["a"] * 128, 200), ("prompt", ["a"] * 129, 400), ("prompt", [[5]] * 129, 400), ("prompt", [], 400), ("prompt", [[]], 400),
        ("prompt", [[5], "a"], 400), ("prompt", ["a", [5]], 400), ("prompt", [5, [6]], 400), ("prompt", [[[5]]], 400), ("prompt", {}, 400),
        ("prompt", "", 200), ("prompt", ["a", ""], 200), ("prompt", None, 400), ("prompt", True, 400),
        ("prompt", "\0", 200), ("prompt", "a\0b", 200), ("prompt", "\u202e\ufeff\U0010ffff", 200), ("prompt", "\n" * 500, 200),
        ("prompt", "A" * 20000, 400), ("prompt", [5] * (limits["context"] + 1), 400), ("prompt", [5] * (limits["context"] - 1), 200),
        ("model", "", 404), ("model", "x" * 100000, 404), ("model", "../../etc/passwd", 404), ("model", "austen\0", 404),
        ("model", "austen:", 404), ("model", "austen:nobody", 404), ("model", "austen\n", 404), ("model", 5, 400),
        ("cache_salt", "x" * 100000, {200, 400}), ("user", "x" * 100000, 200), ("n", 3, 200), ("suffix", "x", 400), ("best_of", 2, 400),
        ("tools", [{}], 400), ("tool_choice", "required", 400), ("response_format", {"type": "json_object"}, 400),
        ("stream_options", {"include_usage": True}, 400), ("echo", "true", 400), ("stream", 1, 400), ("ignore_eos", "x", 400),
    ]  # fmt: skip
    rows = []
    for field, value, status in table:
        shown = json.dumps(value)
        shown = shown if len(shown) < 40 else "%s.. (%d)" % (shown[:30], len(shown))
        param = field if status in (400, 404) else None
        rows.append(row("lists", "%s=%s" % (field, shown), post(completions, dict(base, **{field: value})), status, param))
    for prompts, n, status in ((16, 16, 200), (17, 16, 400), (128, 2, 200), (128, 3, 400)):
        rows.append(row("lists", "%d prompts, n=%d" % (prompts, n),
                        post(completions, {"prompt": ["a"] * prompts, "n": n, "max_tokens": 1}), status))  # fmt: skip
    messages = [[], {}, "x", None, [None], [5], [[]], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": "tool", "content": "x"}],
                [{"role": "function", "content": "x"}], [{"role": None, "content": "x"}], [{"role": "user", "content": 5}],
                [{"role": "user", "content": {}}], [{"role": "user", "content": [5]}], [{"role": "user", "content": [{"type": "text"}]}],
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
                [{"role": "user", "content": [{"type": "text", "text": 5}]}], [{"role": "x" * 5000, "content": "x"}]]  # fmt: skip
    for value in messages:
        rows.append(row("lists", "messages=%s" % json.dumps(value)[:60], post("/v1/chat/completions", {"messages": value, "max_tokens": 1}),
                        400, "messages"))  # fmt: skip
    rows.append(row("lists", "2,000 messages", post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}] * 2000}), 400))
    return rows


def route_rows(limits):
    """Bodies of the other routes: missing, of another kind, too many, unknown members where these are refused."""
    rows = []
    many = ["a"] * 129
    tables = {
        "/v1/score": [({}, 400, "input"), ({"input": []}, 400, "input"), ({"input": many}, 400, "input"), ({"input": 5}, 400, "input"),
                      ({"input": "a", "x": 1}, 400, "x"), ({"input": "a", "max_tokens": 1}, 400, "max_tokens"), ({"input": [5] * 5000}, 400, None),
                      ({"input": "a", "attention": {"capture": True}}, 400, "attention.capture"), ({"input": "a", "model": "b"}, 404, "model"),
                      ({"input": ["a", 5]}, 400, "input"), ({"input": [[5], "a"]}, 400, "input"), ({"input": [[]]}, 400, "input")],
        "/v1/embeddings": [({}, 400, "input"), ({"input": []}, 400, "input"), ({"input": many}, 400, "input"), ({"input": {}}, 400, "input"),
                           ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"), ({"input": "a", "pooling": "max"}, 400, "pooling"),
                           ({"input": "a", "normalize": 1}, 400, "normalize"), ({"input": "a", "dimensions": 0}, 400, "dimensions"),
                           ({"input": "a", "dimensions": 65536}, 400, "dimensions"), ({"input": "a", "dimensions": -1}, 400, "dimensions"),
                           ({"input": "a", "dimensions": 1}, 200, None), ({"input": "a", "dimensions": 1.5}, 400, "dimensions"),
                           ({"input": "a", "dimensions": "1"}, 400, "dimensions"), ({"input": "a" * 200000}, 400, None)],
        "/tokenize": [({}, 400, None), ({"prompt": "a", "content": "b"}, 400, None), ({"prompt": 5}, 400, "prompt"), ({"content": None}, 400, None),
                      ({"inputs": many}, 400, "inputs"), ({"inputs": [5]}, 400, "inputs"), ({"prompt": "a", "add_special_tokens": 1}, 400, "add_special_tokens"),
                      ({"prompt": ""}, 200, None), ({"prompt": "\0" * 1000}, 200, None), ({"prompt": "A" * 1000000}, 200, None),
                      ({"prompt": "\u0301" * 50000}, 200, None), ({"prompt": "<|endoftext|>" * 1000}, 200, None)],
        "/detokenize": [({}, 400, "tokens"), ({"tokens": 5}, 400, "tokens"), ({"tokens": "5"}, 400, "tokens"), ({"tokens": []}, 200, None),
                        ({"tokens": [5] * 100000}, {200, 400}, None), ({"tokens": [[5]]}, 400, "tokens")],
        CAPTURES: [({}, 400, "input"), ({"input": []}, 400, "input"), ({"input": 5}, 400, "input"), ({"input": ["a"]}, 400, "input"),
                   ({"input": "a", "x": 1}, 400, "x"), ({"input": "a", "pair": "b"}, 400, "pair"), ({"input": "a", "target": "b"}, 400, "target"),
                   ({"input": [5] * 1900}, 413, "layers"), ({"input": [5] * 100000}, 400, None), ({"input": "a", "layers": [99]}, 400, "layers"),
                   ({"input": "a", "layers": [0] * 100000}, {201, 400}, None), ({"input": "a", "layers": []}, 400, "layers"),
                   ({"input": "a", "layers": "0"}, 400, "layers"), ({"input": "a", "layers": [1.5]}, 400, "layers"),
                   ({"input": "a", "heads": [-1]}, 400, "heads"), ({"input": "a", "heads": [2**32]}, 400, "heads"),
                   ({"input": "a", "heads": {}}, 400, "heads"), ({"input": "a", "labels": []}, 400, "labels"),
                   ({"input": "a", "labels": {"x": "y"}}, 400, "labels.x"), ({"input": "a", "labels": {"x": ["y"] * 1000}}, 400, "labels.x"),
                   ({"input": "a", "labels": {"x": [None]}}, 400, "labels.x"), ({"input": "a", "labels": {str(i): ["y"] for i in range(100)}}, 400, "labels"),
                   ({"input": "a", "gold": 5}, 400, "gold"), ({"input": "a", "gold": {"normalizer": "x"}}, 400, "gold.normalizer"),
                   ({"input": "a", "gold": {"normalizer": {"alpha": 1}}}, 400, "gold.normalizer"),
                   ({"input": "a", "gold": {"normalizer": {"alpha": 1e300}}}, 400, "gold.normalizer"),
                   ({"input": "a", "gold": {"normalizer": "softmax", "x": 1}}, 400, "gold"), ({"input": "a", "attention": {"capture": True}}, 400, "attention.capture")],
    }  # fmt: skip
    for path, table in tables.items():
        for body, status, param in table:
            shown = json.dumps(body)
            shown = shown if len(shown) < 60 else "%s.. (%d)" % (shown[:50], len(shown))
            rows.append(row("routes", "%s %s" % (path, shown), post(path, body), status, param))
    soft = {"input": "a"}
    for name, low, high, whole, open_low in (("mass", 0, 1, False, True), ("min_weight", 0, 1, False, True), ("top_k", 1, 16777216, True, False)):
        rows += numeric("routes", CAPTURES, soft, "gold", low, high, whole, good=201, name="gold." + name, open_low=open_low,
                        inside=lambda text, name=name: spelled(soft, gold='{"normalizer": "softmax", "%s": %s}' % (name, text)))  # fmt: skip
    return [r for r in rows if not r.name.endswith("=null") or r.group != "routes"]


def attention_rows(backends):
    """The attention object: each parameter of each backend at and beyond its range, unknown and ill-typed members."""
    base, path, rows = {"prompt": TEXT, "max_tokens": 2, "seed": 1}, "/v1/completions", []

    def one(text, status, param):
        rows.append(row("attention", text[:80], post(path, spelled(base, attention=text)), status, param))

    for backend in backends:
        name = backend["name"]
        for p in backend["params"]:
            where = "attention.params." + p["name"]
            put = '{"backend": "%s", "params": {"%s": %%s}}' % (name, p["name"])
            if p["type"] in ("integer", "number") and p["min"] is not None:
                whole = p["type"] == "integer"
                for value in (p["min"] - step(p["min"], whole), p["max"] + (step(p["max"], whole))):
                    one(put % repr(int(value) if whole else value), 400, where)
                for value in (p["min"], p["max"]):
                    one(put % repr(int(value) if whole else value), {200, 400}, None)  # some exclude each other
                for text in ('"1"', "[]", "{}", "true") + (("1.5", "1e30") if whole else ("1e300", "-1e300")):
                    one(put % text, 400, where)
                one(put % "NaN", 400, None)
            elif p["values"]:
                for text in ('"nothing"', "5", "[]", "true", '""'):
                    one(put % text, 400, where)
        one('{"backend": "%s", "params": {"nothing": 1}}' % name, 400, "attention.params.nothing")
    for text, param in (('"nothing"', "attention"), ('""', "attention"), ("5", "attention"), ("[]", "attention"), ("true", "attention"),
                        ('{"backend": 5}', "attention.backend"), ('{"backend": "nothing"}', "attention.backend"),
                        ('{"backend": "dense", "x": 1}', "attention.x"), ('{"backend": "dense", "params": []}', "attention.params"),
                        ('{"backend": "dense", "normalizer": "x"}', "attention.normalizer"),
                        ('{"backend": "dense", "normalizer": {"alpha": 0.5}}', "attention.normalizer"),
                        ('{"backend": "dense", "normalizer": {"alpha": 2.5}}', "attention.normalizer"),
                        ('{"backend": "dense", "normalizer": 1.5}', "attention.normalizer"), ('{"backend": "dense", "heads": "x"}', "attention.heads"),
                        ('{"backend": "dense", "device": "x"}', "attention.device"), ('{"backend": "dense", "strict": 1}', "attention.strict"),
                        ('{"backend": "dense", "measure": "x"}', "attention.measure"), ('{"backend": "dense", "capture": 5}', "attention.capture"),
                        ('{"backend": "dense", "capture": {"layers": [99]}}', "attention.capture.layers"),
                        ('{"backend": "dense", "capture": {"heads": []}}', "attention.capture.heads"),
                        ('{"backend": "dense", "capture": {"x": 1}}', "attention.capture"), ('{"backend": "dense", "decode": {"backend": "nothing"}}', None),
                        ('{"backend": "dense", "decode": 5}', None)):  # fmt: skip
        one(text, 400, None if param is None else (param, "attention", "attention.backend", param.rsplit(".", 1)[0], param + ".alpha", param + ".x"))
    return rows


def graph_rows(capture):
    """Queries below one capture of a few tokens: every parameter at and beyond its range, every part of its path."""
    n, layers, heads = capture["n_query"], len(capture["layers"]), len(capture["heads"])
    at, rows = CAPTURES + "/" + capture["id"], []

    def one(tail, status, param=None):
        rows.append(row("graph", tail[:90], get(at + tail), status, param))

    edges = "/heads/0/0/edges"
    for text in ("a", "-1", "1e9", "99999999999999999999", "%00", "0x0", "1.0", "", "+1", str(layers)):
        one("/heads/%s/0/edges" % text, {400, 404})
        one("/heads/0/%s/edges" % (text if text != str(layers) else heads), {400, 404})
        one("/heads/0/0/rows/%s" % (text if text != str(layers) else n), {400, 404})
        one("/heads/0/0/cols/%s" % (text if text != str(layers) else n), {400, 404})
        one("/heads/0/0/tiles/%s/0/0" % (text if text != str(layers) else 40), {400, 404})
        one("/heads/0/0/tiles/0/%s/0" % (text if text != str(layers) else 1), {400, 404})
        one("/heads/0/0/tiles/0/0/%s" % (text if text != str(layers) else 1), {400, 404})
        one("/overview?layer=%s" % (text if text != "%00" else "x"), {400, 404})
    for text in ("", "a", "-1", "0", "1.5", "1e3", "4294967296", "99999999999999999999", "+1", "%31%00"):
        one(edges + "?limit=" + text, 400, "limit")
    one(edges + "?limit=4294967295", 200)
    one(edges + "?limit=1", 200)
    for name in ("rows", "cols"):
        for text in ("", ":", "0:", ":1", "1:0", "0:0", "0:%d" % (n + 1), "-1:2", "0:1:2", "a:b", "0:99999999999999999999", "0-1", "1"):
            one(edges + "?%s=%s" % (name, text), 400, name)
        one(edges + "?%s=0:%d" % (name, n), 200)
        one(edges + "?%s=%d:%d" % (name, n - 1, n), 200)
    for text in ("", "a", "-1", "1.5", "4294967296", "1e2"):
        one(edges + "?top_k=" + text, 400, "top_k")
    for name in ("min_weight", "mass"):
        for text in ("", "a", "-0.1", "1.1", "nan", "inf", "1e999", "0x1", "1,5", "1e-400x"):
            one(edges + "?%s=%s" % (name, text), 400, name)
        for text in ("0", "1", "0.5", "1e-400", "%2B0.5"):
            one(edges + "?%s=%s" % (name, text), 200)
    for name, text in (("graph", "nothing"), ("graph", ""), ("weights", "f16"), ("format", "xml"), ("cursor", "x"), ("cursor", "0" * 24),
                       ("cursor", "f" * 24), ("cursor", "0" * 1900), ("nothing", "1"), ("from", "1")):  # fmt: skip
        one(edges + "?%s=%s" % (name, text), 400, name)
    for tail, status, param in (
        ("?x=1", 400, "x"), ("/", {400, 404}, None), ("/nothing", 404, None), ("/heads/0", 404, None), ("/heads/0/0", 404, None),
        ("/heads/0/0/edges/1", 404, None), ("/../" + capture["id"], 400, None), ("/tokens?from=5&to=2", 400, None), ("/tokens?to=%d" % (n + 1), 400, "to"),
        ("/tokens?from=x", 400, "from"), ("/tokens?layer=0", {400, 200}, None), ("/tokens?q=%ff", {200, 400}, None), ("/heads?sort=nothing", 400, "sort"),
        ("/heads?pattern=nothing", 400, "pattern"), ("/heads?min_recall=x", 400, "min_recall"), ("/heads?max_recall=nan", 400, "max_recall"),
        ("/heads?min_nothing=1", 400, "min_nothing"), ("/heads?layers=", 400, "layers"), ("/heads?layers=0,,1", {400, 404}, "layers"), ("/heads?layers=0,0", 400, "layers"),
        ("/heads?layers=99", 404, "layers"), ("/heads?heads=x", {400, 404}, "heads"), ("/heads?heads=" + ",".join(["0"] * 500), 400, "heads"),
        ("/heads/0/0/tiles/0/0/0?stat=x", 400, "stat"), ("/heads/0/0/tiles/0/0/0?graph=x", 400, "graph"), ("/overview?format=x", 400, "format"),
        ("/overview", {200, 400}, None), ("/aggregate", 400, "op"), ("/aggregate?op=sum", 400, "op"), ("/aggregate?op=mean&limit=0", 400, "limit"),
        ("/aggregate?op=rollout&top_k=-1", 400, "top_k"), ("/aggregate?op=mean&layers=99", 404, "layers"), ("/labels", 404, "labels"), ("/labels?set=none", {400, 404}, None),
        ("/sweeps/x", 404, None), ("/heads/0/0/clusters", 404, None), ("/heads/0/0/clusters/0", 404, None), ("/export", {200, 400}, None),
        ("/export?format=x", 400, "format"), ("/export?format=svg&scale=x", 400, "scale"), ("/export?format=svg&colors=x", 400, "colors"),
        ("/export?format=svg&theme=x", 400, "theme"), ("/export?format=svg&view=x", 400, "view"), ("/export?format=csv", 400, None),
        ("/export?format=csv&layer=0", 400, None), ("/export?format=csv&layer=0&head=99", 404, "head"), ("/export?format=csv&layer=0&head=0&view=lines", 400, None),
        ("/export?format=html&layer=0&head=0&theme=dark", 400, "theme"), ("/export?format=npz&layer=0&head=0&limit=1", 400, "limit"),
        ("/export?format=exbert&rows=0:1", 400, None), ("/export?format=png&layer=0&head=0", 200, None), ("/export?format=%70ng&layer=0&head=0", 200, None),
    ):  # fmt: skip
        one(tail, status, param)
    for name in ("attn-", "attn-unknown", "x" * 500, "%2e%2e", "..", "attn-%0a", "-", "attn-" + "0" * 24):
        rows.append(row("graph", "capture " + name[:20], get(CAPTURES + "/" + name), {400, 404}))
        rows.append(row("graph", "delete " + name[:20], get(CAPTURES + "/" + name, "DELETE"), {400, 404}))
    rows.append(row("graph", "delete a part", get(at + "/heads", "DELETE"), {404, 405}))
    for query, param in (("", "layer"), ("?layer=0&head=0", None), ("?layer=0&head=0&a=x&b=y", None), ("?layer=0&head=0&a=%s" % capture["id"], None), ("?a=%s&b=%s&layer=99&head=0" % ((capture["id"],) * 2), "layer")):
        rows.append(row("graph", "compare" + query[:30], get("/v1/attention/compare" + query), {400, 404}, param))
    for body, param in (({}, "attention"), ({"attention": "nothing", "grid": {}}, None), ({"attention": "window", "grid": []}, "grid"),
                        ({"attention": "window", "grid": {"nothing": [1]}}, None), ({"attention": "window", "grid": {"window": 5}}, None),
                        ({"attention": "window", "grid": {"window": []}}, None), ({"attention": "window", "grid": {"window": list(range(1, 99999, 2))}}, None),
                        ({"attention": "window", "grid": {"window": [9]}, "layers": [99]}, "layers"), ({"attention": "window", "grid": {"window": [9]}, "x": 1}, "x")):  # fmt: skip
        rows.append(row("graph", "sweep %s" % json.dumps(body)[:60], post(at + "/sweep", body), {400, 404, 413}, param))
    return rows


def large_rows(large):
    """A capture of a thousand tokens behind small limits: what is too large is said so before it is made."""
    at = CAPTURES + "/" + large["id"]
    return [row("large", tail, get(at + tail), status, param) for tail, status, param in (
        ("/export?format=bertviz", 413, "format"), ("/export?format=circuitsvis", 413, "format"), ("/export?format=exbert&layer=0", 413, "format"),
        ("/export?format=csv&layer=0&head=0&graph=pred", 413, "rows"), ("/export?format=npz&layer=0&head=0&graph=pred", 413, "rows"),
        ("/export?format=graphml&layer=0&head=0&graph=pred", 413, "rows"), ("/heads/0/0/edges?graph=pred", 200, None),
    )]  # fmt: skip


# --- tensors ---
def tensors(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor_rows(limits):
    def entry(shape, begin, end, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    def body(q=None, k=None, v=None, meta=None, data=b"\0" * 24, **more):
        good = {"q": entry([1, 2, 1], 0, 8), "k": entry([1, 2, 1], 8, 16), "v": entry([1, 2, 1], 16, 24),
                "__metadata__": {"attention": '"dense"', "causal": "true"}}  # fmt: skip
        good.update({name: value for name, value in (("q", q), ("k", k), ("v", v), ("__metadata__", meta)) if value is not None})
        return tensors(dict(good, **more), data)

    nan, inf = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
    table = {
        "good": (body(), 200), "empty": (b"", 400), "7 bytes": (b"\0" * 7, 400), "no header": (tensors(b""), 400), "header {}": (tensors({}), 400),
        "size 2^64-1": (tensors(b"{}", size=2**64 - 1), 400), "size beyond": (tensors(b"{}", size=3), 400), "no object": (tensors([]), 400),
        "no JSON": (tensors(b"{nothing"), 400), "depth": (tensors(b"[" * 100000), 400), "offsets swapped": (body(q=entry([1, 2, 1], 8, 0)), 400),
        "offset beyond": (body(v=entry([1, 2, 1], 16, 2**63)), 400), "offset negative": (body(q=entry([1, 2, 1], -8, 0)), 400),
        "overlap": (body(k=entry([1, 2, 1], 0, 8)), 400), "hole": (body(v=entry([1, 2, 1], 20, 28), data=b"\0" * 28), 400),
        "trailing": (body(data=b"\0" * 25), 400), "cut": (body(data=b"\0" * 23), 400), "shape product": (body(q=entry([2**32, 2**32, 1], 0, 8)), 400),
        "shape 2^63": (body(q=entry([2**63], 0, 8)), 400), "shape zero": (body(q=entry([0, 2, 1], 0, 0)), 400), "shape text": (body(q=entry(["1", 2, 1], 0, 8)), 400),
        "shape rank 0": (body(q=entry([], 0, 4)), 400), "shape rank 9": (body(q=entry([1] * 7 + [2, 1], 0, 8)), 400), "shapes differ": (body(k=entry([1, 1, 2], 8, 16)), 400),
        "dtype": (body(q=entry([1, 2, 1], 0, 8, "F128")), 400), "dtype I32": (body(q=entry([1, 2, 1], 0, 8, "I32")), 400), "dtype number": (body(q=entry([1, 2, 1], 0, 8, 5)), 400),
        "entry text": (body(q="x"), 400), "entry null": (tensors(b'{"q":null}'), 400), "no offsets": (tensors({"q": {"dtype": "F32", "shape": [1]}}), 400),
        "three offsets": (body(q={"dtype": "F32", "shape": [1, 2, 1], "data_offsets": [0, 4, 8]}), 400), "duplicate": (tensors(b'{"q":1,"q":2}'), 400),
        "metadata": (body(meta={"attention": 5}), 400), "metadata list": (body(meta=[1]), 400), "attention": (body(meta={"attention": '"nothing"'}), 400),
        "attention text": (body(meta={"attention": "{"}), 400), "causal": (body(meta={"attention": '"dense"', "causal": "maybe"}), 400),
"unknown tensor": (body(x=entry([1], 24, 28), data=b"\0" * 28), {200, 400}),
        "NaN": (body(data=nan * 6), {200, 400}), "Inf": (body(data=inf * 6), {200, 400}), "10,000 tensors": (tensors({"t%d" % i: entry([0], 0, 0) for i in range(10000)}), 400),
        "name of 1 MB": (tensors({"x" * 1000000: entry([0], 0, 0)}), 400), "invalid UTF-8": (tensors(b'{"\xff":1}'), 400),
    }  # fmt: skip
    for key, good, bad in (("valid", ("2", "1"), ("-1", "3", "x", "", "1.5", "99999999999999999999")), ("valid_q", ("2", "0"), ("-1", "3", "x")),
                           ("offset", ("0", "1"), ("-1", "x", "1e3", "99999999999999999999")), ("scale", ("1", "-1", "0.5"), ("nan", "inf", "x", "", "1e999")),
                           ("layer", ("0",), ("-1", "x", "99999999999999999999")), ("kind", ("self", "cross", "encoder"), ("x", "")),
                           ("edges", ("csr", "none"), ("x", "")), ("causal", ("true", "false"), ("1", "True", ""))):  # fmt: skip
        for text in good + bad:
            table["%s %r" % (key, text)] = (body(meta={"attention": '"dense"', key: text}), 200 if text in good else 400)
    octets = {"Content-Type": "application/octet-stream"}
    rows = [row("tensors", name, post("/v1/attention/apply", data, octets), status) for name, (data, status) in table.items()]
    for query, param in (("?metrics=1", "metrics"), ("?metrics=", "metrics"), ("?x=true", "x"), ("?metrics=true&metrics=x", None)):
        rows.append(row("tensors", "query " + query, post("/v1/attention/apply" + query, body(), octets), {200, 400} if param is None else 400, param))
    rows.append(row("tensors", "JSON", post("/v1/attention/apply", {}), 415))
    too_long = b"POST /v1/attention/apply HTTP/1.1\r\n" + HOST + b"Content-Type: application/octet-stream\r\n"
    rows.append(row("tensors", "length", raw(too_long + b"Content-Length: %d\r\n\r\n" % (limits["max_tensor_bytes"] + 1) + SECOND), 413, closed=True))
    return rows


# --- HTTP ---
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "get", "PROPFIND")


def http_rows(paths, limits):
    """Every route by every method that it has not; paths that are none; media types; sizes; lengths."""
    rows = []
    for path, methods in paths.items():
        known = {m.upper() for m in methods}
        known |= {"HEAD"} if "GET" in known else set()
        known |= {"DELETE", "GET", "HEAD"} if path.startswith(CAPTURES + "/{id}") else set()
        where = path.replace("{model}", "austen").replace("{id}", "x")
        if "{" in where:
            continue
        rows += [row("methods", "%s %s" % (m, path), get(where, m), [{404, 405}] if "{id}" in path else 405) for m in METHODS if m not in known]
    for path in ("/", "//", "/v1", "/v1/", "/v1/completions/", "/V1/completions", "/v1//completions", "/admin", "/.env", "/.git/config", "/index.html",
                 "/v1/completions.json", "/api/generate", "/invocations", "/pause", "/v1/engines", "/v1/files", "/v1/attention", "/v1/attention/",
                 "/health/", "/healthz", "/metrics/", "/v2/models/austen/infer", "/v1/models/", "/v1/requests/", "*", "/" + "a" * 2000):  # fmt: skip
        rows.append(row("paths", "GET %s" % path[:40], get(path), [{400, 404}]))
        rows.append(row("paths", "POST %s" % path[:40], post(path, {}), [{400, 404}]))
    for path in ("/%00", "/v1/models/%2e%2e", "/v1/models/..%2f..%2fetc%2fpasswd", "/..%5c..", "/%", "/%g0", "/%ff%fe", "/%c0%af", "/%ed%a0%80", "/a%0d%0aX:y",
                 "/%7f", "/v1/models/%252e%252e"):  # fmt: skip
        rows.append(row("paths", "GET %s" % path, get(path), [{400, 404}]))
    for kind in (None, "", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp",
                 "application/json/x", "application/octet-stream", "application/xml", "application", "json", "application/json, text/plain",
                 "application/ json", "x" * 2000):  # fmt: skip
        rows.append(row("types", "Content-Type %.40r" % kind, post("/v1/completions", {"prompt": "a", "max_tokens": 1}, {"Content-Type": kind}), 415))
    for kind in ("application/json", "Application/JSON", "application/json;charset=utf-8", "application/json ; x=y", "application/json;"):
        rows.append(row("types", "Content-Type %r" % kind, post("/v1/completions", {"prompt": "a", "max_tokens": 1}, {"Content-Type": kind}), 200))
    for coding in ("gzip", "br", "deflate, gzip", "x", ""):
        rows.append(row("types", "Content-Encoding %r" % coding, post("/v1/completions", {"prompt": "a", "max_tokens": 1}, {"Content-Encoding": coding}), 415))
    head = POST + HOST + JSON
    most = limits["max_body_bytes"]
    good = b'{"prompt":"a","max_tokens":1,"user":"%s"}'
    fit = good % (b"x" * (most - len(good) + 2))
    chunked = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    sizes = {
        "no length": (POST + HOST + JSON + b"Connection: close\r\n\r\n", 411), "body at the limit": (head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % most + fit, 200),
        "one byte more": (head + b"Content-Length: %d\r\n\r\n" % (most + 1) + fit + b" ", 413), "a length of 2^62": (head + b"Content-Length: %d\r\n\r\n" % 2**62 + SECOND, 413),
        "a length of 10^19 - 1": (head + b"Content-Length: 9999999999999999999\r\n\r\n" + SECOND, 413), "chunked at the limit": (chunked + b"%x\r\n" % most + fit + b"\r\n0\r\n\r\n", 200),
        "chunk extension": (chunked + b"1d;ext=1;x\r\n" + b'{"prompt":"a","max_tokens":1}' + b"\r\n0\r\n\r\n", 200),
        "chunked, a byte more": (chunked + b"%x\r\n" % (most + 1) + fit + b" \r\n0\r\n\r\n", 413), "chunks without end": (chunked + (b"400\r\n" + b"x" * 1024 + b"\r\n") * (most // 1024 + 2), 413),
        "one-byte chunks": (chunked + b"".join(b"1\r\n%c\r\n" % c for c in b'{"prompt":"a","max_tokens":1}') + b"0\r\n\r\n", 200),
        "one-byte chunks of nothing": (chunked + b"1\r\nx\r\n" * 20000 + b"0\r\n\r\n", 400), "trailers": (chunked + b"1e\r\n" + b'{"prompt":"a","max_tokens":1}\n' + b"\r\n0\r\nX: y\r\nHost: evil\r\n\r\n", 200),
        "body cut by the client": (head + b"Content-Length: 100\r\n\r\n{", 408), "length 2^63": (head + b"Content-Length: 9223372036854775808\r\n\r\n" + SECOND, 413),
        "head never ends": (POST + HOST + JSON, 408), "nothing is said": (b"\r\n", 408), "chunk never ends": (chunked + b"ff\r\nx", 408),
    }  # fmt: skip
    rows += [row("sizes", name, raw(data), status, closed=True) for name, (data, status) in sizes.items()]
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.x", "localhost:x", "localhost:80:80", "[::1", "0.0.0.0", "127.1", "localhost ", "", "a" * 500,
                 "user@localhost", "localhost/", "\xe9"):  # fmt: skip
        rows.append(row("hosts", "Host %.30r" % host, get("/health", headers={"Host": host}), [{200, 403} if host == "localhost " else {400, 403}]))
    return rows


def head_rows():
    rows = [row("smuggling", name, raw(data), 400, closed=True) for name, data in SMUGGLED.items()]
    rows += [row("smuggling", name, raw(data), "early", closed=True) for name, data in EARLY.items()]
    rows += [row("lenient", name, raw(data, len(statuses)), ["lenient"] + statuses, phrase) for name, (phrase, data, statuses) in LENIENT.items()]
    return rows


def json_rows():
    rows = [row("json", name, post("/v1/completions", body), 400) for name, body in REFUSED.items()]
    rows += [row("json", name, post("/v1/completions", body), 200) for name, body in TAKEN.items()]
    for path in ("/v1/chat/completions", "/v1/score", "/v1/embeddings", "/tokenize", "/detokenize", CAPTURES):
        for name in ("empty", "null", "array", "two documents", "bom", "duplicate key", "depth 33", "cut sequence", "raw nul", "a megabyte of digits"):
            rows.append(row("json", "%s %s" % (path, name), post(path, REFUSED[name]), 400))
    return rows


def every_row(limits, backends, paths, vocab, small, large):
    return (json_rows() + head_rows() + field_rows(limits, vocab) + list_rows(limits, vocab) + route_rows(limits) + attention_rows(backends) +
            graph_rows(small) + large_rows(large) + tensor_rows(limits) + http_rows(paths, limits))  # fmt: skip
