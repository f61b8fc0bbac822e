"""The scenarios of checks/torture.py: requests whose every allocation fails once.

A scene is (name, prepare, run, tidy): prepare(server) -> state and tidy(server, state) run undisturbed, run(server, state)
-> replies is what is counted and failed. Scenes of whole processes are in torture_commands.py and torture.py.
`warm`: how many times it runs before anything is counted, so that tables which keep results are full. `rest`: it ends when the
server makes no more allocations, not with its replies. `essence`: what of a reply's body is the same at every run. `also`: statuses that are right
where something else failed.
"""
import collections
import json
import os
import re
import signal
import struct
import threading

import harness
import llama_numpy
import numpy
import png_reader
import tiny_model
from hostile_replies import stripped, stripped_text

Scene = collections.namedtuple("Scene", "name prepare run tidy warm rest essence also", defaults=(3, False, stripped_text, ()))
CAPTURES = "/v1/attention/captures"
PROMPT = "the quick brown fox and the lazy dog and the other"
WIDE = "abcdefghij klmnopq " * 8
KEPT_SWEEPS = 64  # results that a server keeps: server/graph_sweep.h
OCTETS = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}
FINDER = {"backend": "sparsefinder", "params": {"grouping": "cluster"}}
KEY = "sk-torture-0123456789"
CONTEXT = 4096  # more than a capture that is waited for
MODULES = {"self_attn.q_proj": (32, 32), "self_attn.v_proj": (16, 32), "mlp.down_proj": (32, 48)}


def write_model(folder):
    """A tiny model, an adapter beside it and texts. -> (model, adapter, text, short text)"""
    model, adapter = tiny_model.write(os.path.join(folder, "model")), os.path.join(folder, "adapter")
    text = os.path.join(folder, "text.txt")
    with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
        json.dump(dict(tiny_model.CONFIG, max_position_embeddings=CONTEXT), file)
    random, arrays = numpy.random.RandomState(3), {}
    for layer in range(tiny_model.LAYERS):
        for module, (n_out, n_in) in MODULES.items():
            prefix = "base_model.model.model.layers.%d.%s.lora_" % (layer, module)
            arrays[prefix + "A.weight"] = tiny_model.to_bf16(random.randn(4, n_in) * 0.2)
            arrays[prefix + "B.weight"] = tiny_model.to_bf16(random.randn(n_out, 4) * 0.2)
    os.makedirs(adapter, exist_ok=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": 4, "lora_alpha": 8, "bias": "none",
              "target_modules": [name.split(".")[1] for name in MODULES]}  # fmt: skip
    with open(os.path.join(adapter, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    with open(os.path.join(adapter, "adapter_model.safetensors"), "wb") as file:
        file.write(tiny_model.safetensors(arrays))
    with open(text, "w", encoding="utf-8") as file:
        file.write("".join(" word%d the %d" % (i * i % 97, i) for i in range(400)))
    short = os.path.join(folder, "short.txt")
    with open(short, "w", encoding="utf-8") as file:
        file.write(PROMPT)
    return model, adapter, text, short


class KeyedServer(harness.Server):
    """Everything that the plain one is not: a config file, keys, a log in JSON, pages of another origin."""

    OPTIONS = {"threads": 2, "kv_bytes": "4M", "chat_template": "plain", "log_format": "json", "cors_origin": "https://page.example",
               "share_prefixes": True, "poison": True, "half_close": "keep", "attention": json.dumps(FINDER), "max_queue": 16}  # fmt: skip

    @staticmethod
    def write_config(folder, adapter):
        """-> path of the config file"""
        keys, path = os.path.join(folder, "keys"), os.path.join(folder, "config.json")
        with open(keys, "w", encoding="utf-8") as file:
            file.write("# of the torture\n%s\nsk-another-9876543210\n" % KEY)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(dict(KeyedServer.OPTIONS, api_key_file=keys, adapter=["one=" + adapter, "two=" + adapter]), file)
        return path

    def request(self, method, path, body=b"", headers=None, timeout=60.0):
        return super().request(method, path, body, dict({"Authorization": "Bearer " + KEY}, **(headers or {})), timeout)


def nothing(server, state=None):
    return None


def simple(name, run, **more):
    """run(server) -> replies, with nothing before it or after."""
    return Scene(name, nothing, lambda server, state: run(server), nothing, **more)


def post(name, path, body, headers=None, **more):
    return simple(name, lambda server: [server.post(path, body, headers, timeout=60.0)], **more)


def get(name, path, method="GET", headers=None, **more):
    return simple(name, lambda server: [server.request(method, path, headers=headers, timeout=60.0)], **more)


def complete(name, essence=stripped_text, **fields):
    fields = dict({"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "ignore_eos": True}, **fields)
    return post(name, "/v1/completions", fields, essence=essence)


def families(body):
    """Of metrics: their names and types, and that each line has a value."""
    return sorted(line for line in body.split(b"\n") if line.startswith(b"#") or not re.match(rb"[a-z0-9_]+(\{.*\})? \S+$", line))


def by_choice(body):
    """Frames of several choices, which come in any order."""
    parts = [stripped(json.loads(frame)) for frame in harness.frames(body) if frame != "[DONE]"]
    return sorted(parts, key=lambda part: part["choices"][0]["index"])


def no_progress(body):
    """A capture, wherever it is."""
    return {key: value for key, value in stripped(json.loads(body)).items() if key not in ("n_key", "n_query", "progress", "state")}


def choices(body):
    """The text, whatever was computed or found for it."""
    return [choice["text"] for choice in json.loads(body)["choices"]]


def picture(body):
    """Width, height and texts; its size may move by a little with the time that is drawn."""
    width, height, texts = png_reader.describe(body)
    return width, height, {key: stripped_text(text.encode()) for key, text in texts.items()}, round(len(body) / 3000)


# --- connections ---
def head_of(server, path, size, *lines):
    extra = ["Authorization: Bearer " + KEY] if isinstance(server, KeyedServer) else []
    head = ["POST %s HTTP/1.1" % path, "Host: localhost", "Content-Type: application/json"] + extra + list(lines)
    if size is not None:
        head.append("Content-Length: %d" % size)
    return "\r\n".join(head).encode() + b"\r\n\r\n"


def raw(name, pieces, half_close=False, **more):
    """Bytes as they are; pieces(server) -> bytes. All replies count."""
    return simple(name, lambda server: server.raw(pieces(server), 60.0, half_close)[0], **more)


def two_of_one_connection(server):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 3, "temperature": 0}).encode()
    return (head_of(server, "/v1/completions", len(body)) + body
            + head_of(server, "/v1/completions", len(body), "Connection: close") + body)  # fmt: skip


def in_chunks(server):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 3, "temperature": 0}).encode()
    pieces = [body[:9], body[9:10], body[10:]]
    return (head_of(server, "/v1/completions", None, "Transfer-Encoding: chunked", "Connection: close")
            + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n")  # fmt: skip


def one_at_the_end(server):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 3, "temperature": 0}).encode()
    return head_of(server, "/v1/completions", len(body), "Connection: close") + body


