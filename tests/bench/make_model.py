#!/usr/bin/python3
"""Writes a random bf16 model of SmolLM2-135M's shape into a folder, for benchmarks: speed does not depend on what weights
say. Its context is 32,768 tokens, so that long prompts are within it.

usage: tests/bench/make_model.py FOLDER; then sparsed bench --model FOLDER

Same bytes at every run (269 MB). The tokenizer has single bytes only. Beside it a random fit for sparsefinder of rank 16:
one k map a KV head, the q maps of its heads alike, and 32 centroids with maps of their own.
"""
import hashlib
import json
import os
import struct
import sys

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import tiny_model

LAYERS, HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, VOCABULARY = 30, 576, 9, 3, 1536, 49152
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def shapes():
    narrow = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        for name, shape in (("input_layernorm", (HIDDEN,)), ("post_attention_layernorm", (HIDDEN,)),
                            ("self_attn.q_proj", (HIDDEN, HIDDEN)), ("self_attn.k_proj", (narrow, HIDDEN)),
                            ("self_attn.v_proj", (narrow, HIDDEN)), ("self_attn.o_proj", (HIDDEN, HIDDEN)),
                            ("mlp.gate_proj", (INTERMEDIATE, HIDDEN)), ("mlp.up_proj", (INTERMEDIATE, HIDDEN)),
                            ("mlp.down_proj", (HIDDEN, INTERMEDIATE))):
            yield "model.layers.%d.%s.weight" % (layer, name), shape
    yield "model.norm.weight", (HIDDEN,)


RANK, CENTROIDS = 16, 32


def fit_tensors(random):
    dim, share = HIDDEN // HEADS, HEADS // KV_HEADS
    for layer in range(LAYERS):
        for name in ("dot.", "cluster%d." % CENTROIDS):
            maps = numpy.linalg.qr(random.standard_normal((KV_HEADS, dim, dim)))[0][:, :, :RANK]
            where = "layers.%d.self.%s" % (layer, name)
            yield where + "k_proj.bias", numpy.zeros((KV_HEADS, RANK))
            yield where + "k_proj.weight", maps
            yield where + "q_proj.bias", numpy.zeros((HEADS, RANK))
            yield where + "q_proj.weight", numpy.repeat(maps, share, 0)
            if name == "dot.":
                yield where + "thresholds", numpy.full(HEADS, 4.0)
            else:
                yield where + "centroids", random.standard_normal((HEADS, 1, CENTROIDS, RANK))


def write_tensors(path, metadata, tensors):
    header, place, data = {"__metadata__": metadata}, 0, []
    for name, values in sorted(tensors):
        data.append(values.astype("<f4").tobytes())
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [place, place + len(data[-1])]}
        place += len(data[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))


def write_fit(path, model):
    metadata = {"model": model, "format": "sparsed.sparsefinder.v1", "layers": str(LAYERS), "heads": str(HEADS),
                "d": str(HIDDEN // HEADS), "r": str(RANK), "alpha": "1.5", "seed": "0", "rope": "post", "length": "32768"}
    write_tensors(path, metadata, fit_tensors(numpy.random.default_rng(136)))


def write(folder):
    os.makedirs(folder, exist_ok=True)
    for name, value in (("config.json", CONFIG), ("tokenizer.json", tiny_model.tokenizer())):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes():
        end = place + 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    random, digest = numpy.random.default_rng(135), hashlib.sha256()
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes():
            values = random.standard_normal(shape, numpy.float32)
            values = 1 + 0.05 * values if len(shape) == 1 else values / numpy.sqrt(numpy.float32(shape[1]))
            data = tiny_model.to_bf16(values).tobytes()
            file.write(data)
            if "q_proj" in name or "k_proj" in name:
                digest.update(data)
    write_fit(os.path.join(folder, "sparsefinder.safetensors"), digest.hexdigest())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(sys.argv[1])
