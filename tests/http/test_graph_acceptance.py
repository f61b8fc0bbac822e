"""The acceptance points of attention graphs, against a brute force of the whole model in float64 numpy that shares no code
with the engine (tests/support/graph_reference.py). A comment names the point (graph.md, section 5) a test stands for.

Edges must be those of the brute force but for pairs within 2e-5 of their threshold; every number is then checked exactly
against the edges that were returned.
"""
import json
import os
import sys
import tempfile
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import graph_reference as reference
import harness
import llama_numpy
import numpy

GRAPHS = ("gold", "pred", "both", "missed", "extra", "after")
H = reference.HEADS
ROOM = {}


def room():
    """(server, llama, fit), made once."""
    if not ROOM:
        ROOM["folder"] = tempfile.TemporaryDirectory()
        fit = reference.write_model(ROOM["folder"].name)
        server = harness.Server("--kv", "f32", "--graph-json-edges", 200000, model=ROOM["folder"].name)
        ROOM["it"] = server, llama_numpy.Llama(ROOM["folder"].name), fit
    return ROOM["it"]


def capture(server, ids, attention, **more):
    reply = server.post("/v1/attention/captures", dict(input=ids, attention=attention, **more))
    assert reply.status == 201, (attention, reply)
    return reply.json()


def ask(server, path, status=200, **query):
    text = urllib.parse.urlencode(query)
    get = lambda: server.get("/v1/attention/captures/" + path + ("?" + text if text else ""))
    reply = get()
    while reply.status == 202 != status:  # it is being made
        reply = get()
    assert reply.status == status, (path, query, reply)
    return reply


def edges(server, id, l, h, binary=False, **query):
    """(mask, weights, answer) of the edges route."""
    if binary:
        reply = ask(server, "%s/heads/%d/%d/edges" % (id, l, h), format="safetensors", weights="f32", **query)
        meta, a = llama_numpy.read_safetensors(reply.body)
        lo, hi = map(int, meta["rows"].split(":"))
        answer = dict(meta, rows=[lo, hi], **{name: a[name].astype(float if name in ("weights", "left_out") else int)
                                              for name in ("indptr", "indices", "weights", "left_out")})
        n = int(meta["n"])
    else:
        answer = ask(server, "%s/heads/%d/%d/edges" % (id, l, h), **query).json()
        lo, hi = answer["rows"]
        n = ROOM["n"]
    return dense(answer, n) + (answer,)


def dense(answer, n):
    lo, hi = answer["rows"]
    indptr, indices, weights = (numpy.array(answer[k]) for k in ("indptr", "indices", "weights"))
    assert indptr[0] == 0 and len(indptr) == hi - lo + 1 and indptr[-1] == len(indices) == len(weights)
    mask, values = numpy.zeros((n, n), bool), numpy.zeros((n, n))
    rows = numpy.repeat(numpy.arange(lo, hi), numpy.diff(indptr))
    for r in range(hi - lo):
        assert (numpy.diff(indices[indptr[r]:indptr[r + 1]]) > 0).all(), "keys rise within a row"
    mask[rows, indices.astype(int)] = True
    values[rows, indices.astype(int)] = weights
    return mask, values


def same(got, got_weights, want, want_weights, doubtful, tolerance=1e-4):
    wrong = (got != want) & ~doubtful
    assert not wrong.any(), (numpy.argwhere(wrong)[:5], wrong.sum())
    both = got & want
    worst = numpy.abs(got_weights - want_weights)[both].max(initial=0)
    assert worst < tolerance, worst


