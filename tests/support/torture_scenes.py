"""The scenarios of checks/torture.py: requests whose every allocation fails once.

A scene is (name, prepare, run, tidy): prepare(server) -> state and tidy(server, state) run undisturbed, run(server, state)
-> replies is what is counted and failed. Scenes of whole processes (start, commands) are in torture.py.
`warm`: how many times it runs before anything is counted, so that tables which keep results are full.
"""
import collections
import json
import os

import llama_numpy
import numpy
import tiny_model

Scene = collections.namedtuple("Scene", "name prepare run tidy warm", defaults=(3,))
CAPTURES = "/v1/attention/captures"
PROMPT = "the quick brown fox and the lazy dog and the other"
KEPT_SWEEPS = 64  # results that a server keeps: server/graph_sweep.h
OCTETS = {"Content-Type": "application/octet-stream"}
MODULES = {"self_attn.q_proj": (32, 32), "self_attn.v_proj": (16, 32), "mlp.down_proj": (32, 48)}


def write_model(folder):
    """A tiny model, an adapter beside it and texts. -> (model, adapter, text, short text)"""
    model, adapter = tiny_model.write(os.path.join(folder, "model")), os.path.join(folder, "adapter")
    text = os.path.join(folder, "text.txt")
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


def nothing(server, state=None):
    return None


def post(name, path, body, headers=None):
    return Scene(name, nothing, lambda server, state: [server.post(path, body, headers, timeout=60.0)], nothing)


def get(name, path):
    return Scene(name, nothing, lambda server, state: [server.get(path, timeout=60.0)], nothing)


def complete(name, **fields):
    fields = dict({"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "ignore_eos": True}, **fields)
    return post(name, "/v1/completions", fields)


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


def graph(name, tail, **fields):
    return Scene(name, lambda server: make_capture(server, **fields), lambda server, state: [server.get("%s/%s%s" % (CAPTURES, state, tail), timeout=60.0)],
                 drop_capture)  # fmt: skip


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


def sweep():
    def run(server, state):
        return [server.post("%s/%s/sweep" % (CAPTURES, state), {"attention": "window", "grid": {"window": [3, 9]}}, timeout=60.0)]

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
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    chat = {"messages": messages, "max_tokens": 5, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    finder = {"backend": "sparsefinder", "params": {"grouping": "cluster"}}
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
        get("metrics", "/metrics"),
        complete("adapter", model="model:one", logprobs=1),
        complete("sparsefinder", attention=finder),
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
        graph("clusters", "/heads/0/0/clusters", attention=finder),
        graph("export csv", "/export?format=csv&layer=0&head=1"),
        graph("export npz", "/export?format=npz&layer=0&head=1"),
        graph("export graphml", "/export?format=graphml&layer=0&head=1"),
        graph("export dot", "/export?format=dot&layer=0&head=1"),
        graph("export bertviz", "/export?format=bertviz"),
        graph("picture svg", "/export?format=svg&layer=0&head=1&view=panels"),
        graph("picture lines", "/export?format=svg&layer=0&head=1&view=lines"),
        graph("picture png", "/export?format=png&layer=0&head=1"),
        graph("picture overview", "/export?format=png"),
        graph("page html", "/export?format=html&layer=0&head=1"),
        sweep(),
        compare(),
        post("apply", "/v1/attention/apply?metrics=true", tensor_body(), OCTETS),
        post("bad JSON", "/v1/completions", b'{"prompt": "a", "n": [1, {"a": "\\ud83d\\ude00"'),
        post("bad member", "/v1/completions", {"prompt": PROMPT, "temperature": -1}),
        post("bad capture", CAPTURES, {"input": PROMPT, "gold": {"normalizer": "nothing"}}),
        post("too long", "/v1/completions", {"prompt": [5] * 5000}),
        get("unknown path", "/nothing"),
    ]  # fmt: skip
