"""What the graph routes must answer, by brute force in float64 numpy: a tiny llama with a fit of random maps, the masks of
the attentions, the graphs of a head, cuts and tiles. Written from the specification (engine/README.md and
server/README.md), with no code of the project. Used by tests/http/test_graph_acceptance.py.

A pair is in doubt where float32 and float64 may differ about it: its score lies within DOUBT of its row's threshold, or its
weight at the edge of a cut. Masks of predicting attentions must have none: scene() takes the first seed of tokens that gives a margin.
"""
import hashlib
import os

import numpy

import llama_numpy
import tiny_model

LAYERS, HEADS, KV_HEADS, DIM, RANK = 3, 4, 2, 16, 4
DOUBT = 2e-5


def write_model(folder):
    """A llama of LAYERS layers, HEADS heads on KV_HEADS KV heads and 4,096 positions, with a fit."""
    was = tiny_model.HEADS, tiny_model.KV_HEADS, tiny_model.LAYERS, dict(tiny_model.CONFIG)
    tiny_model.HEADS, tiny_model.KV_HEADS, tiny_model.LAYERS = HEADS, KV_HEADS, LAYERS
    tiny_model.CONFIG.update(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, num_hidden_layers=LAYERS,
                             max_position_embeddings=4096)
    try:
        tiny_model.write(folder)
        stored = tiny_model.tensors()
    finally:
        tiny_model.HEADS, tiny_model.KV_HEADS, tiny_model.LAYERS = was[:3]
        tiny_model.CONFIG.update(was[3])
    fit = random_fit()
    name = "model.layers.%d.self_attn.%s_proj.weight"
    digest = hashlib.sha256(b"".join(stored[name % (l, x)].tobytes() for l in range(LAYERS) for x in "qk")).hexdigest()
    metadata = {"format": "sparsed.sparsefinder.v1", "model": digest, "layers": str(LAYERS), "heads": str(HEADS),
                "d": str(DIM), "r": str(RANK), "alpha": "1.5", "seed": "0", "corpus": "0" * 64, "length": "2048",
                "rope": "post"}
    with open(os.path.join(folder, "sparsefinder.safetensors"), "wb") as file:
        file.write(llama_numpy.write_safetensors(fit, metadata))
    return fit


def random_fit():
    """{name: float32 array}; sets: default with thresholds, bins and centroids, dot with thresholds, cluster6."""
    random, out = numpy.random.RandomState(7), {}
    for l in range(LAYERS):
        at = "layers.%d.self." % l
        for kind in ("", "dot.", "cluster6."):
            for side, heads in (("q", HEADS), ("k", KV_HEADS)):
                out[at + kind + side + "_proj.weight"] = random.randn(heads, DIM, RANK) * 0.25
                out[at + kind + side + "_proj.bias"] = random.randn(heads, RANK) * 0.2
        out[at + "thresholds"] = 1.0 + 0.3 * random.rand(HEADS)
        out[at + "dot.thresholds"] = 0.3 + 0.3 * random.rand(HEADS)
        out[at + "dot.thresholds.90"] = 0.2 + 0.3 * random.rand(HEADS)
        out[at + "bins.5"] = numpy.sort(random.randn(HEADS, RANK, 4) * 0.6, axis=-1)
        out[at + "cluster6.centroids"] = random.randn(HEADS, 2, 6, RANK) * 0.7
    return {name: array.astype(numpy.float32) for name, array in out.items()}


