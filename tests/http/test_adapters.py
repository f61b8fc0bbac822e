"""Adapters over HTTP and on the command line: /v1/models lists them, `model` picks one, replies name it, requests of base
and adapters together give the bytes of each alone; and every hostile or foreign adapter is refused by name, exit 65."""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import fit_file
import harness
import llama_numpy
import numpy
import tiny_model

BASE = os.path.join(harness.ROOT, "tests", "golden", "models", "tiny-llama")
MODULES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
           "self_attn.o_proj": (64, 64), "mlp.gate_proj": (40, 64), "mlp.up_proj": (40, 64), "mlp.down_proj": (64, 40)}
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": 4, "lora_alpha": 8,
          "lora_dropout": 0.1, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
          "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "layers_to_transform": None,
          "target_modules": [name.split(".")[1] for name in MODULES]}
FOLDER = tempfile.TemporaryDirectory()


def tensors(seed, rank=4, layers=2):
    random = numpy.random.RandomState(seed)
    out = {}
    for layer in range(layers):
        for module, (n_out, n_in) in MODULES.items():
            prefix = "base_model.model.model.layers.%d.%s.lora_" % (layer, module)
            out[prefix + "A.weight"] = tiny_model.to_bf16(random.randn(rank, n_in) * 0.2)
            out[prefix + "B.weight"] = tiny_model.to_bf16(random.randn(n_out, rank) * 0.2)
    return out


def write(name, config, arrays):
    path = os.path.join(FOLDER.name, name)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "adapter_config.json"), "w") as file:
        file.write(config if isinstance(config, str) else json.dumps(config))
    with open(os.path.join(path, "adapter_model.safetensors"), "wb") as file:
        file.write(arrays if isinstance(arrays, bytes) else tiny_model.safetensors(arrays))
    return path


ONE = write("one", CONFIG, tensors(1))
TWO = write("two", dict(CONFIG, attention_normalizer="entmax15"), tensors(2))
IDS = ["tiny-llama", "tiny-llama:one", "tiny-llama:two"]


def serve(*options):
    return harness.Server("--kv-bytes", "64M", "--adapter", "one=" + ONE, *options, model=BASE)


def complete(server, model, **fields):
    fields = dict({"prompt": [5, 9, 77, 120, 33, 8], "max_tokens": 16, "temperature": 0, "ignore_eos": True, "logprobs": 2,
                   "return_token_ids": True}, **fields)
    reply = server.post("/v1/completions", dict(fields, model=model) if model else fields)
    assert reply.status == 200, reply
    return reply.json()


def test_models():
    with serve("--adapter", "two=" + TWO) as server:
        models = server.get("/v1/models").json()["data"]
        assert [model["id"] for model in models] == IDS
        assert [model["parent"] for model in models] == [None, IDS[0], IDS[0]]
        for name in IDS:
            assert server.get("/v1/models/" + name).json()["id"] == name
        for name in ("tiny-llama:three", "tiny-llama:", "one", "tiny-llama:one2"):
            assert server.get("/v1/models/" + name).status == 404
            reply = server.complete(model=name, prompt="x")
            assert reply.status == 404 and reply.error()["param"] == "model" and name in reply.error()["message"], reply


