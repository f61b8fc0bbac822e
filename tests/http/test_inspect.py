#!/usr/bin/python3
"""`sparsed inspect`: sizes, memory and tensors of a model, against its files read here; and refusals, which exit 65 and name
what is at fault while the tensors are still listed."""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
AUSTEN = os.path.join(ROOT, "models/austen")
GOLDEN = os.path.join(ROOT, "tests/golden/models")


def run(model, *options, code=0):
    command = [os.path.join(BUILD, "sparsed"), "inspect", "--model", model, *options]
    result = subprocess.run(command, capture_output=True, timeout=120)
    assert result.returncode == code, (model, result.returncode, result.stderr.decode())
    return result.stdout.decode(), result.stderr.decode()


def inspect(model, *options, code=0):
    text, errors = run(model, "--json", *options, code=code)
    return json.loads(text), errors


value, _ = inspect(AUSTEN)
with open(os.path.join(AUSTEN, "config.json")) as file:
    config = json.load(file)
with open(os.path.join(AUSTEN, "model.safetensors"), "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
header.pop("__metadata__", None)
assert value["refused"] is None and value["format"] == "safetensors" and value["architecture"] == "llama"
sizes = value["hyper_parameters"]
for name, key in (("layers", "num_hidden_layers"), ("hidden", "hidden_size"), ("heads", "num_attention_heads"),
                  ("kv_heads", "num_key_value_heads"), ("head_dim", "head_dim"), ("intermediate", "intermediate_size"),
                  ("vocabulary", "vocab_size"), ("context", "max_position_embeddings"), ("rope_theta", "rope_theta")):
    assert sizes[name] == config[key], name
assert sizes["tied"] is True and sizes["positions"] == "rotary"
assert {row["name"]: (row["type"], row["shape"]) for row in value["tensors"]} == {
    name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}
assert sum(row["bytes"] for row in value["tensors"]) == value["tensor_bytes"] == sum(
    entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
assert sizes["parameters"] == value["tensor_bytes"] // 2
assert value["normalizer"] == {"alpha": 1.5} and value["attention_pattern"] == "dense"
assert value["tokenizer"] == {"size": 4096, "bos": 0, "adds_bos": False, "eos": [0]}
memory = value["memory"]
assert memory["kv_bytes_a_token"] == 2 * 6 * 4 * 64 * 2 and memory["kv_bytes_full_context"] == 6144 * 2048
assert inspect(AUSTEN, "--kv", "f32")[0]["memory"]["kv_bytes_a_token"] == 12288
wide = inspect(AUSTEN, "--weights", "f32")[0]["memory"]["weight_bytes"]
assert 1.9 < wide / memory["weight_bytes"] <= 2
text, _ = run(AUSTEN)
assert "trained with dense" in text and "can be served" in text and "model.norm.weight [256]" in text

quantized, _ = inspect(os.path.join(GOLDEN, "tiny-gguf-quants/q4_k.gguf"))
assert quantized["format"] == "gguf"
assert {"Q4_K"} <= {row["type"] for row in quantized["tensors"]}
assert any(row["name"] == "blk.0.attn_q.weight" for row in quantized["tensors"])

with tempfile.TemporaryDirectory() as folder:
    broken = os.path.join(folder, "broken")
    shutil.copytree(AUSTEN, broken)
    config["num_hidden_layers"] = 5
    with open(os.path.join(broken, "config.json"), "w") as file:
        json.dump(config, file)
    refused, errors = inspect(broken, code=65)
    assert "layers.5." in refused["refused"]["message"] and refused["refused"]["message"] in errors
    assert len(refused["tensors"]) == len(header) and "hyper_parameters" not in refused
    config.update(num_hidden_layers=6, num_local_experts=8)
    with open(os.path.join(broken, "config.json"), "w") as file:
        json.dump(config, file)
    text, errors = run(broken, code=65)
    assert "num_local_experts" in text and "num_local_experts" in errors and "model.norm.weight [256]" in text
    run(os.path.join(folder, "nowhere"), code=66)
for name, words in (("type-q2_k", "Q2_K"), ("split", "split.count"), ("moe", "llama.expert_count")):
    refused, _ = inspect(os.path.join(GOLDEN, "tiny-refuse-gguf", name + ".gguf"), code=65)
    assert words in refused["refused"]["message"], refused["refused"]
    assert refused["format"] == "gguf" and refused["tensors"]
