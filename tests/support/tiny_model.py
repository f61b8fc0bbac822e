"""Writes a llama of two layers and under 100 KB into a folder: config.json, tokenizer.json, model.safetensors.

usage: tiny_model.py FOLDER, or tiny_model.write(folder)

The same bytes at every run. Random weights, written without any code of the project: 256 byte tokens, one special token
and three merges; hidden 32, two heads on one KV head, tied, bf16, 1.5-entmax.
"""

import json
import os
import struct
import sys

import numpy

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS = 32, 2, 1, 16, 48, 2
MERGES = [["Ġ", "t"], ["h", "e"], ["Ġt", "he"]]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 260,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attention_normalizer": "entmax15",
}


def byte_spelling():
    """GPT-2's printable character of every byte."""
    printable = set(range(33, 127)) | set(range(161, 173)) | set(range(174, 256))
    spelling, spare = {}, 256
    for byte in range(256):
        spelling[byte] = chr(byte if byte in printable else spare)
        spare += byte not in printable
    return spelling


def tokenizer():
    vocab = {"<|endoftext|>": 0}
    for piece in list(byte_spelling().values()) + ["".join(pair) for pair in MERGES]:
        vocab[piece] = len(vocab)
    token = {"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [dict(token, normalized=False, special=True)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": MERGES},
    }


def to_bf16(values):
    """Round to nearest even, as bytes."""
    bits = values.astype(numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def tensors():
    random = numpy.random.RandomState(20)
    out = {"model.embed_tokens.weight": (CONFIG["vocab_size"], HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        out[prefix + "input_layernorm.weight"] = (HIDDEN,)
        out[prefix + "self_attn.q_proj.weight"] = (HEADS * HEAD_DIM, HIDDEN)
        out[prefix + "self_attn.k_proj.weight"] = (KV_HEADS * HEAD_DIM, HIDDEN)
        out[prefix + "self_attn.v_proj.weight"] = (KV_HEADS * HEAD_DIM, HIDDEN)
        out[prefix + "self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        out[prefix + "post_attention_layernorm.weight"] = (HIDDEN,)
        out[prefix + "mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        out[prefix + "mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        out[prefix + "mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    out["model.norm.weight"] = (HIDDEN,)
    return {
        name: to_bf16(1 + random.randn(*shape) * 0.1 if len(shape) == 1 else random.randn(*shape) * 0.25)
        for name, shape in out.items()
    }


def safetensors(arrays):
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        end = place + array.nbytes
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())


def write(folder):
    os.makedirs(folder, exist_ok=True)
    parts = {
        "config.json": json.dumps(CONFIG, indent=1).encode(),
        "tokenizer.json": json.dumps(tokenizer(), ensure_ascii=False, indent=1).encode(),
        "model.safetensors": safetensors(tensors()),
    }
    for name, data in parts.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    return folder


if __name__ == "__main__":
    write(sys.argv[1])