def leaves(name, path, body, reads):
    """A client that reads so many bytes and is gone."""

    def run(server, state):
        data = json.dumps(body).encode()
        link = server.connect(60.0)
        try:
            link.sendall(head_of(server, path, len(data), "Connection: close") + data)
            if reads:
                harness.read_some(link, reads, 60.0)
            link.setsockopt(harness.socket.SOL_SOCKET, harness.socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            link.close()
        return []

    return Scene(name, nothing, run, nothing, rest=True)


def cancelled():
    """DELETE of a request that runs."""

    def prepare(server):
        link = server.open_stream(prompt=PROMPT, max_tokens=3000, temperature=0, ignore_eos=True)
        return link, re.search(rb'"id":"([^"]+)"', harness.read_some(link, 400)).group(1).decode()

    def tidy(server, state):
        state[0].close()
        server.request("DELETE", "/v1/requests/" + state[1])
        server.until_idle()

    return Scene("cancel", prepare, lambda server, state: [server.request("DELETE", "/v1/requests/" + state[1], timeout=60.0)], tidy,
                 also=(404,))  # the stream itself may have failed and be over


def together(name, bodies):
    """Requests side by side."""

    def run(server):
        replies = [None] * len(bodies)

        def one(i):
            try:
                replies[i] = server.post("/v1/completions", bodies[i], timeout=60.0)
            except (AssertionError, OSError) as error:
                replies[i] = error

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(bodies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return replies

    return simple(name, run)


def reused_prefix():
    """Prompts that begin alike under a salt of their own: computed once, then found, by two in a batch."""

    def run(server, state):
        body = {"max_tokens": 2, "temperature": 0, "ignore_eos": True, "cache_salt": os.urandom(6).hex()}
        return [server.post("/v1/completions", dict(body, prompt=prompt), timeout=60.0)
                for prompt in (WIDE, [WIDE + "a", WIDE + "bc"], WIDE[:70] + "other")]

    return Scene("reused prefix", nothing, run, nothing, essence=choices)


def keys_again():
    """SIGHUP: the keys are read again, or stay."""

    def run(server, state):
        seen = len(server.log)
        server.process.send_signal(signal.SIGHUP)
        harness.until(lambda: any("API keys" in line for line in server.log[seen:]))
        return [server.get("/v1/models", timeout=60.0)]

    return Scene("keys read again", nothing, run, nothing)


# --- captures: made before each trial, so that heads are computed in it ---
def make_capture(server, state=None, **fields):
    reply = server.post(CAPTURES, dict({"input": PROMPT, "labels": {"pos": ["A", "B"] * 20}}, **fields))
    if reply.status == 400:  # as many labels as tokens
        tokens = len(server.post("/tokenize", {"content": PROMPT}).json()["tokens"])
        reply = server.post(CAPTURES, dict({"input": PROMPT, "labels": {"pos": [["A", "B"][i % 2] for i in range(tokens)]}}, **fields))
    assert reply.status == 201, reply
    return reply.json()["id"]


def drop_capture(server, name):
    if name:
        reply = server.request("DELETE", CAPTURES + "/" + name)
        assert reply.status in (200, 404, 410), reply


def graph(name, tail, essence=stripped_text, **fields):
    return Scene(name, lambda server: make_capture(server, **fields), lambda server, state: [server.get("%s/%s%s" % (CAPTURES, state, tail), timeout=60.0)],
                 drop_capture, essence=essence)  # fmt: skip


def capture_and_delete():
    def run(server, state):
        reply = server.post(CAPTURES, {"input": PROMPT}, timeout=60.0)
        if reply.status == 201 and reply.whole:
            state.append(reply.json()["id"])
        return [reply] + [server.request("DELETE", "%s/%s" % (CAPTURES, name)) for name in state]

    return Scene("capture", lambda server: [], run, lambda server, state: [drop_capture(server, name) for name in state])


def captured_generation():
    def run(server, state):
        body = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "attention": {"capture": True}}
        state.append(server.post("/v1/completions", body, timeout=60.0))
        return state[-1:]

    def tidy(server, state):
        if state and state[-1].status == 200 and state[-1].whole:
            drop_capture(server, state[-1].json()["attention_id"])

    return Scene("captured completion", lambda server: [], run, tidy)


def long_capture():
    """One that is not waited for."""

    def run(server, state):
        reply = server.post(CAPTURES, {"input": WIDE * 14, "layers": [1]}, timeout=60.0)
        if reply.status == 201 and reply.whole:
            state.append(reply.json()["id"])
        return [reply]

    def tidy(server, state):
        for name in state:
            harness.until(lambda name=name: b'"running"' not in server.get("%s/%s" % (CAPTURES, name)).body)
            drop_capture(server, name)

    return Scene("long capture", lambda server: [], run, tidy, rest=True, essence=no_progress)


def sweep():
    """Runs by itself: asked for until it is over."""

    def run(server, state):
        begun = server.post("%s/%s/sweep" % (CAPTURES, state), {"attention": "window", "grid": {"window": [3, 9]}}, timeout=60.0)
        name, replies = re.search(rb"sweep-[0-9a-f]+", begun.body), [begun]

        def over():
            replies[0] = server.get("%s/%s/sweeps/%s" % (CAPTURES, state, name.group().decode()), timeout=60.0)
            return b'"running"' not in replies[0].body

        if name:
            harness.until(over)
        return replies

    return Scene("sweep of a capture", make_capture, run, drop_capture, KEPT_SWEEPS + 3)


def compare():
    def prepare(server):
        return make_capture(server), make_capture(server)

    def run(server, state):
        return [server.get("/v1/attention/compare?a=%s&b=%s&layer=0&head=0" % state, timeout=60.0)]

    return Scene("compare", prepare, run, lambda server, state: [drop_capture(server, name) for name in state])


def tensor_body():
    random = numpy.random.RandomState(1)
    return llama_numpy.write_safetensors({name: random.randn(2, 13, 4).astype("<f4") for name in "qkv"},
                                         {"attention": '{"backend": "window", "params": {"window": 5}}', "causal": "true"})


def scenes():
    short = {"max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": 1}
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    chat = {"messages": messages, "max_tokens": 5, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    return [
        complete("completion", logprobs=3, return_token_ids=True),
        complete("streamed completion", stream=True, stream_options={"include_usage": True}),
        post("chat", "/v1/chat/completions", chat),
        post("streamed chat", "/v1/chat/completions", dict(chat, stream=True)),
        complete("echo with logprobs", echo=True, logprobs=5, max_tokens=1),
        complete("stop strings and biases", stop=["zz", "qq\u00e9", "x" * 100], logit_bias={"5": 3, "9": -100}, stop_token_ids=[3], repetition_penalty=1.3),
        complete("three choices", n=3, seed=5, temperature=1),
        complete("several prompts", prompt=[[5, 6, 7], [8, 9], [10] * 70], n=2, temperature=0),
        complete("long prompt", prompt=[5 + i % 50 for i in range(200)]),
        post("score", "/v1/score", {"input": [PROMPT, "the other"]}),
        post("embeddings", "/v1/embeddings", {"input": [PROMPT, "a"], "encoding_format": "base64"}),
        post("tokenize", "/tokenize", {"prompt": PROMPT, "return_token_strs": True}),
        post("tokenize inputs", "/tokenize", {"inputs": [PROMPT, "a"]}),
        post("detokenize", "/detokenize", {"tokens": list(range(200))}),
        get("tokenizer_info", "/tokenizer_info"),
        get("models", "/v1/models"),
        get("health", "/health"),
        get("limits", "/v1/limits"),
        get("backends", "/v1/attention/backends"),
        get("openapi", "/openapi.json"),
        get("requests", "/v1/requests"),
        get("metrics", "/metrics", essence=families),
        complete("adapter", model="model:one", logprobs=1),
        complete("sparsefinder", attention=FINDER),
        complete("block attention", attention={"backend": "sparsefinder", "params": {"grouping": "distance", "keep": 4}, "measure": True}),
        complete("routing", attention={"backend": "routing", "decode": {"backend": "dense"}}),
        complete("window", attention={"backend": "longformer", "params": {"window": 5, "global_first": 2}, "normalizer": {"alpha": 1.25}}),
        capture_and_delete(),
        captured_generation(),
        graph("capture state", ""),
        graph("capture tokens", "/tokens?q=the"),
        graph("heads", "/heads?sort=recall"),
        graph("edges", "/heads/1/1/edges?graph=gold"),
        graph("edges in binary", "/heads/1/1/edges?graph=pred&format=safetensors&limit=30"),
        graph("row", "/heads/0/1/rows/7?graph=after"),
        graph("column", "/heads/0/1/cols/2"),
        graph("tiles", "/heads/0/0/tiles/0/0/0?stat=mass"),
        graph("overview", "/overview?layer=0&format=json"),
        graph("aggregate", "/aggregate?op=rollout&top_k=5"),
        graph("aggregate union", "/aggregate?op=union"),
        graph("labels", "/labels?set=pos"),
        graph("clusters", "/heads/0/0/clusters", attention=FINDER),
        graph("export csv", "/export?format=csv&layer=0&head=1"),
        graph("export npz", "/export?format=npz&layer=0&head=1"),
        graph("export graphml", "/export?format=graphml&layer=0&head=1"),
        graph("export dot", "/export?format=dot&layer=0&head=1"),
        graph("export bertviz", "/export?format=bertviz"),
        graph("picture svg", "/export?format=svg&layer=0&head=1&view=panels"),
        graph("picture lines", "/export?format=svg&layer=0&head=1&view=lines"),
        graph("picture png", "/export?format=png&layer=0&head=1", essence=picture),
        graph("picture overview", "/export?format=png", essence=picture),
        graph("page html", "/export?format=html&layer=0&head=1"),
        sweep(),
        compare(),
        post("apply", "/v1/attention/apply?metrics=true", tensor_body(), OCTETS),
        post("bad JSON", "/v1/completions", b'{"prompt": "a", "n": [1, {"a": "\\ud83d\\ude00"'),
        post("bad member", "/v1/completions", {"prompt": PROMPT, "temperature": -1}),
        post("bad capture", CAPTURES, {"input": PROMPT, "gold": {"normalizer": "nothing"}}),
        post("too long", "/v1/completions", {"prompt": [5] * 5000}),
        get("unknown path", "/nothing"),
        get("one model", "/v1/models/model:one"),
        get("schema", "/v1/attention/schema"),
        get("head of live", "/health/live", "HEAD"),
        get("wrong method", "/v1/completions", "DELETE"),
        get("no capture", CAPTURES + "/attn-000000000000000000000000/tokens"),
        post("wrong media type", "/v1/completions", b"prompt=a", {"Content-Type": "text/plain"}),
        raw("bad head", lambda server: head_of(server, "/v1/completions", 2, "Content-Length: 3") + b"{}"),
        raw("two of one connection", two_of_one_connection),
        raw("in chunks", in_chunks),
        leaves("leaves a stream", "/v1/completions", {"prompt": PROMPT, "max_tokens": 2000, "ignore_eos": True, "stream": True}, 600),
        leaves("leaves a reply", "/v1/completions", {"prompt": WIDE, "max_tokens": 2000, "ignore_eos": True, "n": 2, "logprobs": 2}, 0),
        leaves("leaves a capture", CAPTURES, {"input": WIDE}, 0),
        cancelled(),
        together("four side by side", [dict(short, prompt=prompt) for prompt in (WIDE, PROMPT, WIDE[:20], WIDE[40:])]),
        together("two attentions side by side", [dict(short, prompt=WIDE, attention=a) for a in (FINDER, "window")]),
        reused_prefix(),
        complete("strided", prompt=WIDE, attention={"backend": "strided", "params": {"stride": 8}}),
        complete("fixed", prompt=WIDE, attention={"backend": "fixed", "params": {"stride": 8}}),
        complete("predicted dots", prompt=WIDE, attention={"backend": "sparsefinder", "params": {"keep": 4, "window": 5}, "measure": True}),
        complete("predicted recall", prompt=WIDE, attention={"backend": "sparsefinder", "params": {"metric": "l2", "recall": 0.9}}),
        complete("buckets", prompt=WIDE, attention={"backend": "sparsefinder", "params": {"grouping": "bucket", "bins": "fixed", "buckets": 9}}),
        complete("auto", prompt=WIDE, attention={"backend": "auto", "params": {"max_recall_loss": 0.9}}),
        complete("streamed choices", n=2, stream=True, seed=3, temperature=1, logprobs=2, stop=["zz"], attention=FINDER, essence=by_choice),
        post("chat of the adapter", "/v1/chat/completions", dict(chat, model="model:one", attention=FINDER)),
        post("score of the adapter", "/v1/score", {"input": [PROMPT], "model": "model:one", "attention": FINDER}),
        post("embeddings as numbers", "/v1/embeddings", {"input": [[9] * 30, [5, 6]], "model": "model:one"}),
        long_capture(),
        graph("capture of the adapter", "/heads/1/0/edges?graph=both", model="model:one", attention=FINDER),
        graph("export json", "/export?format=json&layer=0&head=1"),
        graph("export safetensors", "/export?format=safetensors&layer=1&head=0&graph=after"),
        graph("export circuitsvis", "/export?format=circuitsvis"),
        graph("export exbert", "/export?format=exbert"),
        graph("picture of the overview", "/export?format=svg&scale=log&theme=dark"),
        graph("page of predictions", "/export?format=html&layer=1&head=1", attention=FINDER),
    ]  # fmt: skip


def keyed_scenes():
    """Of a KeyedServer."""
    body = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    origin = {"Origin": "https://page.example"}
    asked = dict(origin, **{"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"})
    return [
        post("with a key", "/v1/completions", body, origin),
        post("without a key", "/v1/completions", body, {"Authorization": None}),
        post("with another key", "/v1/completions", body, {"Authorization": "Bearer sk-nobody-knows-it"}),
        get("before a page's request", "/v1/completions", "OPTIONS", dict(asked, Authorization=None)),
        get("log of a strange path", "/v1/%22%0a%7f%c3%a9?a=%00"),
        post("adapter of the config", "/v1/completions", dict(body, model="model:two", stream=True)),
        raw("half closed", one_at_the_end, half_close=True),
        keys_again(),
    ]
