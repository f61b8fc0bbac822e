"""Clusters of captured heads against numpy, under sparsefinder with a random fit made here: members, edges inside, gold edges
that the clustering cuts, label histograms, cluster ids of tokens; a sweep over the fit; attentions without clusters."""
import os
import shutil
import sys
import tempfile

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import fit_file
import harness
import llama_numpy
import tiny_model

ROOM = tempfile.mkdtemp(prefix="sparsed-clusters-")
tiny_model.HEADS, tiny_model.KV_HEADS = 4, 2
tiny_model.CONFIG.update(num_attention_heads=4, num_key_value_heads=2)
FOLDER = tiny_model.write(os.path.join(ROOM, "fitted"))
MODEL = llama_numpy.Llama(FOLDER)
HEADS, DIM, RANK, LAYERS, PATH = 4, 16, 3, 2, "/v1/attention/captures"
SIZES = (4, 7)


def make_fit():
    random, out = numpy.random.RandomState(77), {}
    for layer in range(LAYERS):
        for size in SIZES:
            at = "layers.%d.self.cluster%d." % (layer, size)
            out[at + "q_proj.weight"], out[at + "q_proj.bias"] = random.randn(HEADS, DIM, RANK), random.randn(HEADS, RANK)
            out[at + "k_proj.weight"], out[at + "k_proj.bias"] = random.randn(HEADS, DIM, RANK), random.randn(HEADS, RANK)
            out[at + "centroids"] = 6 * random.randn(HEADS, 1, size, RANK)
    return {name: values.astype(numpy.float32) for name, values in out.items()}


FIT = make_fit()
fit_file.write(os.path.join(FOLDER, "sparsefinder.safetensors"), FIT, RANK)
IDS = [int(t) for t in numpy.random.RandomState(4).randint(1, 250, 140)]
N = len(IDS)
LABELS = {"pos": [["NOUN", "VERB", "DET"][i % 3] for i in range(N)], "side": ["left"] * 50 + ["right"] * (N - 50)}
server = harness.Server("--kv", "f32", "--threads", "2", model=FOLDER)


def order(layer, size, q, k):
    """Centroids by distance of every query and key: (heads, n, size)."""
    at, out = "layers.%d.self.cluster%d." % (layer, size), []
    for x, name in ((q, "q"), (k, "k")):
        y = numpy.einsum("nhd,hdr->hnr", x, FIT[at + name + "_proj.weight"].astype(float))
        y += FIT[at + name + "_proj.bias"][:, None, :]
        centroids = FIT[at + "centroids"][:, 0].astype(float)
        distance = ((y[:, :, None, :] - centroids[:, None, :, :]) ** 2).sum(-1)
        out.append(numpy.argsort(distance, axis=-1, kind="stable"))
    return out


class Run:
    """What a capture under clusters holds: gold, pure cluster graph, nearest clusters."""

    def __init__(self, size, top, window, first):
        self.near, self.pure = [], []
        i, j = numpy.indices((N, N))
        fixed = llama_numpy.window(N, window) | (llama_numpy.causal(N) & ((i < first) | (j < first)))

        def mask(layer, q, k):
            q_order, k_order = order(layer, size, q, k)
            meet = (q_order[:, :, None, :top, None] == k_order[:, None, :, None, :top]).any((-1, -2))
            self.near.append((q_order[:, :, 0], k_order[:, :, 0]))
            self.pure.append(meet & llama_numpy.causal(N))
            return (meet & llama_numpy.causal(N)) | fixed

        scores = MODEL.scores(numpy.array(IDS), mask, 1.5)
        allowed = numpy.broadcast_to(llama_numpy.causal(N), scores.shape)
        self.gold = llama_numpy.normalize(scores, allowed, 1.5) > 1e-7


def capture(**fields):
    reply = server.post(PATH, dict({"input": IDS, "labels": LABELS}, **fields))
    assert reply.status == 201, reply
    return reply.json()


def get(one, path, status=200):
    reply = server.get(PATH + "/" + one["id"] + path)
    assert reply.status == status, (path, reply)
    return reply.json()


def finder(size, **params):
    return {"backend": "sparsefinder", "params": dict({"grouping": "cluster", "clusters": size}, **params)}


def members(one, layer, head, cluster, limit):
    queries, keys, cursor, pages = [], [], "", 0
    while cursor is not None:
        page = get(one, "/heads/%d/%d/clusters/%d?limit=%d%s" % (layer, head, cluster, limit, cursor))
        queries += page["queries"]
        keys += page["keys"]
        cursor = page["next"] and "&cursor=" + page["next"]
        pages += 1
    return queries, keys, pages


