"""A llama's forward pass and its attention graphs in float64 numpy, written from the papers and without any code of the
project: what the graph tests hold the server against.

A folder is one that tiny_model.write made (bf16 weights, tied embeddings, rotary halves). Weights of a row: softmax, or
entmax by bisection on its threshold, over the keys a 0/1 mask allows.
"""
import json
import os
import struct

import numpy


def read_safetensors(data):
    """-> (metadata, {name: array}); bf16 becomes float32."""
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    types = {"BF16": "<u2", "U16": "<u2", "U32": "<u4", "F32": "<f4"}
    arrays = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        flat = numpy.frombuffer(data[8 + size + begin:8 + size + end], types[tensor["dtype"]])
        if tensor["dtype"] == "BF16":
            flat = (flat.astype(numpy.uint32) << 16).view(numpy.float32)
        arrays[name] = flat.reshape(tensor["shape"])
    return metadata, arrays


def write_safetensors(arrays, metadata):
    """-> bytes. arrays: {name: float32}, in this order; metadata: {name: text}."""
    header, place = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        assert array.dtype == numpy.dtype("<f4"), (name, array.dtype)
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())


def normalize(scores, mask, alpha):
    """Rows of weights over the allowed keys; rows without one are zero."""
    scores = numpy.where(mask, scores, -numpy.inf)
    any_key = mask.any(axis=-1)
    top = numpy.where(any_key, scores.max(axis=-1, initial=-numpy.inf), 0.0)
    if alpha == 1:
        weights = numpy.exp(scores - top[..., None])
        weights[~mask] = 0
        total = weights.sum(axis=-1, keepdims=True)
        return numpy.where(any_key[..., None], weights / numpy.where(total > 0, total, 1), 0.0)
    z = (alpha - 1) * (scores - top[..., None])
    low, high = numpy.full(top.shape, -1.0), numpy.zeros(top.shape)
    for _ in range(100):
        tau = (low + high) / 2
        mass = (numpy.maximum(z - tau[..., None], 0) ** (1 / (alpha - 1))).sum(axis=-1)
        low, high = numpy.where(mass >= 1, tau, low), numpy.where(mass >= 1, high, tau)
    weights = numpy.maximum(z - low[..., None], 0) ** (1 / (alpha - 1))
    weights[~mask] = 0
    total = weights.sum(axis=-1, keepdims=True)
    return numpy.where(any_key[..., None], weights / numpy.where(total > 0, total, 1), 0.0)


def causal(n):
    return numpy.tril(numpy.ones((n, n), bool))


def window(n, w):
    """abs(i - j) <= w div 2, the past."""
    i, j = numpy.indices((n, n))
    return causal(n) & (numpy.abs(i - j) <= w // 2) & (w > 0)


class Llama:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        with open(os.path.join(folder, "model.safetensors"), "rb") as file:
            _, arrays = read_safetensors(file.read())
        self.weights = {name: array.astype(numpy.float64) for name, array in arrays.items()}
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.dim = self.config["head_dim"]
        self.layers = self.config["num_hidden_layers"]

    def norm(self, x, name):
        scale = numpy.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / scale * self.weights[name]

    def rotate(self, x):
        """x (n, heads, dim), positions 0..n-1; pairs (i, i + dim / 2)."""
        half = self.dim // 2
        frequency = self.config["rope_theta"] ** (-numpy.arange(half) / half)
        angle = numpy.arange(len(x))[:, None] * frequency
        cos, sin = numpy.cos(angle)[:, None, :], numpy.sin(angle)[:, None, :]
        a, b = x[..., :half], x[..., half:]
        return numpy.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def scores(self, ids, mask, alpha):
        """Scaled scores of every layer and head, (layers, heads, n, n), of a run that attends within mask: (n, n), or a
        function of layer, q and k, both (n, heads, dim), that gives (heads, n, n)."""
        n, share = len(ids), self.heads // self.kv_heads
        x, out = self.weights["model.embed_tokens.weight"][ids], []
        for layer in range(self.layers):
            at = "model.layers.%d." % layer
            y = self.norm(x, at + "input_layernorm.weight")
            q, k, v = (y @ self.weights[at + "self_attn.%s_proj.weight" % name].T for name in "qkv")
            q = self.rotate(q.reshape(n, self.heads, self.dim))
            k = self.rotate(k.reshape(n, self.kv_heads, self.dim)).repeat(share, axis=1)
            v = v.reshape(n, self.kv_heads, self.dim).repeat(share, axis=1)
            scores = numpy.einsum("ihd,jhd->hij", q, k) / numpy.sqrt(self.dim)
            allowed = mask(layer, q, k) if callable(mask) else numpy.broadcast_to(mask, scores.shape)
            weights = normalize(scores, allowed, alpha)
            x = x + numpy.einsum("hij,jhd->ihd", weights, v).reshape(n, -1) @ \
                self.weights[at + "self_attn.o_proj.weight"].T
            y = self.norm(x, at + "post_attention_layernorm.weight")
            gate = y @ self.weights[at + "mlp.gate_proj.weight"].T
            up = y @ self.weights[at + "mlp.up_proj.weight"].T
            x = x + (gate / (1 + numpy.exp(-gate)) * up) @ self.weights[at + "mlp.down_proj.weight"].T
            out.append(scores)
        self.states = x
        return numpy.array(out)

    def logprobs(self, ids, mask, alpha):
        """log p of each token but the first after those before it, tied embeddings; mask as in scores."""
        self.scores(ids, mask, alpha)
        logits = self.norm(self.states, "model.norm.weight") @ self.weights["model.embed_tokens.weight"].T
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= numpy.log(numpy.exp(logits).sum(axis=-1, keepdims=True))
        return logits[numpy.arange(len(ids) - 1), numpy.array(ids)[1:]]


def cut_mass(weights, mass):
    """Of each row the fewest keys by falling weight, ties to the lower key, whose sum is at least mass."""
    out = numpy.zeros_like(weights)
    for i, row in enumerate(weights):
        total = 0.0
        for j in sorted(range(len(row)), key=lambda j: (-row[j], j)):
            if total >= mass or row[j] == 0:
                break
            out[i, j] = row[j]
            total += row[j]
    return out


def record(gold, pred, allowed, ids):
    """The numbers of a head; gold (n, n) weights, pred and allowed (n, n) masks."""
    has, n = gold > 0, len(ids)
    i, j = numpy.indices((n, n))
    same = numpy.equal.outer(ids, ids)
    before = numpy.zeros((n, n), bool)  # token j - 1 is token i
    before[:, 1:] = same[:, :-1]
    total = gold.sum()
    share = lambda pattern: float((gold * pattern).sum() / total)
    entropy = -(gold[has] * numpy.log(gold[has])).sum() / n
    return {
        "edges_gold": int(has.sum()), "edges_pred": int(pred.sum()), "edges_both": int((has & pred).sum()),
        "pairs_valid": int(allowed.sum()), "rows_valid": n,
        "rows_exact": int(((has & ~pred).sum(axis=1) == 0).sum()),
        "rows_empty": int((pred.sum(axis=1) == 0).sum()), "max_degree": int(has.sum(axis=1).max()),
        "mass_recall": share(pred), "mean_distance": float((gold * numpy.abs(i - j)).sum() / total),
        "entropy": float(entropy), "self": share(i == j), "previous": share(j == i - 1), "sink": share(j == 0),
        "duplicate": share(same & (j < i)), "induction": share(before & (j >= 1) & (j <= i)),
    }