FINDER = {"window": 5, "global_first": 1}
ATTENTIONS = {
    "dense": ("dense", {}, {}),
    "strided": ("strided", {"stride": 8}, {}),
    "strided multihead": ("strided", {"stride": 6, "global_first": 1}, {"heads": "multihead"}),
    "fixed": ("fixed", {"stride": 16, "summary": 4, "distinct": 2}, {}),
    "fixed interleaved": ("fixed", {"stride": 12, "summary": 3}, {"heads": "interleaved"}),
    "window": ("window", {"window": 9}, {"alpha": 2}),
    "window none": ("window", {"window": 0}, {}),
    "longformer": ("longformer", {"window": 5, "global_first": 2}, {"alpha": 1.25}),
    "softmax": ("window", {"window": 17, "global_first": 1}, {"alpha": 1, "cut": {"mass": 0.95}}),
    "softmax top": ("strided", {"stride": 8}, {"alpha": 1, "cut": {"top_k": 6}}),
    "softmax least": ("dense", {}, {"alpha": 1, "cut": {"min_weight": 0.02}}),
    "other gold": ("window", {"window": 9, "global_first": 1}, {"gold_alpha": 2}),
    "l2": ("sparsefinder", dict(FINDER, grouping="distance", metric="l2"), {}),
    "euclidean": ("sparsefinder", dict(FINDER, grouping="distance", metric="euclidean", threshold=0.9), {}),
    "cosine": ("sparsefinder", dict(FINDER, grouping="distance", metric="cosine", threshold=0.4), {}),
    "dot": ("sparsefinder", dict(FINDER, grouping="distance", metric="dot", recall=0.9), {}),
    "keep": ("sparsefinder", dict(FINDER, grouping="distance", metric="dot", keep=5), {}),
    "frozen": ("sparsefinder", dict(FINDER, grouping="bucket", bins="frozen", buckets=5), {}),
    "fixed bins": ("sparsefinder", dict(FINDER, grouping="bucket", bins="fixed", buckets=6), {}),
    "equal": ("sparsefinder", dict(FINDER, grouping="bucket", bins="equal", buckets=6), {}),
    "cluster": ("sparsefinder", dict(FINDER, grouping="cluster", clusters=6, top=2, runs=2), {}),
    "cluster 1": ("sparsefinder", dict(FINDER, grouping="cluster", clusters=6, top=1, runs=1), {}),
}


def scene(name, n=110):
    """(attention, more members of the capture, ids, Graphs, Finder or None), with a margin for predicted graphs."""
    server, llama, fit = room()
    backend, params, how = ATTENTIONS[name]
    how = dict(how)
    attention, more = {"backend": backend, "params": params}, {}
    if "heads" in how:
        attention["heads"] = how["heads"]
    alpha = how.get("alpha", 1.5)
    spelled = lambda a: "softmax" if a == 1 else {"alpha": a}
    if "alpha" in how:
        attention["normalizer"] = spelled(alpha)
    if "cut" in how:
        more["gold"] = dict(how["cut"], normalizer="softmax")
    if "gold_alpha" in how:
        more["gold"] = {"normalizer": spelled(how["gold_alpha"])}
    for seed in range(40):
        ids = reference.tokens(seed, n)
        finder = reference.Finder(fit, params) if backend == "sparsefinder" else None
        mask = finder or reference.fixed_mask(backend, params, how.get("heads", "merged"))
        graphs = reference.Graphs(llama, ids, mask, alpha, how.get("gold_alpha"), how.get("cut"))
        if not finder or finder.margin > 1e-5:
            break
    else:
        raise AssertionError("no tokens with a margin")
    ROOM["n"] = n
    return attention, more, ids, graphs, finder


