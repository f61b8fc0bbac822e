"""Graphs over several heads against numpy: mean, max, union, rollout, two steps; labels; the difference of two captures;
sweeps of another attention over the same queries and keys; heads that were planted in a built model are found."""
import json
import os
import shutil
import sys
import tempfile

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import harness
import llama_numpy
import tiny_model

ROOM = tempfile.mkdtemp(prefix="sparsed-many-")
tiny_model.HEADS, tiny_model.KV_HEADS, tiny_model.LAYERS = 4, 2, 3
tiny_model.CONFIG.update(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
FOLDER = tiny_model.write(os.path.join(ROOM, "three"))
MODEL = llama_numpy.Llama(FOLDER)
PATH = "/v1/attention/captures"
IDS = [int(t) for t in numpy.random.RandomState(11).randint(1, 250, 90)]
N = len(IDS)
SETS = {"pos": [["DET", "NOUN", "VERB"][i * i % 3] for i in range(N)], "half": ["a" if i < N // 2 else "b" for i in range(N)]}

server = harness.Server("--kv", "f32", "--threads", "2", model=FOLDER)


def capture(**fields):
    reply = server.post(PATH, dict({"input": IDS, "labels": SETS}, **fields))
    assert reply.status == 201, reply
    return reply.json()


def get(one, path, status=200):
    reply = server.get(PATH + "/" + one["id"] + path)
    assert reply.status == status, (path, reply)
    return reply.json()


def dense(slice_):
    weights, mask = numpy.zeros((N, N)), numpy.zeros((N, N), bool)
    for r in range(len(slice_["indptr"]) - 1):
        a, b = slice_["indptr"][r], slice_["indptr"][r + 1]
        weights[slice_["rows"][0] + r, slice_["indices"][a:b]] = slice_["weights"][a:b]
        mask[slice_["rows"][0] + r, slice_["indices"][a:b]] = True
    return weights, mask


ONE = capture(attention={"backend": "window", "params": {"window": 15}})
SCORES = MODEL.scores(numpy.array(IDS), llama_numpy.window(N, 15), 1.5)
GOLD = llama_numpy.normalize(SCORES, numpy.broadcast_to(llama_numpy.causal(N), SCORES.shape), 1.5)
PRED = llama_numpy.normalize(SCORES, numpy.broadcast_to(llama_numpy.window(N, 15), SCORES.shape), 1.5)


def close(found, wanted, left=None, tolerance=2e-4):
    weights, mask = dense(found)
    assert numpy.abs(weights - wanted).max() < tolerance, numpy.abs(weights - wanted).max()
    wrong = mask != (wanted > 0)
    assert not wrong.any() or wanted[wrong].max() < 1e-5
    if left is not None:
        assert numpy.abs(numpy.array(found["left_out"]) - left).max() < tolerance
    assert found["layer"] is None and found["head"] is None and found["metrics"] is None


def test_mean_max_union():
    close(get(ONE, "/aggregate?op=mean"), GOLD.mean(axis=(0, 1)), numpy.zeros(N))
    close(get(ONE, "/aggregate?op=max"), GOLD.max(axis=(0, 1)), numpy.zeros(N))
    close(get(ONE, "/aggregate?op=union&layers=0,2&heads=1"), GOLD[[0, 2], 1].max(axis=0), numpy.zeros(N))
    close(get(ONE, "/aggregate?op=mean&graph=after&layers=1"), PRED[1].mean(axis=0), numpy.zeros(N))
    every = dense(get(ONE, "/aggregate?op=mean"))[0]
    cut = get(ONE, "/aggregate?op=mean&top_k=4")
    weights, mask = dense(cut)
    for i in range(N):
        order = sorted(range(N), key=lambda j: (-every[i, j], j))[:4]
        assert mask[i].sum() == min(4, (every[i] > 0).sum()) and (weights[i, order] == every[i, order]).all()
        assert abs(cut["left_out"][i] - (every[i].sum() - weights[i].sum())) < 1e-5
    joined, cursor = [], ""
    while cursor is not None:
        part = get(ONE, "/aggregate?op=mean&limit=100" + cursor)
        joined += part["indices"]
        cursor = part["next"] and "&cursor=" + part["next"]
    assert joined == get(ONE, "/aggregate?op=mean")["indices"]
    for op in ("mean", "max", "reach2", "rollout"):  # rows of an answer are those of the whole
        weights, mask = dense(get(ONE, "/aggregate?op=" + op))
        part = dense(get(ONE, "/aggregate?rows=30:70&op=" + op))
        assert (part[1][30:70] == mask[30:70]).all() and (part[0][30:70] == weights[30:70]).all(), op
    binary = server.get(PATH + "/" + ONE["id"] + "/aggregate?op=mean&format=safetensors&weights=f32")
    _, tensors = llama_numpy.read_safetensors(binary.body)
    assert tensors["indices"].tolist() == joined


def rollout(graphs):
    product = numpy.eye(N)
    for layer in graphs:
        product = (layer.mean(axis=0) + numpy.eye(N)) / 2 @ product
    return product


def test_rollout():
    wanted = rollout(GOLD)
    found = get(ONE, "/aggregate?op=rollout")
    close(found, wanted, numpy.zeros(N), 1e-4)
    gold = [numpy.array([dense(get(ONE, "/heads/%d/%d/edges" % (l, h)))[0] for h in range(4)]) for l in range(3)]
    assert numpy.abs(dense(found)[0] - rollout(gold)).max() < 1e-5
    close(get(ONE, "/aggregate?op=rollout&layers=2,0&heads=3"), rollout(GOLD[[0, 2]][:, 3:]), None, 1e-4)
    cut = get(ONE, "/aggregate?op=rollout&top_k=5")
    weights, mask = dense(cut)
    assert mask.sum(axis=1).max() == 5 and max(cut["left_out"]) > 0.05
    assert numpy.abs(weights.sum(axis=1) + cut["left_out"] - 1).max() < 1e-5
    product = numpy.eye(N)
    for layer in gold:
        product = (layer.mean(axis=0) + numpy.eye(N)) / 2 @ product
        for row in product:
            row[sorted(range(N), key=lambda j: (-row[j], j))[5:]] = 0
    assert numpy.abs(product - weights).max() < 1e-5
    softmax = capture(attention={"normalizer": "softmax"})
    found = get(softmax, "/aggregate?op=rollout")
    kept = dense(found)[0].sum(axis=1)
    assert numpy.abs(kept + found["left_out"] - 1).max() < 1e-5 and kept.max() <= 1 and kept.min() < 0.99


def test_reach():
    mean = GOLD.mean(axis=(0, 1))
    close(get(ONE, "/aggregate?op=reach2"), mean @ mean)
    some = GOLD[1, 0]
    close(get(ONE, "/aggregate?op=reach2&layers=1&heads=0"), some @ some)


def test_aggregate_refusals():
    for query, status, param in (("", 400, "op"), ("?op=sum", 400, "op"), ("?op=mean&layers=3", 404, "layers"),
                                 ("?op=mean&heads=", 400, "heads"), ("?op=rollout&top_k=0", 400, "top_k"),
                                 ("?op=mean&by=x", 400, "by"), ("?op=mean&rows=5:5", 400, "rows")):
        assert get(ONE, "/aggregate" + query, status)["error"]["param"] == param, query


def test_aggregate_memory():
    """What an aggregate works on counts within --capture-bytes, is refused before anything is computed, and goes back."""
    ids = [int(t) for t in numpy.random.RandomState(12).randint(1, 250, 250)]
    size = server.post(PATH, {"input": ids}).json()["bytes"]
    with harness.Server("--kv", "f32", "--capture-bytes", str(size + 657000), model=FOLDER) as other:
        one = other.post(PATH, {"input": ids}).json()
        assert one["bytes"] == size, one
        path = PATH + "/" + one["id"]

        def ask(query, status):
            reply = other.get(path + "/aggregate?limit=100&op=" + query)
            assert reply.status == status, (query, reply)
            return reply

        for query, param in (("rollout", "top_k"), ("reach2", "capture_bytes"), ("rollout&top_k=250", "capture_bytes")):
            error = ask(query, 413).error()
            assert error["param"] == param and "bytes" in error["message"], error
        harness.until(lambda: other.get("/v1/limits").json()["capture_bytes_used"] == size)
        assert other.get(path).json()["cached_heads"] == []
        every, some = (ask("mean&rows=40:50" + more, 200).json() for more in ("", "&cols=10:30"))
        assert every["edges_total"] > 10 and set(some["indices"]) <= set(every["indices"]) & set(range(10, 30))
        for query in ("mean", "union", "rollout&top_k=5"):
            assert ask(query, 200).json()["edges_total"] > 250, query
        heads = sum(h["bytes"] for h in other.get(path).json()["cached_heads"])
        assert heads > 0
        harness.until(lambda: other.get("/v1/limits").json()["capture_bytes_used"] == size + heads)


def test_labels():
    for name in ("pos", "half"):
        found = get(ONE, "/labels?graph=both&set=" + name)
        labels = found["labels"]
        assert sorted(labels) == sorted(set(SETS[name])) and found["set"] == name and len(found["data"]) == 12
        number = numpy.array([labels.index(label) for label in SETS[name]])
        for entry in found["data"]:
            edges = get(ONE, "/heads/%d/%d/edges?graph=both" % (entry["layer"], entry["head"]))
            weights, mask = dense(edges)
            counts = numpy.zeros((len(labels), len(labels)))
            mass = numpy.zeros((len(labels), len(labels)))
            i, j = numpy.nonzero(mask)
            numpy.add.at(counts, (number[i], number[j]), 1)
            numpy.add.at(mass, (number[i], number[j]), weights[i, j])
            assert (numpy.array(entry["counts"]) == counts).all() and counts.sum() == edges["edges_total"]
            assert numpy.abs(numpy.array(entry["mass"]) - mass).max() < 1e-5
    assert get(ONE, "/labels")["set"] == "pos"
    one = get(ONE, "/labels?layer=2&head=1")["data"]
    assert [(e["layer"], e["head"]) for e in one] == [(2, 1)]
    assert get(ONE, "/labels?set=ner", 404)["error"]["param"] == "set"
    assert get(ONE, "/labels?by=moon", 400)["error"]["param"] == "by"
    assert get(capture(labels=None), "/labels", 404)["error"]["param"] == "labels"


def test_compare():
    two = capture(attention={"backend": "window", "params": {"window": 31}})
    for graph in ("gold", "pred", "missed"):
        for layer, head in ((0, 0), (2, 3)):
            a, b = (dense(get(c, "/heads/%d/%d/edges?graph=%s" % (layer, head, graph)))[1] for c in (ONE, two))
            found = server.get("/v1/attention/compare?a=%s&b=%s&layer=%d&head=%d&graph=%s" % (
                ONE["id"], two["id"], layer, head, graph)).json()
            wanted = {"edges_a": a.sum(), "edges_b": b.sum(), "both": (a & b).sum(), "only_a": (a & ~b).sum(),
                      "only_b": (b & ~a).sum()}
            assert {name: found[name] for name in wanted} == wanted
    other = capture(input=IDS[::-1], labels=None)
    base = "/v1/attention/compare?a=%s&b=%s" % (ONE["id"], other["id"])
    assert server.get(base + "&layer=0&head=0").status == 409
    for query, status, param in (("&head=0", 400, "layer"), ("&layer=0", 400, "head"), ("&layer=9&head=0", 404, "layer"),
                                 ("&layer=0&head=0&graph=x", 400, "graph"), ("&layer=0&head=0&c=d", 400, "c")):
        reply = server.get("/v1/attention/compare?a=%s&b=%s%s" % (ONE["id"], two["id"], query))
        assert reply.status == status and reply.error()["param"] == param, (query, reply)
    assert server.get("/v1/attention/compare?a=x&b=%s&layer=0&head=0" % two["id"]).status == 404
    assert server.get("/v1/attention/compare?b=%s&layer=0&head=0" % two["id"]).error()["param"] == "a"


def sweep(one, **body):
    return harness.finished(server, server.post(PATH + "/" + one["id"] + "/sweep", body))


def test_sweep():
    dense_one = capture()
    scores = MODEL.scores(numpy.array(IDS), llama_numpy.causal(N), 1.5)
    gold = llama_numpy.normalize(scores, numpy.broadcast_to(llama_numpy.causal(N), scores.shape), 1.5)
    found = sweep(dense_one, attention={"backend": "window"}, grid={"window": [0, 1, 9, 201], "global_first": [0, 3]},
                  layers=[0, 2], heads=[1])
    assert found["state"] == "ready" and found["done"] == found["total"] == len(found["points"]) == 16
    i, j = numpy.indices((N, N))
    for point in found["points"]:
        assert point["attention"]["backend"] == "window"
        w, first = point["attention"]["params"]["window"], point["attention"]["params"]["global_first"]
        pred = llama_numpy.window(N, w) | (llama_numpy.causal(N) & ((i < first) | (j < first)))
        weights = gold[point["layer"], point["head"]]
        wanted = llama_numpy.record(weights, pred, llama_numpy.causal(N), numpy.array(IDS))
        for name in ("edges_pred", "pairs_valid"):
            assert point[name] == wanted[name]
        for name in ("edges_gold", "edges_both", "rows_exact"):
            assert abs(point[name] - wanted[name]) <= 2
        assert abs(point["mass_recall"] - wanted["mass_recall"]) < 1e-3
        assert abs(point["sparsity"] - (1 - point["edges_pred"] / point["pairs_valid"])) < 1e-12
        if w == 201:
            assert point["recall"] == 1 and point["rows_exact"] == N
    assert {(p["layer"], p["head"]) for p in found["points"]} == {(0, 1), (2, 1)}
    whole = sweep(dense_one, attention="strided", grid={"stride": [4]})
    assert whole["total"] == 12 and all(p["attention"]["params"] == {"stride": 4} for p in whole["points"])
    for body, param in (({"grid": {"window": [1]}}, "attention"), ({"attention": "nobody"}, "attention.backend"),
                        ({"attention": "window", "grid": {"window": [2]}}, "grid.window"),
                        ({"attention": "window", "grid": {"size": [2]}}, "grid.size"),
                        ({"attention": "window", "grid": {"window": 3}}, "grid.window"),
                        ({"attention": "window", "grid": []}, "grid"), ({"attention": "window", "layers": [9]}, "layers"),
                        ({"attention": "window", "heads": []}, "heads"), ({"attention": "window", "steps": 1}, "steps")):
        reply = server.post(PATH + "/" + dense_one["id"] + "/sweep", body)
        assert reply.status == 400 and reply.error()["param"] == param, (body, reply)
    many = {"attention": "fixed", "grid": {"stride": list(range(1, 200)), "summary": list(range(1, 200))}}
    assert server.post(PATH + "/" + dense_one["id"] + "/sweep", many).status == 413
    assert server.get(PATH + "/" + dense_one["id"] + "/sweeps/none").status == 404
    assert server.get(PATH + "/" + ONE["id"] + "/sweeps/" + found["id"]).status == 404
    assert server.post(PATH + "/" + dense_one["id"] + "/edges", {}).status == 405


# --- planted heads: a model built so that each head does one thing ---

WIDE, CODES = 64, 24


def planted():
    """Layer 0: a head that reads the previous token, one that reads position 0, one that reads earlier copies of its own
    token, one that reads itself. Layer 1: a head that reads what followed an earlier copy (it finds keys whose previous
    token, copied there by layer 0, is its own)."""
    random = numpy.random.RandomState(1)
    codes = numpy.linalg.qr(random.randn(CODES, CODES))[0]
    embed = numpy.zeros((260, WIDE))
    for t in range(260):  # dimensions 0..23 the token's code, 48 constant, 49 marks the first token
        embed[t, :CODES] = codes[t % CODES] * 3
        embed[t, 48] = 3.0
    embed[0, 49] = 6.0
    dim, half, theta = 64, 32, 1e12
    frequency = theta ** (-numpy.arange(half) / half)
    out = {"model.embed_tokens.weight": embed, "model.norm.weight": numpy.ones(WIDE)}
    for layer in range(2):
        at = "model.layers.%d." % layer
        q, k = numpy.zeros((4, dim, WIDE)), numpy.zeros((4, dim, WIDE))
        v, o = numpy.zeros((4, dim, WIDE)), numpy.zeros((WIDE, 4 * dim))
        for f in range(half):  # previous token: q and k turned against each other by one position
            q[0, f, 48] = k[0, f, 48] = 8.0
            q[0, f, 48], q[0, f + half, 48] = 8 * numpy.cos(frequency[f]), -8 * numpy.sin(frequency[f])
            q[3, f, 48] = k[3, f, 48] = 8.0  # itself: most alike at distance 0
        slow = numpy.argsort(frequency)[:CODES]  # pairs that hardly turn within the text
        for c, f in enumerate(slow):
            q[2, f, c] = k[2, f, c] = 6.0
            q[1, f, 48] = 3.0
            k[1, f, 49] = 6.0
        if layer == 0:  # the previous token's code, into dimensions 24..47
            v[0, :CODES, :CODES] = numpy.eye(CODES)
            o[CODES:2 * CODES, :CODES] = numpy.eye(CODES) * 3
        else:  # keys by the token before them, queries by their own
            k[2] = 0
            for c, f in enumerate(slow):
                k[2, f, CODES + c] = 6.0
        out.update({at + "input_layernorm.weight": numpy.ones(WIDE),
                    at + "post_attention_layernorm.weight": numpy.ones(WIDE),
                    at + "self_attn.q_proj.weight": q.reshape(4 * dim, WIDE),
                    at + "self_attn.k_proj.weight": k.reshape(4 * dim, WIDE),
                    at + "self_attn.v_proj.weight": v.reshape(4 * dim, WIDE),
                    at + "self_attn.o_proj.weight": o, at + "mlp.gate_proj.weight": numpy.zeros((48, WIDE)),
                    at + "mlp.up_proj.weight": numpy.zeros((48, WIDE)),
                    at + "mlp.down_proj.weight": numpy.zeros((WIDE, 48))})
    folder = os.path.join(ROOM, "planted")
    os.makedirs(folder, exist_ok=True)
    config = dict(tiny_model.CONFIG, hidden_size=WIDE, num_attention_heads=4, num_key_value_heads=4, head_dim=dim,
                  num_hidden_layers=2, rope_theta=theta)
    parts = {"config.json": json.dumps(config).encode(), "tokenizer.json": json.dumps(tiny_model.tokenizer()).encode(),
             "model.safetensors": tiny_model.safetensors({n: tiny_model.to_bf16(a) for n, a in out.items()})}
    for name, data in parts.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    return folder


def test_planted():
    first = [int(t) for t in numpy.random.RandomState(3).permutation(23)[:20] + 1]
    ids = [0] + first + first + first
    folder = planted()
    model = llama_numpy.Llama(folder)
    n = len(ids)
    allowed = llama_numpy.causal(n)
    scores = model.scores(numpy.array(ids), allowed, 1.5)
    gold = llama_numpy.normalize(scores, numpy.broadcast_to(allowed, scores.shape), 1.5)
    with harness.Server("--kv", "f32", model=folder) as other:
        one = other.post(PATH, {"input": ids}).json()
        where = {"previous": (0, 0), "sink": (0, 1), "duplicate": (0, 2), "self": (0, 3), "induction": (1, 2)}
        for pattern, (layer, head) in where.items():
            data = other.get(PATH + "/%s/heads?pattern=%s" % (one["id"], pattern)).json()["data"]
            same_head = [(r["layer"], r["head"]) for r in data if r[pattern] >= data[0][pattern] - 1e-6]
            assert (layer, head) in same_head, (pattern, [(r["layer"], r["head"], r[pattern]) for r in data[:4]])
            assert [h for l, h in same_head if l == layer] == [head], (pattern, same_head)
            assert data[0][pattern] > 0.3, (pattern, data[0])
            for r in data:  # the "mul" score of TransformerLens: sum(A D) / sum(A)
                wanted = llama_numpy.record(gold[r["layer"], r["head"]], allowed, allowed, numpy.array(ids))[pattern]
                assert abs(r[pattern] - wanted) < 1e-3, (pattern, r, wanted)


if __name__ == "__main__":
    try:
        with server:
            harness.main(globals())
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)
