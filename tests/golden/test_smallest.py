"""The smallest shapes that are served, of every family: hidden 32, heads of 8, one head, vocabulary 257. Random models
are scored by `sparsed score --kv f32` and by a forward pass in float64 numpy that is written here.

usage: test_smallest.py ROOT BUILD
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy

ROOT, BUILD = sys.argv[1], sys.argv[2]
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import llama_numpy  # noqa: E402
import tiny_model  # noqa: E402

HIDDEN, HEAD, VOCAB, CONTEXT, EPS, THETA = 32, 8, 257, 128, 1e-5, 10000.0
TEXT = "It is a truth universally acknowledged, that a single man in possession"


def base(model_type, heads, kv_heads, inner, **more):
    return dict(model_type=model_type, vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=heads,
                num_key_value_heads=kv_heads, head_dim=HEAD, intermediate_size=inner, max_position_embeddings=CONTEXT,
                rms_norm_eps=EPS, rope_theta=THETA, tie_word_embeddings=True, **more)


CASES = {
    "llama": base("llama", 1, 1, 8),
    "mistral": base("mistral", 2, 1, 33, sliding_window=None),
    "qwen2": base("qwen2", 4, 2, 16),
    "qwen3": base("qwen3", 1, 1, 9),
    "phi3": base("phi3", 3, 1, 7),
    "gpt2": dict(model_type="gpt2", vocab_size=VOCAB, n_embd=HIDDEN, n_layer=2, n_head=4, n_inner=None, n_positions=CONTEXT,
                 layer_norm_epsilon=EPS),
    "gpt2 of one head": dict(model_type="gpt2", vocab_size=VOCAB, n_embd=HIDDEN, n_layer=1, n_head=1, n_inner=11,
                             n_positions=CONTEXT, layer_norm_epsilon=EPS, tie_word_embeddings=False),
}


def shapes(c):
    if c["model_type"] == "gpt2":
        inner = c["n_inner"] or 4 * HIDDEN
        out = {"wte.weight": (VOCAB, HIDDEN), "wpe.weight": (CONTEXT, HIDDEN), "ln_f.weight": (HIDDEN,), "ln_f.bias": (HIDDEN,)}
        if not c.get("tie_word_embeddings", True):
            out["lm_head.weight"] = (VOCAB, HIDDEN)
        for n in range(c["n_layer"]):
            for name, rows, columns in (("attn.c_attn", HIDDEN, 3 * HIDDEN), ("attn.c_proj", HIDDEN, HIDDEN),
                                        ("mlp.c_fc", HIDDEN, inner), ("mlp.c_proj", inner, HIDDEN)):
                out[f"h.{n}.{name}.weight"], out[f"h.{n}.{name}.bias"] = (rows, columns), (columns,)
            for name in "ln_1", "ln_2":
                out[f"h.{n}.{name}.weight"] = out[f"h.{n}.{name}.bias"] = (HIDDEN,)
        return out
    q, kv, inner = c["num_attention_heads"] * HEAD, c["num_key_value_heads"] * HEAD, c["intermediate_size"]
    out = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for n in range(c["num_hidden_layers"]):
        layer = {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,),
                 "self_attn.o_proj.weight": (HIDDEN, q), "mlp.down_proj.weight": (HIDDEN, inner)}
        if c["model_type"] == "phi3":
            layer.update({"self_attn.qkv_proj.weight": (q + 2 * kv, HIDDEN), "mlp.gate_up_proj.weight": (2 * inner, HIDDEN)})
        else:
            layer.update({"self_attn.q_proj.weight": (q, HIDDEN), "self_attn.k_proj.weight": (kv, HIDDEN),
                          "self_attn.v_proj.weight": (kv, HIDDEN), "mlp.gate_proj.weight": (inner, HIDDEN),
                          "mlp.up_proj.weight": (inner, HIDDEN)})
        if c["model_type"] == "qwen2":
            layer.update({"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)})
        if c["model_type"] == "qwen3":
            layer.update({"self_attn.q_norm.weight": (HEAD,), "self_attn.k_norm.weight": (HEAD,)})
        out.update({f"model.layers.{n}.{name}": shape for name, shape in layer.items()})
    return out


def make_weights(c, seed):
    random = numpy.random.RandomState(seed)
    return {
        name: ((1 if "norm" in name or "ln_" in name else 0) + random.randn(*shape) * (0.1 if len(shape) == 1 else 0.3))
        .astype(numpy.float32)
        for name, shape in shapes(c).items()
    }


def softmax(x):
    e = numpy.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v):
    """(n, heads, d), (n, kv heads, d) twice; causal."""
    n, share = len(q), q.shape[1] // k.shape[1]
    k, v = numpy.repeat(k, share, 1), numpy.repeat(v, share, 1)
    scores = numpy.einsum("ihd,jhd->hij", q, k) / numpy.sqrt(q.shape[2])
    scores[:, numpy.triu(numpy.ones((n, n), bool), 1)] = -numpy.inf
    return numpy.einsum("hij,jhd->ihd", softmax(scores), v).reshape(n, -1)


def rms(x, w):
    return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w


def rotate(x):
    angles = numpy.arange(len(x))[:, None] * THETA ** (-numpy.arange(HEAD // 2) / (HEAD // 2))
    cos, sin = numpy.cos(angles)[:, None], numpy.sin(angles)[:, None]
    a, b = x[..., : HEAD // 2], x[..., HEAD // 2 :]
    return numpy.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def run_llama(c, w, ids):
    q_size, kv_size, inner = c["num_attention_heads"] * HEAD, c["num_key_value_heads"] * HEAD, c["intermediate_size"]
    x = w["model.embed_tokens.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        def get(name):
            return w.get(f"model.layers.{n}.{name}")

        def linear(name, m):
            bias = get(f"self_attn.{name}_proj.bias")
            return m @ get(f"self_attn.{name}_proj.weight").T + (0 if bias is None else bias)

        m = rms(x, get("input_layernorm.weight"))
        if c["model_type"] == "phi3":
            q, k, v = numpy.split(linear("qkv", m), [q_size, q_size + kv_size], -1)
        else:
            q, k, v = (linear(name, m) for name in "qkv")
        q, k, v = (part.reshape(len(ids), -1, HEAD) for part in (q, k, v))
        if c["model_type"] == "qwen3":
            q, k = rms(q, get("self_attn.q_norm.weight")), rms(k, get("self_attn.k_norm.weight"))
        x = x + linear("o", attend(rotate(q), rotate(k), v))
        m = rms(x, get("post_attention_layernorm.weight"))
        if c["model_type"] == "phi3":
            gate, up = numpy.split(m @ get("mlp.gate_up_proj.weight").T, [inner], -1)
        else:
            gate, up = m @ get("mlp.gate_proj.weight").T, m @ get("mlp.up_proj.weight").T
        x = x + (gate / (1 + numpy.exp(-gate)) * up) @ get("mlp.down_proj.weight").T
    return rms(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def run_gpt2(c, w, ids):
    def norm(x, name):
        y = x - x.mean(-1, keepdims=True)
        return y / numpy.sqrt((y * y).mean(-1, keepdims=True) + EPS) * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for n in range(c["n_layer"]):
        parts = numpy.split(linear(norm(x, f"h.{n}.ln_1"), f"h.{n}.attn.c_attn"), 3, -1)
        q, k, v = (part.reshape(len(ids), c["n_head"], -1) for part in parts)
        x = x + linear(attend(q, k, v), f"h.{n}.attn.c_proj")
        m = linear(norm(x, f"h.{n}.ln_2"), f"h.{n}.mlp.c_fc")
        m = 0.5 * m * (1 + numpy.tanh(numpy.sqrt(2 / numpy.pi) * (m + 0.044715 * m**3)))
        x = x + linear(m, f"h.{n}.mlp.c_proj")
    return norm(x, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T


def write(folder, config, weights):
    tokenizer = tiny_model.tokenizer()
    tokenizer["model"]["merges"] = []
    tokenizer["model"]["vocab"] = {piece: i for piece, i in tokenizer["model"]["vocab"].items() if i < VOCAB}
    parts = {"config.json": json.dumps(config).encode(), "tokenizer.json": json.dumps(tokenizer).encode(),
             "model.safetensors": llama_numpy.write_safetensors(weights, {"format": "pt"})}
    for name, data in parts.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)


def main():
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "text")
        with open(text, "w") as file:
            file.write(TEXT)
        for seed, (name, config) in enumerate(CASES.items()):
            weights = make_weights(config, seed)
            write(folder, config, weights)
            command = [os.path.join(BUILD, "sparsed"), "score", "--model", folder, "--kv", "f32", "--text", text, "--json"]
            result = subprocess.run(command, capture_output=True, timeout=60)
            assert result.returncode == 0, (name, result.stderr.decode())
            (data,) = json.loads(result.stdout)["data"]
            ids = data["token_ids"]
            assert len(ids) == len(TEXT) and max(ids) < VOCAB
            exact = {key: value.astype(numpy.float64) for key, value in weights.items()}
            logits = (run_gpt2 if config["model_type"] == "gpt2" else run_llama)(config, exact, ids)
            expected = numpy.log(softmax(logits))[numpy.arange(len(ids) - 1), ids[1:]]
            worst = numpy.abs(expected - numpy.array(data["token_logprobs"][1:])).max()
            print(f"{name}: differs by {worst:.1e}, nll {-expected.mean():.2f}")
            assert worst < 1e-4 and expected.std() > 0.1, name


main()