def check_record(r, m, w, graphs, ids):
    """Every number of a head's record from its edges; m, w: {graph: mask}, {graph: weights} as returned."""
    gold, pred, a = m["gold"], m["pred"], w["gold"]
    n = len(ids)
    i, j = numpy.indices((n, n))
    allowed, total = llama_numpy.causal(n), a.sum()
    same_token = numpy.equal.outer(ids, ids)
    shifted = numpy.zeros((n, n), bool)
    shifted[:, 1:] = same_token[:, :-1]
    counts = {"edges_gold": gold.sum(), "edges_pred": pred.sum(), "edges_both": (gold & pred).sum(),
              "edges_after": m["after"].sum(), "pairs_valid": allowed.sum(), "rows_valid": n,
              "rows_exact": (~(gold & ~pred).any(1)).sum(), "rows_empty": (~pred.any(1)).sum(),
              "max_degree": gold.sum(1).max()}
    for name, value in counts.items():  # points 2, 4
        assert r[name] == value, (name, r[name], value)
    ratio = lambda x, y: x / y if y else None
    numbers = {"recall": ratio(r["edges_both"], r["edges_gold"]), "precision": ratio(r["edges_both"], r["edges_pred"]),
               "f1": 2 * r["edges_both"] / (r["edges_gold"] + r["edges_pred"]),
               "sparsity": 1 - r["edges_pred"] / r["pairs_valid"],
               "sparsity_gold": 1 - r["edges_gold"] / r["pairs_valid"]}
    for name, value in numbers.items():  # point 2: to 1e-12 from the integers
        assert r[name] == value or abs(r[name] - value) < 1e-12, (name, r[name], value)
    entropy = -(a[gold] * numpy.log(a[gold])).sum() / n
    shares = {"mass_recall": (a * pred).sum() / total, "mean_distance": (a * abs(i - j)).sum() / total,
              "entropy": entropy, "self": a[i == j].sum() / total, "previous": a[j == i - 1].sum() / total,
              "sink": a[:, 0].sum() / total, "duplicate": a[same_token & (j < i)].sum() / total,
              "induction": a[shifted & (j >= 1) & (j <= i)].sum() / total}
    for name, value in shares.items():  # point 14: sum(A D) / sum(A)
        assert abs(r[name] - value) < 2e-5 * max(1, value), (name, r[name], value)


def check_scene(name):
    server = room()[0]
    attention, more, ids, graphs, finder = scene(name)
    made = capture(server, ids, attention, **more)
    found = lambda: ask(server, made["id"] + "/heads").json()["data"]
    harness.until(lambda: all(r["state"] == "ready" for r in found()), 120)
    records = found()
    assert [(r["layer"], r["head"]) for r in records] == \
        [(l, h) for l in range(reference.LAYERS) for h in range(H)]
    for index, r in enumerate(records):
        l, h, m, w = r["layer"], r["head"], {}, {}
        for k, graph in enumerate(GRAPHS):
            m[graph], w[graph], answer = edges(server, made["id"], l, h, (index + k) % 2 == 0, graph=graph)
            same(m[graph], w[graph], *graphs.graph(graph, l, h))
            assert int(answer["edges_total"]) == m[graph].sum() and int(answer["kv_head"]) == h // 2  # point 12
        assert (m["both"] == (m["gold"] & m["pred"])).all() and (m["missed"] == (m["gold"] & ~m["pred"])).all()
        assert (m["extra"] == (m["pred"] & ~m["gold"])).all() and not (m["after"] & ~m["pred"]).any()
        check_record(r, m, w, graphs, ids)
        if not (m["missed"]).any() and "gold_alpha" not in ATTENTIONS[name][2] and "cut" not in ATTENTIONS[name][2]:
            assert r["recall"] == 1 and (m["after"] == m["gold"]).all()  # point 2
            assert numpy.abs(w["after"] - w["gold"]).max() < 1e-6
    if name == "window none":  # point 3: an empty prediction
        assert all(r["precision"] is None and r["recall"] == 0 and r["f1"] == 0 for r in records)
    ask(server, made["id"], 200)
    assert server.request("DELETE", "/v1/attention/captures/" + made["id"]).status in (200, 204)
    ask(server, made["id"], 404)
    return graphs


# points 1-4, 12, 14 for each attention; one test each so that a failure names it
for _name in ATTENTIONS:
    globals()["test_graphs_" + _name.replace(" ", "_")] = lambda name=_name: check_scene(name)