def test_clusters():
    for size, top, window, first in ((4, 1, 0, 0), (7, 2, 5, 1)):
        one = capture(attention=finder(size, top=top, window=window, global_first=first))
        run = Run(size, top, window, first)
        for layer in range(LAYERS):
            for head in range(HEADS):
                near_q, near_k = run.near[layer][0][head], run.near[layer][1][head]
                gold, pure = run.gold[layer, head], run.pure[layer][head]
                found = get(one, "/heads/%d/%d/clusters" % (layer, head))
                assert [c["cluster"] for c in found["clusters"]] == list(range(size))
                missed = numpy.zeros((size, size), int)
                i, j = numpy.nonzero(gold & ~pure)
                numpy.add.at(missed, (near_q[i], near_k[j]), 1)
                assert numpy.abs(numpy.array(found["missed"]) - missed).sum() <= 2
                for c in found["clusters"]:
                    assert c["size_q"] == (near_q == c["cluster"]).sum() and c["size_k"] == (near_k == c["cluster"]).sum()
                    inside = gold[near_q == c["cluster"]][:, near_k == c["cluster"]].sum()
                    assert abs(c["edges"] - inside) <= 2
                    for name, near, count in (("labels_q", near_q, c["size_q"]), ("labels_k", near_k, c["size_k"])):
                        own = [LABELS["pos"][t] for t in range(N) if near[t] == c["cluster"]]
                        assert c[name] == {label: own.count(label) for label in set(own)} and sum(c[name].values()) == count
                tokens = get(one, "/tokens?layer=%d&head=%d" % (layer, head))["data"]
                assert [t["clusters"] for t in tokens] == [{"q": int(a), "k": int(b)} for a, b in zip(near_q, near_k)]
                if window == 0:  # nothing but clusters: the missed graph is what the clustering cuts
                    edges = get(one, "/heads/%d/%d/edges?graph=missed" % (layer, head))["edges_total"]
                    assert sum(map(sum, found["missed"])) == edges
        parts = [members(one, 1, 2, c, 9) for c in range(size)]
        assert sorted(sum((p[0] for p in parts), [])) == sorted(sum((p[1] for p in parts), [])) == list(range(N))
        assert all(p[0] == [t for t in range(N) if run.near[1][0][2][t] == c] for c, p in enumerate(parts))
        assert any(p[2] > 1 for p in parts)
        sides = get(one, "/heads/0/0/clusters?set=side")["clusters"]
        assert sum(c["labels_q"].get("left", 0) for c in sides) == 50
        assert get(one, "/heads/0/0/clusters/%d" % size, 404)["error"]["param"] == "cluster"
        assert get(one, "/heads/0/0/clusters/x", 404)["error"]["param"] == "cluster"
        assert get(one, "/heads/0/0/clusters?set=ner", 404)["error"]["param"] == "set"
        assert get(one, "/heads/0/9/clusters", 404)["error"]["param"] == "head"
        assert get(one, "/tokens?layer=0", 400)["error"]["param"] == "head"
    plain = capture(labels=None, attention=finder(4))
    assert all("labels_q" not in c for c in get(plain, "/heads/0/0/clusters")["clusters"])


def test_prediction():
    """Pred of a captured run is the graph that ran, and a sweep over the same fit finds the same edges."""
    run = Run(7, 1, 0, 0)
    one = capture(attention=finder(7, top=1, window=0, global_first=0))
    for layer in range(LAYERS):
        for head in range(HEADS):
            pred = get(one, "/heads/%d/%d/edges?graph=pred" % (layer, head))
            rows = [pred["indices"][pred["indptr"][i]:pred["indptr"][i + 1]] for i in range(N)]
            wanted = [numpy.nonzero(run.pure[layer][head][i])[0].tolist() for i in range(N)]
            assert rows == wanted, (layer, head)
    reply = server.post(PATH + "/" + one["id"] + "/sweep",
                        {"attention": finder(7, window=0, global_first=0), "grid": {"clusters": [4, 7], "top": [1, 2]}})
    found = harness.finished(server, reply)
    assert found["state"] == "ready" and len(found["points"]) == 4 * LAYERS * HEADS, found["error"]
    records = {(r["layer"], r["head"]): r for r in get(one, "/heads")["data"]}
    for point in found["points"]:
        record, params = records[point["layer"], point["head"]], point["attention"]["params"]
        assert point["edges_gold"] == record["edges_gold"]
        if (params["clusters"], params["top"]) == (7, 1):
            for name in ("edges_pred", "edges_both", "rows_exact", "recall"):
                assert point[name] == record[name], name
    refused = server.post(PATH + "/" + one["id"] + "/sweep", {"attention": finder(7), "grid": {"clusters": [5]}})
    assert refused.status == 400 and refused.error()["param"] == "grid.clusters", refused


def test_none():
    one = capture(attention="window")
    for path in ("/heads/0/0/clusters", "/heads/0/0/clusters/0", "/tokens?layer=0&head=0"):
        error = get(one, path, 404)["error"]
        assert error["param"] == "clusters" and "clusters" in error["message"]


if __name__ == "__main__":
    try:
        with server:
            harness.main(globals())
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)