class Finder:
    """The mask of a predicting attention: called with a layer, q and k (n, heads, DIM), gives (heads, n, n)."""

    def __init__(self, fit, params):
        self.fit = {name: array.astype(numpy.float64) for name, array in fit.items()}
        self.params, self.margin = params, numpy.inf

    def maps(self, layer, kind, q, k):
        at, out = "layers.%d.self.%s" % (layer, kind), []
        for side, x in (("q", q), ("k", k)):
            w, b = (self.fit[at + side + "_proj." + part] for part in ("weight", "bias"))
            share = HEADS // len(w)
            out.append(numpy.einsum("nhd,hdr->hnr", x, w.repeat(share, 0)) + b.repeat(share, 0)[:, None, :])
        return out

    def closer(self, gaps):
        self.margin = min(self.margin, float(numpy.min(numpy.abs(gaps), initial=numpy.inf)))

    def __call__(self, layer, q, k):
        n, p = len(q), self.params
        grouping = p["grouping"]
        base = llama_numpy.window(n, p.get("window", 33)) | globals_first(n, p.get("global_first", 1))
        found = getattr(self, grouping)(layer, q, k, base)
        return (found | base) & llama_numpy.causal(n)

    def distance(self, layer, q, k, base):
        p, metric, past = self.params, self.params["metric"], llama_numpy.causal(len(q))
        a, b = self.maps(layer, "dot." if metric == "dot" else "", q, k)
        if metric == "dot":
            value = -numpy.einsum("hir,hjr->hij", a, b)
        elif metric == "cosine":
            unit = lambda x: x / numpy.sqrt((x * x).sum(-1, keepdims=True))
            value = 1 - numpy.einsum("hir,hjr->hij", unit(a), unit(b))
        else:
            value = ((a[:, :, None] - b[:, None]) ** 2).sum(-1)
            value = numpy.sqrt(value) if metric == "euclidean" else value
        if "keep" in p:
            found = numpy.zeros(value.shape, bool)
            for h, i in numpy.ndindex(value.shape[:2]):
                keys = numpy.flatnonzero(past[i] & ~base[i])
                order = keys[numpy.lexsort((keys, value[h, i, keys]))]
                found[h, i, order[:p["keep"]]] = True
                if len(order) > p["keep"]:
                    self.closer(numpy.diff(value[h, i, order[p["keep"] - 1:p["keep"] + 1]]))
            return found
        at = "layers.%d.self." % layer + ("dot." if metric == "dot" else "") + "thresholds"
        limit = numpy.full(HEADS, float(p["threshold"])) if "threshold" in p else \
            self.fit[at + (".%d" % round(100 * p["recall"]) if "recall" in p else "")]
        limit = (-limit if metric == "dot" else limit)[:, None, None]
        self.closer((value - limit)[:, past])
        return value < limit

    def bucket(self, layer, q, k, base):
        n, p, bins = len(q), self.params, []
        for x in self.maps(layer, "", q, k):
            if p["bins"] == "equal":
                order = numpy.sort(x, axis=1)
                self.closer(numpy.diff(order, axis=1))
                bins.append(x.argsort(axis=1, kind="stable").argsort(axis=1) // -(-n // p["buckets"]))
                continue
            if p["bins"] == "fixed":
                x = numpy.tanh(p.get("temperature", 1) * x)
                borders = numpy.broadcast_to(numpy.arange(1, p["buckets"]) * 2 / p["buckets"] - 1,
                                             (HEADS, RANK, p["buckets"] - 1))
            else:
                borders = self.fit["layers.%d.self.bins.%d" % (layer, p["buckets"])]
            gaps = x[..., None] - borders[:, None]
            self.closer(gaps)
            bins.append((gaps > 0).sum(-1))
        return (bins[0][:, :, None] == bins[1][:, None]).any(-1)

    def cluster(self, layer, q, k, base):
        p, sets = self.params, []
        centroids = self.fit["layers.%d.self.cluster%d.centroids" % (layer, p["clusters"])]
        for x in self.maps(layer, "cluster%d." % p["clusters"], q, k):
            far = ((x[:, :, None, None] - centroids[:, None]) ** 2).sum(-1)  # (heads, n, runs, C)
            order = far.argsort(axis=-1, kind="stable")
            ranked = numpy.sort(far, axis=-1)
            self.closer(ranked[..., p["top"]] - ranked[..., p["top"] - 1])
            taken = numpy.zeros(far.shape, bool)
            numpy.put_along_axis(taken, order[..., :p["top"]], True, axis=-1)
            sets.append(taken[:, :, :p["runs"]])
        return numpy.einsum("hirc,hjrc->hij", sets[0], sets[1]) > 0


def globals_first(n, count):
    mask = numpy.zeros((n, n), bool)
    mask[:, :count] = mask[:count] = True
    return mask


def fixed_mask(backend, params, heads="merged"):
    """The mask of an attention that does not predict, called like a Finder."""
    def call(layer, q, k):
        n = len(q)
        i, j = numpy.indices((n, n))
        out = numpy.zeros((HEADS, n, n), bool)
        for h in range(HEADS):
            if backend == "window" or backend == "longformer":
                out[h] = llama_numpy.window(n, params["window"])
            elif backend == "dense":
                out[h] = True
            else:
                size = params["stride"]
                sub = (h // 2 if heads == "multihead" else h) % params.get("distinct", 1)
                high = size - sub * params.get("summary", 0)
                first = abs(i - j) < size if backend == "strided" else i // size == j // size
                second = (i - j) % size == 0 if backend == "strided" else \
                    (j % size >= high - params["summary"]) & (j % size < high)
                part = {"merged": 2, "interleaved": layer % 2, "multihead": h % 2}[heads]
                out[h] = (first, second, first | second)[part]
            out[h] |= globals_first(n, params.get("global_first", 0))
        return out & llama_numpy.causal(n)
    return call


def tokens(seed, n):
    """Ids with repeats, so that duplicates and inductions occur."""
    random = numpy.random.RandomState(seed)
    ids = random.randint(1, 260, n)
    ids[n // 2:n // 2 + n // 4] = ids[:n // 4]
    return [int(x) for x in ids]


class Graphs:
    """All graphs of a run over ids: alpha of the run (1: softmax), gold's alpha and cut {mass, top_k, min_weight}."""

    def __init__(self, llama, ids, mask, alpha=1.5, gold_alpha=None, cut=None):
        self.ids, self.mask, n = ids, [], len(ids)
        gold_alpha = alpha if gold_alpha is None else gold_alpha

        def remember(layer, q, k):
            self.mask.append(mask(layer, q, k))
            return self.mask[-1]

        scores = llama.scores(ids, remember, alpha)
        past = llama_numpy.causal(n)
        self.allowed, self.pred = past, numpy.array(self.mask)
        full = llama_numpy.normalize(scores, numpy.broadcast_to(past, scores.shape), gold_alpha)
        self.gold = apply_cuts(full, **cut) if cut else full
        self.weights = llama_numpy.normalize(scores, self.pred, alpha)
        self.doubt_gold = doubt(scores, numpy.broadcast_to(past, scores.shape), full, gold_alpha, cut)
        self.doubt_after = doubt(scores, self.pred, self.weights, alpha, None)

    def graph(self, name, l, h):
        """(mask, weights, doubtful) of a graph, each (n, n)."""
        gold, pred, w = self.gold[l, h], self.pred[l, h], self.weights[l, h]
        has, d = gold > 0, self.doubt_gold[l, h]
        return {"gold": (has, gold, d), "pred": (pred, w, d & False), "both": (has & pred, gold, d & pred),
                "missed": (has & ~pred, gold, d & ~pred), "extra": (pred & ~has, w, d & pred),
                "after": (w > 0, w, self.doubt_after[l, h])}[name]


def doubt(scores, mask, weights, alpha, cut):
    if alpha == 1:
        if not cut:
            return weights < 0
        kept = apply_cuts(weights, **cut)
        worst = numpy.where(kept > 0, kept, numpy.inf).min(-1, keepdims=True)
        out = numpy.abs(weights - worst) < 1e-6
        if "mass" in cut:
            out |= (numpy.abs(kept.sum(-1) - cut["mass"]) < DOUBT)[..., None]
            out |= (numpy.abs(kept.sum(-1, keepdims=True) - worst - cut["mass"]) < DOUBT)
        return out & mask
    top = numpy.where(mask, scores, -numpy.inf).max(-1, keepdims=True)
    z = (alpha - 1) * (scores - top)
    # the threshold, from the largest weight: w = (z - tau)^(1 / (alpha - 1)) with z = 0
    tau = -weights.max(-1, keepdims=True) ** (alpha - 1)
    return mask & (numpy.abs(z - tau) < DOUBT)


def apply_cuts(weights, cols=None, top_k=None, min_weight=None, mass=None):
    """The weights that all cuts keep, others 0; (..., n, n). Ranks go by falling weight, ties to the lower key."""
    order = numpy.argsort(-weights, axis=-1, kind="stable")
    rank = numpy.argsort(order, axis=-1, kind="stable")
    keep = weights >= 0
    if top_k is not None:
        keep &= rank < top_k
    if min_weight is not None:
        keep &= weights >= min_weight
    if mass is not None:
        falling = numpy.take_along_axis(weights, order, -1)
        before = numpy.cumsum(falling, -1) - falling
        keep &= numpy.take_along_axis(before, rank, -1) < mass
    if cols is not None:
        keep &= (numpy.arange(weights.shape[-1]) >= cols[0]) & (numpy.arange(weights.shape[-1]) < cols[1])
    return numpy.where(keep, weights, 0.0)


def tile(values, z, ty, tx):
    """Sum over the pairs of each bin of tile (ty, tx) of level z; values (n, m)."""
    out, size = numpy.zeros((256, 256), values.dtype), 256 << z
    part = values[ty * size:(ty + 1) * size, tx * size:(tx + 1) * size]
    i, j = numpy.indices(part.shape)
    numpy.add.at(out, (i >> z, j >> z), part)
    return out