def naive_slice(mask, weights, rows, cols=None, top_k=None, min_weight=None, mass=None):
    """(mask, left_out of every row): all cuts by plain loops, edges of weight 0 included."""
    kept = numpy.zeros_like(mask)
    for i in range(*rows):
        keys = sorted(numpy.flatnonzero(mask[i]), key=lambda j: (-weights[i, j], j))
        total = 0.0
        for rank, j in enumerate(keys):
            inside = (top_k is None or rank < top_k) and (min_weight is None or weights[i, j] >= min_weight) and \
                (mass is None or total < mass) and (cols is None or cols[0] <= j < cols[1])
            total += weights[i, j]
            kept[i, j] = inside
    return kept


def test_slices_of_predictions():
    """Cuts over graphs whose edges may weigh nothing; both formats. (Those of gold: test_graph.py.)"""
    server, (attention, more, ids, graphs, finder) = room()[0], scene("cluster")
    made, n = capture(server, ids, attention, **more), len(ids)
    for graph in ("pred", "extra", "missed"):
        mask, weights, _ = edges(server, made["id"], 2, 1, True, graph=graph)
        for cut in ({}, {"rows": (30, 77)}, {"cols": (50, 51)}, {"top_k": 9}, {"min_weight": 0.05}, {"min_weight": 0}, {"mass": 0.8},
                    {"top_k": 12, "mass": 0.9, "cols": (0, 60)}, {"rows": (7, 100), "min_weight": 0.01, "top_k": 8}):
            rows = cut.get("rows", (0, n))
            want = naive_slice(mask, weights, rows, **{k: v for k, v in cut.items() if k != "rows"})
            query = {k: "%d:%d" % v if isinstance(v, tuple) else v for k, v in cut.items()}
            for binary in (False, True):
                got, w, answer = edges(server, made["id"], 2, 1, binary, graph=graph, **query)
                assert (got == want).all(), (graph, cut)
                assert (numpy.float32(w) == numpy.float32(weights))[got].all()
                assert answer["rows"] == list(rows) and int(answer["edges_total"]) == got.sum()


class Mixed:
    """The prompt's rows by one mask made of the prompt alone, generated rows by another."""

    def __init__(self, prompt, n_prompt, decode):
        self.prompt, self.n_prompt, self.decode = prompt, n_prompt, decode

    def __call__(self, layer, q, k):
        out = self.decode(layer, q, k)
        if self.prompt is not self.decode:
            first = self.prompt(layer, q[:self.n_prompt], k[:self.n_prompt])
            out[:, :self.n_prompt] = False
            out[:, :self.n_prompt, :self.n_prompt] = first
        return out


def test_captured_generation():  # point 13
    """Rows of a prompt and of what was generated, under patterns that predict and that do not, are those of one pass."""
    server, llama, fit = room()
    for name, decode in (("strided", None), ("fixed", None), ("dot", None), ("keep", None), ("frozen", None), ("cluster", None),
                         ("equal", ("window", {"window": 7, "global_first": 1})), ("cluster", ("strided", {"stride": 4}))):
        backend, params, _ = ATTENTIONS[name]
        attention = {"backend": backend, "params": params, "capture": True}
        if decode:
            attention["decode"] = {"backend": decode[0], "params": decode[1]}
        for seed in range(40):
            prompt = reference.tokens(seed, 50)
            reply = server.complete(prompt=prompt, max_tokens=30, temperature=0, ignore_eos=True, attention=attention)
            assert reply.status == 200, reply
            id = reply.json()["attention_id"]
            ids = [t["id"] for t in ask(server, id + "/tokens").json()["data"]]
            assert ids[:50] == prompt and len(ids) == 80
            finder = reference.Finder(fit, params) if backend == "sparsefinder" else None
            mask = finder or reference.fixed_mask(backend, params)
            graphs = reference.Graphs(llama, ids, Mixed(mask, 50, reference.fixed_mask(*decode) if decode else mask))
            if not finder or finder.margin > 1e-5:
                break
        else:
            raise AssertionError("no tokens with a margin")
        ROOM["n"] = 80
        for l in range(reference.LAYERS):
            for h in range(H):
                for graph in ("gold", "pred", "after"):
                    found = edges(server, id, l, h, graph=graph)
                    same(found[0], found[1], *graphs.graph(graph, l, h))