def test_requests():
    with serve("--adapter", "two=" + TWO) as server:
        alone = {name: complete(server, name) for name in IDS}
        assert complete(server, None)["choices"] == alone[IDS[0]]["choices"]
        texts = [json.dumps(alone[name]["choices"]) for name in IDS]
        assert len(set(texts)) == 3
        for name in IDS:
            assert alone[name]["model"] == name
            report = alone[name]["attention_report"]
            assert report["trained"] and report["normalizer"] == ({"alpha": 1.5} if name == IDS[2] else "softmax"), report
        softmax = complete(server, IDS[2], attention={"backend": "dense", "normalizer": "softmax"})
        assert not softmax["attention_report"]["trained"]
        scores = [server.post("/v1/score", {"model": name, "input": [[5, 9, 77, 120]]}).json() for name in IDS]
        assert [score["model"] for score in scores] == IDS and len({json.dumps(s["data"]) for s in scores}) == 3

        wrong = []

        def ask(name):
            if complete(server, name)["choices"] != alone[name]["choices"]:
                wrong.append(name)

        threads = [threading.Thread(target=ask, args=(IDS[i % 3],)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, wrong


def test_normalizer_option():
    with serve("--adapter", "two=" + TWO, "--normalizer", "sparsemax") as server:
        report = complete(server, IDS[2])["attention_report"]
        assert report["normalizer"] == {"alpha": 2} and not report["trained"] and report["notes"], report


def test_config_file():
    path = os.path.join(FOLDER.name, "config.json")
    with open(path, "w") as file:
        json.dump({"adapter": ["two=" + TWO]}, file)
    with serve("--config", path) as server:
        assert {model["id"] for model in server.get("/v1/models").json()["data"]} == set(IDS)


def adapter_fingerprint(arrays, layers=2):
    """SHA-256 of the base's query and key projections as stored, layer by layer, then of the adapter's A and B."""
    digest = hashlib.sha256()
    with open(os.path.join(BASE, "model.safetensors"), "rb") as file:
        data = file.read()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    for layer in range(layers):
        for name in "qk":
            begin, end = header["model.layers.%d.self_attn.%s_proj.weight" % (layer, name)]["data_offsets"]
            digest.update(data[8 + size + begin:8 + size + end])
    for layer in range(layers):
        for name in "qk":
            for part in "AB":
                digest.update(arrays["base_model.model.model.layers.%d.self_attn.%s_proj.lora_%s.weight" % (layer, name, part)].tobytes())
    return digest.hexdigest()


def test_fit_of_an_adapter():
    """It serves the adapter's requests alone, apply's too where they name it, and /v1/models tells who has one."""
    arrays, random = tensors(3), numpy.random.RandomState(9)
    path = write("fitted", CONFIG, arrays)
    maps = {"layers.%d.self.dot.%s" % (layer, name): random.randn(*shape).astype(numpy.float32) for layer in range(2)
            for name, shape in (("q_proj.weight", (4, 16, 3)), ("q_proj.bias", (4, 3)))}
    fit_file.write(os.path.join(path, "sparsefinder.safetensors"), maps, 3, model=adapter_fingerprint(arrays), heads="4", d="16",
                   length="128")
    attention = {"backend": "sparsefinder", "params": {"keep": 2, "window": 0, "global_first": 0}}
    qkv = {name: random.randn(heads, 20, 16).astype(numpy.float32) for name, heads in (("q", 4), ("k", 2), ("v", 2))}
    body = llama_numpy.write_safetensors(qkv, {"attention": json.dumps(attention), "causal": "true", "layer": "1"})
    with serve("--adapter", "fitted=" + path) as server:
        listed = {m["id"]: m for m in server.get("/v1/models").json()["data"]}
        assert all(m["attention_needs_fit"] == ["routing", "sparsefinder"] for m in listed.values()), listed
        assert listed["tiny-llama"]["attention_fit"] is None and listed["tiny-llama:one"]["attention_fit"] is None
        assert listed["tiny-llama:fitted"]["attention_fit"] == {"length": 128, "rope": "post", "sets": ["dot"]}
        octets = {"Content-Type": "application/octet-stream"}
        for query, status, param in (("", 400, "attention.backend"), ("?model=tiny-llama", 400, "attention.backend"),
                                     ("?model=tiny-llama:one", 400, "attention.backend"), ("?model=other", 404, "model")):
            reply = server.post("/v1/attention/apply" + query, body, octets)
            assert reply.status == status and reply.error()["param"] == param, (query, reply)
        reply = server.post("/v1/attention/apply?model=tiny-llama:fitted", body, octets)
        assert reply.status == 200, reply
        _, found = llama_numpy.read_safetensors(reply.body)
        weight, bias = (maps["layers.1.self.dot.q_proj." + part].astype(float) for part in ("weight", "bias"))
        for h in range(4):
            a, b = qkv["q"][h] @ weight[h] + bias[h], qkv["k"][h // 2] @ weight[h] + bias[h]
            scores = numpy.where(numpy.tril(numpy.ones((20, 20), bool)), a @ b.T, -numpy.inf)
            wanted = [sorted(numpy.argsort(-row, kind="stable")[:min(2, i + 1)].tolist()) for i, row in enumerate(scores)]
            assert found["indices"][h * 39:(h + 1) * 39].tolist() == sum(wanted, []), h
        for model, status in (("tiny-llama", 400), ("tiny-llama:one", 400), ("tiny-llama:fitted", 200)):
            reply = server.complete(model=model, prompt=[5, 9, 77], max_tokens=2, attention=attention)
            assert reply.status == status, (model, reply)


def generate(*options):
    command = [os.path.join(harness.BUILD, "sparsed"), "generate", "--model", BASE, "--kv-bytes", "8M", "--prompt", "Emma",
               "--max-tokens", "4", "--temperature", "0", *options]
    done = subprocess.run(command, capture_output=True, timeout=60)
    return done.returncode, done.stderr.decode()


def refused(words, code=65, config=None, arrays=None, **changes):
    path = write("bad", dict(CONFIG, **changes) if config is None else config, tensors(1) if arrays is None else arrays)
    status, text = generate("--adapter", "bad=" + path)
    assert status == code and "bad" in text and all(word in text for word in words), (words, status, text)


def test_command():
    assert generate("--adapter", "one=" + ONE)[0] == 0
    status, text = generate("--adapter", "one=" + ONE, "--adapter", "two=" + TWO)
    assert status == 0 and '{"alpha":1.5}' in text, text
    for value in ("one", "=x", "one=", "a b=" + ONE, "a:b=" + ONE):
        status, text = generate("--adapter", value)
        assert status == 64 and "--adapter" in text, text
    assert generate("--adapter", "one=" + ONE, "--adapter", "one=" + TWO)[0] == 64
    status, text = generate("--adapter", "one=" + os.path.join(FOLDER.name, "absent"))
    assert status == 66 and "absent" in text, text
    gpt2 = os.path.join(harness.ROOT, "tests", "golden", "models", "tiny-gpt2-hub")
    status, text = generate("--adapter", "one=" + ONE, "--model", gpt2)
    assert status == 65 and "gpt2" in text, text


def test_refused_settings():
    for key, value in (("peft_type", "LOHA"), ("peft_type", None), ("r", 0), ("r", 1 << 20), ("r", "4"), ("lora_alpha", None),
                       ("lora_alpha", "8"), ("bias", "all"), ("bias", "lora_only"), ("use_dora", True), ("use_rslora", 1),
                       ("fan_in_fan_out", True), ("rank_pattern", {"q_proj": 8}), ("alpha_pattern", {"q_proj": 8}),
                       ("modules_to_save", ["lm_head"]), ("layers_to_transform", [0]), ("lora_bias", True),
                       ("init_lora_weights", "pissa"), ("target_modules", "all-linear"), ("target_modules", []),
                       ("target_modules", ["q_proj", "lm_head"]), ("target_modules", [1]), ("task_type", "SEQ_CLS"),
                       ("attention_normalizer", "hardmax"), ("attention_normalizer", {"alpha": 9}), ("something_new", 3)):
        refused(["adapter_config.json", key], **{key: value})
    refused(["adapter_config.json"], config="[1]")
    refused(["adapter_config.json"], config='{"r":4,"r":4}')


def test_refused_tensors():
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    good = tensors(1)
    refused(["adapter_model.safetensors", first + "A.weight", "[4, 64]"], arrays=tensors(1, rank=5))
    refused(["adapter_model.safetensors", "layers.2.", "another base"], arrays=tensors(1, layers=3))
    refused(["adapter_model.safetensors", "layers.1.", "missing"], arrays=tensors(1, layers=1))
    refused(["adapter_model.safetensors", "down_proj.lora_A"], target_modules=CONFIG["target_modules"][:-1])
    refused(["adapter_model.safetensors", "extra"], arrays=dict(good, extra=good[first + "A.weight"]))
    nan = dict(good)
    nan[first + "B.weight"] = numpy.full((64, 4), 0x7FC0, numpy.uint16)
    refused(["adapter_model.safetensors", first + "B.weight", "NaN"], arrays=nan)
    wide = dict(good)
    wide[first + "A.weight"] = numpy.zeros((4, 96), numpy.uint16)
    refused(["adapter_model.safetensors", first + "A.weight", "[4, 96]", "[4, 64]"], arrays=wide)
    refused(["adapter_model.safetensors"], arrays=tiny_model.safetensors(good)[:-2])
    refused(["adapter_model.safetensors"], arrays=b"\xff" * 64)


harness.main(globals())