def test_every_pair():
    """Dense attention over more tokens than an HTTP thread reads at once: pred is every pair, its weights are gold's."""
    server, n = room()[0], 2100
    made = server.post("/v1/attention/captures", {"input": reference.tokens(1, 2100 - 60) + [5] * 60}).json()
    assert made["n_query"] <= n and made["state"] in ("running", "ready")
    while made["state"] == "running":
        made = ask(server, made["id"]).json()
    ROOM["n"] = n
    gold, weights, _ = edges(server, made["id"], 1, 2, True)
    top = edges(server, made["id"], 1, 2, True, graph="pred", top_k=3)
    for i in range(n):
        line = weights[i, :i + 1]
        want = sorted(numpy.lexsort((numpy.arange(i + 1), -line))[:3])
        assert (numpy.flatnonzero(top[0][i]) == want).all(), i
    assert numpy.abs(top[1] - weights)[top[0]].max() < 1e-6
    path = "%s/heads/1/2/tiles/4/0/0" % made["id"]
    every = reference.tile(llama_numpy.causal(n).astype(int), 4, 0, 0)
    tile = lambda **q: numpy.frombuffer(ask(server, path, **q).body, "<u4").reshape(-1, 256, 256)
    assert (tile(graph="pred")[0] == every).all()
    both, missed, extra = tile(stat="diff")
    assert (both + extra == every).all() and not missed.any() and both.sum() == gold.sum()
    for stat in ("mass", "max"):
        bins = {g: numpy.frombuffer(ask(server, path, graph=g, stat=stat).body, "<f4") for g in ("gold", "pred", "after", "extra")}
        assert bins["gold"].any() and (bins["pred"] == bins["gold"]).all() and (bins["after"] == bins["gold"]).all()
        assert not bins["extra"].any()
    total = numpy.frombuffer(ask(server, path, graph="pred", stat="mass").body, "<f4").sum()
    assert abs(total - weights.sum()) < 1e-2 and abs(weights.sum() - n) < 1e-2
    shown = numpy.frombuffer(ask(server, made["id"] + "/overview", layer=1, graph="pred").body, numpy.uint8)
    assert (shown.reshape(H, 64, 64) == 255 * numpy.tril(numpy.ones((64, 64), int))).all()


def test_cursor_survives():  # point 9
    """Pages go on after the head's edges were evicted, by the least recent use; with the capture they are gone."""
    ids = reference.tokens(4, 700)
    sized = capture(room()[0], ids, "dense")
    ask(room()[0], sized["id"] + "/heads")
    largest = max(head["bytes"] for head in ask(room()[0], sized["id"]).json()["cached_heads"])
    budget = sized["bytes"] + 3 * largest
    with harness.Server("--kv", "f32", "--capture-bytes", budget, "--capture-max-bytes", budget, model=ROOM["folder"].name) as server:
        made, path = capture(server, ids, "dense"), "/heads/1/1/edges?limit=1500"
        cached = lambda: [(h["layer"], h["head"]) for h in ask(server, made["id"]).json()["cached_heads"]]
        whole = ask(server, made["id"] + "/heads/1/1/edges").json()
        parts, cursor, others = [], "", [(l, h) for l in range(reference.LAYERS) for h in range(H) if (l, h) != (1, 1)]
        while cursor is not None:
            page = ask(server, made["id"] + path + cursor).json()
            parts.append(page)
            assert (1, 1) in cached()
            for l, h in others:
                ask(server, "%s/heads/%d/%d/edges?limit=1" % (made["id"], l, h))
                assert (l, h) in cached()
            assert (1, 1) not in cached(), cached()
            cursor = page["next"] and "&cursor=" + page["next"]
        assert len(parts) > 3
        for name in ("indices", "weights", "left_out"):
            assert sum((part[name] for part in parts), []) == whole[name]
        others = [capture(server, ids, "dense") for _ in range(3)]
        ask(server, made["id"] + path + "&cursor=" + parts[0]["next"], 410)
        assert ask(server, others[-1]["id"]).json()["state"] == "ready"


def layer_case(heads, kv_heads, n, m, allowed):
    """q, k, v and scores of a layer whose pairs all lie clear of their thresholds."""
    for seed in range(200):
        random = numpy.random.RandomState(seed)
        q, k, v = (numpy.float32(random.randn(*shape) * 1.5) for shape in ((heads, n, 8), (kv_heads, m, 8), (kv_heads, m, 8)))
        scores = numpy.einsum("hid,hjd->hij", q.astype(float), k.astype(float).repeat(heads // kv_heads, 0)) / 8 ** 0.5
        mask = numpy.broadcast_to(allowed, scores.shape)
        weights = {a: llama_numpy.normalize(scores, mask, a) for a in (1.5, 2)}
        if not any(reference.doubt(scores, mask, w, a, None).any() for a, w in weights.items()):
            return q, k, v, weights
    raise AssertionError("no layer with a margin")


def test_metrics_of_random_layers():  # point 3
    """n and m that are no multiple of a block, padding, one token, cross attention, an empty prediction."""
    server = room()[0]
    cases = [(2, 1, 67, 67, True, None, "self"), (2, 2, 67, 67, False, None, "encoder"), (2, 2, 130, 130, False, 101, "encoder"),
             (1, 1, 1, 1, True, None, "self"), (1, 1, 1, 1, False, None, "encoder"), (2, 1, 33, 70, False, None, "cross"),
             (2, 1, 33, 70, False, 65, "cross"), (2, 1, 1, 65, False, None, "cross"), (4, 2, 90, 90, True, 64, "self")]
    for at, (heads, kv_heads, n, m, causal, valid, kind) in enumerate(cases):
        i, j = numpy.indices((n, m))
        allowed = (j < (valid or m)) & ((j <= i) | (not causal))
        rows = n if kind == "cross" or not valid else valid
        allowed &= i < rows
        q, k, v, weights = layer_case(heads, kv_heads, n, m, allowed)
        for alpha, window in ((1.5, 0), (1.5, 9), (2, 9), (2, 0)):
            if kind == "cross" and window:
                continue
            metadata = {"attention": json.dumps({"backend": "window", "params": {"window": window}, "normalizer": {"alpha": alpha}}),
                        "causal": "true" if causal else "false", "kind": kind}
            if valid:
                metadata["valid"] = str(valid)
            body = llama_numpy.write_safetensors({"q": q, "k": k, "v": v}, metadata)
            reply = server.request("POST", "/v1/attention/apply?metrics=true", body, {"Content-Type": "application/octet-stream"})
            assert reply.status == 200, (at, reply)
            size = int.from_bytes(reply.body[:8], "little")
            found = json.loads(json.loads(reply.body[8:8 + size])["__metadata__"]["metrics"])
            gold = weights[alpha] > 0
            pred = allowed & (abs(i - j) <= window // 2) & (window > 0)
            for h in range(heads):
                both, record = gold[h] & pred, found[h]
                want = {"edges_gold": gold[h].sum(), "edges_pred": pred.sum(), "edges_both": both.sum(), "pairs_valid": allowed.sum(),
                        "rows_valid": rows, "rows_exact": (~(gold[h] & ~pred).any(1))[:rows].sum(),
                        "rows_empty": (~pred.any(1))[:rows].sum()}
                assert {x: record[x] for x in want} == want, (at, alpha, window, h)
                ratios = {"recall": (both.sum(), gold[h].sum()), "precision": (both.sum(), pred.sum())}
                for name, (a, b) in ratios.items():
                    assert record[name] == (None if b == 0 else float(a / b)) or abs(record[name] - a / b) < 1e-12
                assert abs(record["sparsity"] - (1 - pred.sum() / allowed.sum())) < 1e-12
                assert abs(record["sparsity_gold"] - (1 - gold[h].sum() / allowed.sum())) < 1e-12


if __name__ == "__main__":
    try:
        harness.main(dict(globals()))
    finally:
        if ROOM:
            ROOM["it"][0].__exit__(None, None, None)
