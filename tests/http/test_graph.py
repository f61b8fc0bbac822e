"""Attention graphs over HTTP against float64 numpy (tests/support/llama_numpy.py): a model made here, four query heads on
two KV heads, whose every gold weight, edge and number is computed apart from the engine."""
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

GRAPHS = ("gold", "pred", "both", "missed", "extra", "after")
FOLDER = os.path.join(tempfile.mkdtemp(prefix="sparsed-graph-"), "grouped")
tiny_model.HEADS, tiny_model.KV_HEADS = 4, 2
tiny_model.CONFIG.update(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024)
MODEL = llama_numpy.Llama(tiny_model.write(FOLDER))
random = numpy.random.RandomState(5)
IDS = [int(t) for t in random.randint(1, 12, 170)] + [int(t) for t in random.randint(1, 250, 60)]
N = len(IDS)
ALPHAS = {"entmax15": 1.5, "sparsemax": 2.0, "softmax": 1.0}
TOLERANCE = 2e-4

server = harness.Server("--kv", "f32", "--threads", "2", model=FOLDER)


def capture(**fields):
    reply = server.post("/v1/attention/captures", dict({"input": IDS}, **fields))
    assert reply.status == 201, reply
    value = reply.json()
    assert value["state"] == "ready" and value["n_query"] == len(fields.get("input", IDS)), value
    assert reply.headers["location"] == "/v1/attention/captures/" + value["id"]
    return value


def get(one, path, status=200, **more):
    reply = server.get("/v1/attention/captures/" + one["id"] + path, **more)
    assert reply.status == status, (path, reply)
    return reply


def dense(slice_, n=N):
    """A JSON slice as (mask, weights) of n x n."""
    mask, weights = numpy.zeros((n, n), bool), numpy.zeros((n, n))
    first, keys, values = slice_["rows"][0], slice_["indices"], slice_["weights"]
    for r in range(slice_["rows"][1] - first):
        a, b = slice_["indptr"][r], slice_["indptr"][r + 1]
        assert keys[a:b] == sorted(set(keys[a:b])), "keys of row %d" % r
        mask[first + r, keys[a:b]] = True
        weights[first + r, keys[a:b]] = values[a:b]
    assert slice_["indptr"][0] == 0 and slice_["edges_returned"] == len(keys) == slice_["indptr"][-1]
    return mask, weights


def whole(one, layer, head, graph, extra=""):
    reply = get(one, "/heads/%d/%d/edges?graph=%s%s" % (layer, head, graph, extra)).json()
    assert not reply["truncated"] and reply["next"] is None and reply["graph"] == graph
    return reply


class Expected:
    """Gold and pred of one capture, in float64."""

    def __init__(self, alpha, mask, mass=None, ids=IDS):
        self.ids, self.mask, self.allowed = numpy.array(ids), mask, llama_numpy.causal(len(ids))
        scores = MODEL.scores(self.ids, mask, alpha)
        shape = numpy.broadcast_to(self.allowed, scores.shape)
        self.full = llama_numpy.normalize(scores, shape, alpha)
        self.pred = llama_numpy.normalize(scores, numpy.broadcast_to(mask, scores.shape), alpha)
        self.gold = self.full
        if mass:
            self.gold = numpy.array([[llama_numpy.cut_mass(head, mass) for head in layer] for layer in self.full])

    def weights(self, graph, layer, head):
        gold, pred = self.gold[layer, head], self.pred[layer, head]
        return {"gold": gold, "both": gold, "missed": gold}.get(graph, pred)

    def edges(self, graph, layer, head):
        has, pred = self.gold[layer, head] > 0, self.mask
        return {"gold": has, "pred": pred, "both": has & pred, "missed": has & ~pred, "extra": pred & ~has,
                "after": pred & (self.pred[layer, head] > 0)}[graph]


def same_edges(mask, expected, weights, unsure=2):
    """Equal but for `unsure` edges whose weight is next to nothing."""
    wrong = mask != expected
    assert wrong.sum() <= unsure and (not wrong.any() or weights[wrong].max() < 1e-5), (wrong.sum(), weights[wrong])


def check_capture(one, expected, layers=2, heads=4):
    records = {(r["layer"], r["head"]): r for r in get(one, "/heads").json()["data"]}
    assert len(records) == layers * heads
    for layer in range(layers):
        for head in range(heads):
            found, edges = records[layer, head], {}
            assert found["kv_head"] == head // 2 and found["state"] == "ready"
            for graph in GRAPHS:
                answer = whole(one, layer, head, graph)
                mask, weights = dense(answer)
                edges[graph] = mask
                wanted = expected.weights(graph, layer, head)
                same_edges(mask, expected.edges(graph, layer, head), wanted)
                assert numpy.abs(weights - wanted)[mask].max(initial=0) < TOLERANCE
                if graph != "pred" and graph != "extra":
                    assert (weights[mask] > 0).all()
                full = expected.full if graph in ("gold", "both", "missed") else expected.pred
                left = full[layer, head].sum(axis=1) - (wanted * mask).sum(axis=1)
                assert numpy.abs(numpy.array(answer["left_out"]) - left).max() < TOLERANCE
                assert answer["edges_total"] == mask.sum() and answer["metrics"]["edges_gold"] == found["edges_gold"]
            check_record(found, edges, expected, layer, head)


def check_record(found, edges, expected, layer, head):
    """Integers by counting the returned edges, and within 2 of float64; ratios from integers; shares from float64."""
    both, gold, pred = edges["both"].sum(), edges["gold"].sum(), edges["pred"].sum()
    assert (edges["both"] == (edges["gold"] & edges["pred"])).all()
    assert (edges["missed"] == (edges["gold"] & ~edges["pred"])).all()
    assert (edges["extra"] == (edges["pred"] & ~edges["gold"])).all()
    assert (found["edges_gold"], found["edges_pred"], found["edges_both"]) == (gold, pred, both)
    assert found["edges_after"] == edges["after"].sum()
    wanted = llama_numpy.record(expected.gold[layer, head], expected.mask, expected.allowed, expected.ids)
    for name, value in wanted.items():
        if name in ("edges_gold", "edges_both", "rows_exact", "max_degree"):
            assert abs(found[name] - value) <= 2, (name, found[name], value)
        elif isinstance(value, int):
            assert found[name] == value, (name, found[name], value)
        else:
            assert abs(found[name] - value) < 2e-3 * max(1, abs(value)), (name, found[name], value)
    pairs = found["pairs_valid"]
    ratios = {"recall": both / gold if gold else None, "precision": both / pred if pred else None,
              "f1": 2 * both / (gold + pred), "sparsity": 1 - pred / pairs, "sparsity_gold": 1 - gold / pairs}
    for name, value in ratios.items():
        assert (found[name] is None) == (value is None), name
        assert value is None or abs(found[name] - value) < 1e-12, name


def test_window():
    for normalizer, w in (("entmax15", 9), ("sparsemax", 33)):
        one = capture(attention={"backend": "window", "params": {"window": w}, "normalizer": normalizer})
        check_capture(one, Expected(ALPHAS[normalizer], llama_numpy.window(N, w)))


def test_softmax():
    one = capture(attention={"backend": "window", "params": {"window": 21}, "normalizer": "softmax"})
    assert one["provenance"]["gold"] == {"normalizer": "softmax", "mass": 0.95}
    expected = Expected(1.0, llama_numpy.window(N, 21), 0.95)
    check_capture(one, expected)
    answer = whole(one, 0, 1, "gold")
    _, weights = dense(answer)
    kept, left = weights.sum(axis=1), numpy.array(answer["left_out"])
    assert numpy.abs(kept + left - 1).max() < 1e-5 and kept.min() >= 0.95 - 1e-6
    dense_one = capture(attention={"normalizer": "softmax"}, gold={"normalizer": "softmax", "mass": 0.8})
    check_capture(dense_one, Expected(1.0, llama_numpy.causal(N), 0.8))


def test_dense():
    """Every allowed pair is predicted, so nothing is lost and after is gold."""
    one = capture()
    expected = Expected(1.5, llama_numpy.causal(N))
    check_capture(one, expected)
    for found in get(one, "/heads").json()["data"]:
        assert found["recall"] == 1 and found["rows_exact"] == N and found["edges_pred"] == N * (N + 1) // 2
        gold = whole(one, found["layer"], found["head"], "gold")
        after = whole(one, found["layer"], found["head"], "after")
        assert gold["indices"] == after["indices"]
        assert numpy.abs(numpy.array(gold["weights"]) - after["weights"]).max() < 1e-6


def test_empty_prediction():
    one = capture(attention={"backend": "window", "params": {"window": 0}})
    for found in get(one, "/heads").json()["data"]:
        assert found["edges_pred"] == 0 and found["precision"] is None and found["recall"] == 0 and found["f1"] == 0
        assert found["rows_empty"] == N and found["sparsity"] == 1
    assert whole(one, 0, 0, "pred")["edges_total"] == 0
    assert get(one, "/heads/0/0/tiles/0/0/0?graph=pred", status=204).body == b""


def test_one_token():
    one = capture(input=[5])
    found = get(one, "/heads").json()["data"][0]
    assert (found["edges_gold"], found["edges_pred"], found["pairs_valid"], found["self"]) == (1, 1, 1, 1)
    answer = get(one, "/heads/1/3/edges").json()
    assert (answer["indptr"], answer["indices"], answer["weights"], answer["left_out"]) == ([0, 1], [0], [1], [0])


def test_grouped():
    """Heads of a group read the same keys and have weights of their own."""
    one = capture()
    assert one["kv_heads"] == 2 and one["heads"] == [0, 1, 2, 3]
    rows = [dense(whole(one, 1, head, "gold"))[1] for head in range(4)]
    assert [get(one, "/heads/1/%d/edges" % h).json()["kv_head"] for h in range(4)] == [0, 0, 1, 1]
    assert numpy.abs(rows[0] - rows[1]).max() > 0.01 and numpy.abs(rows[2] - rows[3]).max() > 0.01


ONE = capture(attention={"backend": "window", "params": {"window": 31}})


def test_lines():
    for graph in GRAPHS:
        mask, weights = dense(whole(ONE, 1, 2, graph))
        for at in (0, 1, 63, 64, 150, N - 1):
            row = get(ONE, "/heads/1/2/rows/%d?graph=%s" % (at, graph)).json()
            order = sorted(numpy.nonzero(mask[at])[0], key=lambda j: (-weights[at, j], j))
            assert row["keys"] == [int(j) for j in order] and row["row"] == at
            assert numpy.abs(numpy.array(row["weights"]) - weights[at, order]).max(initial=0) == 0
            col = get(ONE, "/heads/1/2/cols/%d?graph=%s" % (at, graph)).json()
            order = sorted(numpy.nonzero(mask[:, at])[0], key=lambda i: (-weights[i, at], i))
            assert col["queries"] == [int(i) for i in order] and col["col"] == at
    row = get(ONE, "/heads/1/2/rows/200?top_k=3").json()
    every = get(ONE, "/heads/1/2/rows/200").json()
    assert row["keys"] == every["keys"][:3] and abs(row["left_out"] - sum(every["weights"][3:])) < 1e-5
    for path, name in (("rows/%d" % N, "row"), ("cols/%d" % N, "col"), ("rows/x", "row"), ("cols/-1", "col")):
        assert get(ONE, "/heads/0/0/" + path, status=404).error()["param"] == name


def cut_row(keys, weights, top_k=None, min_weight=None, mass=None, cols=None):
    """The edges of a row that all cuts keep, each judged on the whole row."""
    order = sorted(range(len(keys)), key=lambda e: (-weights[e], keys[e]))
    kept = set(order)
    if top_k is not None:
        kept &= set(order[:top_k])
    if mass is not None:
        total, some = 0.0, set()
        for e in order:
            if total >= mass:
                break
            some.add(e)
            total += weights[e]
        kept &= some
    if min_weight is not None:
        kept &= {e for e in order if weights[e] >= min_weight}
    if cols is not None:
        kept &= {e for e in order if cols[0] <= keys[e] < cols[1]}
    return sorted(kept, key=lambda e: keys[e])


def test_filters():
    every = whole(ONE, 0, 1, "gold")
    cases = [{"top_k": 2}, {"top_k": 0}, {"min_weight": 0.1}, {"mass": 0.5}, {"mass": 1}, {"mass": 0},
             {"cols": (10, 90)}, {"top_k": 4, "cols": (5, 60)}, {"mass": 0.7, "min_weight": 0.05, "cols": (0, 200)},
             {"top_k": 3, "mass": 0.6, "min_weight": 0.01}]
    for case in cases:
        query = "".join("&%s=%s" % (k, "%d:%d" % v if k == "cols" else v) for k, v in case.items())
        answer = get(ONE, "/heads/0/1/edges?rows=17:203" + query).json()
        indices, weights, indptr, left = [], [], [0], []
        for i in range(17, 203):
            a, b = every["indptr"][i], every["indptr"][i + 1]
            keys, values = every["indices"][a:b], every["weights"][a:b]
            kept = cut_row(keys, values, **case)
            indices += [keys[e] for e in kept]
            weights += [values[e] for e in kept]
            indptr.append(len(indices))
            left.append(sum(values) - sum(values[e] for e in kept))
        assert (answer["indices"], answer["weights"], answer["indptr"]) == (indices, weights, indptr), case
        assert numpy.abs(numpy.array(answer["left_out"]) - left).max() < 1e-6
        assert answer["rows"] == [17, 203] and answer["edges_total"] == len(indices)
        assert answer["cols"] == list(case.get("cols", (0, N)))


def pages(path):
    """All pages of a route, joined."""
    parts, cursor = [], ""
    while cursor is not None:
        part = get(ONE, path + cursor).json()
        parts.append(part)
        assert part["truncated"] == (part["next"] is not None) and part["rows"][1] > part["rows"][0]
        cursor = part["next"] and "&cursor=" + part["next"]
        assert len(parts) < 1000
    joined = {"indptr": [0], "indices": [], "weights": [], "left_out": [], "rows": [parts[0]["rows"][0]]}
    for part in parts:
        assert part["rows"][0] == joined["rows"][-1] and part["edges_total"] == parts[0]["edges_total"]
        joined["indptr"] += [len(joined["indices"]) + p for p in part["indptr"][1:]]
        joined["rows"].append(part["rows"][1])
        for name in ("indices", "weights", "left_out"):
            joined[name] += part[name]
    return joined, parts


def test_pages():
    for query in ("graph=gold", "graph=missed&top_k=2", "graph=pred&rows=20:131&cols=5:100"):
        every = get(ONE, "/heads/0/2/edges?" + query).json()
        for limit in (1, 37, 400):
            joined, parts = pages("/heads/0/2/edges?%s&limit=%d" % (query, limit))
            for name in ("indptr", "indices", "weights", "left_out"):
                assert joined[name] == every[name], (query, limit, name)
            for part in parts:
                assert part["edges_returned"] <= limit or part["rows"][1] == part["rows"][0] + 1
        split = [get(ONE, "/heads/0/2/edges?graph=gold&rows=%d:%d" % r).json() for r in ((0, 64), (64, 100), (100, N))]
        gold = get(ONE, "/heads/0/2/edges?graph=gold").json()
        assert sum((s["indices"] for s in split), []) == gold["indices"]
    first = get(ONE, "/heads/0/2/edges?limit=9").json()
    for wrong in ("graph=pred&limit=9", "limit=9&rows=0:5", "limit=9&top_k=1"):
        reply = get(ONE, "/heads/0/2/edges?%s&cursor=%s" % (wrong, first["next"]), status=400)
        assert reply.error()["param"] == "cursor"
    for wrong in ("zz", "", "0" * 24, first["next"][:-1]):
        assert get(ONE, "/heads/0/2/edges?limit=9&cursor=" + wrong, status=400).error()["param"] == "cursor"


def test_binary():
    every = whole(ONE, 1, 1, "pred")
    for query, headers in (("&format=safetensors", {}), ("", {"Accept": "application/octet-stream"})):
        for kind in ("u16", "f32"):
            reply = get(ONE, "/heads/1/1/edges?graph=pred&weights=%s%s" % (kind, query), headers=headers)
            assert reply.headers["content-type"] == "application/octet-stream"
            meta, t = llama_numpy.read_safetensors(reply.body)
            assert t["indptr"].tolist() == every["indptr"] and t["indices"].tolist() == every["indices"]
            assert t["indices"].dtype == numpy.uint16 and t["indptr"].dtype == numpy.uint32
            exact = numpy.array(every["weights"], numpy.float32)
            if kind == "f32":
                assert (t["weights"] == exact).all()
            else:
                wanted = numpy.where(exact > 0, numpy.maximum(1, numpy.floor(exact.astype(float) * 65535 + 0.5)), 0)
                assert (t["weights"] == wanted).all()
                assert numpy.abs(t["weights"] / 65535 - exact).max() <= 1 / 65535
            assert (t["left_out"] == numpy.array(every["left_out"], numpy.float32)).all()
            assert meta["rows"] == "0:%d" % N and meta["graph"] == "pred" and meta["layer"] == "1"
            size = int.from_bytes(reply.body[:8], "little")
            header = json.loads(reply.body[8:8 + size])
            for name, bytes_ in (("indptr", 4), ("left_out", 4), ("indices", 2), ("weights", 2 if kind == "u16" else 4)):
                assert (8 + size + header[name]["data_offsets"][0]) % bytes_ == 0, name


def tile(z, ty, tx, graph="gold", stat="count", layer=0, head=0):
    """-> planes of 256 x 256, or None for 204."""
    reply = server.get("/v1/attention/captures/%s/heads/%d/%d/tiles/%d/%d/%d?graph=%s&stat=%s" % (
        BIG["id"], layer, head, z, ty, tx, graph, stat))
    assert reply.status in (200, 204), reply
    if reply.status == 204:
        assert reply.body == b""
        return None
    kind = "<f4" if stat in ("mass", "max") else "<u4"
    return numpy.frombuffer(reply.body, kind).reshape(3 if stat == "diff" else 1, 256, 256)


random_ids = [int(t) for t in numpy.random.RandomState(8).randint(1, 259, 700)]
BIG = capture(input=random_ids, attention={"backend": "window", "params": {"window": 61}})


def level(z, **more):
    """All tiles of a level side by side."""
    bins = -(-700 // (256 << z))
    out = numpy.zeros((256 * bins, 256 * bins))
    for ty in range(bins):
        for tx in range(bins):
            found = tile(z, ty, tx, **more)
            if found is not None:
                out[256 * ty:256 * (ty + 1), 256 * tx:256 * (tx + 1)] = found[0]
    return out


def test_tiles():
    for graph in GRAPHS:
        mask, weights = dense(get(BIG, "/heads/0/0/edges?graph=%s&limit=1000000" % graph).json()
                              if graph != "pred" else whole(BIG, 0, 0, "pred"), 700)
        levels = [level(z, graph=graph) for z in range(3)]
        for z, counts in enumerate(levels):
            assert counts.sum() == mask.sum()
            padded = numpy.zeros((len(counts) << z,) * 2)
            padded[:700, :700] = mask
            size = len(counts)
            assert (counts == padded.reshape(size, 1 << z, size, 1 << z).sum(axis=(1, 3))).all()
        for z in range(2):
            child, parent = levels[z], levels[z + 1]
            joined = numpy.zeros((2 * len(parent),) * 2)
            joined[:len(child), :len(child)] = child
            assert (parent == joined.reshape(len(parent), 2, len(parent), 2).sum(axis=(1, 3))).all()
        for stat, join in (("mass", numpy.sum), ("max", numpy.max)):
            padded = numpy.zeros((1024, 1024))
            padded[:700, :700] = weights * mask
            wanted = join(join(padded.reshape(256, 4, 256, 4), axis=3), axis=1)
            assert numpy.abs(tile(2, 0, 0, graph=graph, stat=stat)[0] - wanted).max() < 1e-5
    planes = tile(1, 0, 0, stat="diff")
    for plane, graph in zip(planes, ("both", "missed", "extra")):
        found = tile(1, 0, 0, graph=graph)
        assert (plane == (0 if found is None else found[0])).all()
    reply = get(BIG, "/heads/0/0/tiles/2/0/0")
    again = get(BIG, "/heads/0/0/tiles/2/0/0", status=304, headers={"If-None-Match": reply.headers["etag"]})
    assert again.body == b""
    for path in ("3/0/0", "0/3/0", "0/0/3", "2/1/0", "x/0/0", "-1/0/0"):
        assert get(BIG, "/heads/0/0/tiles/" + path, status=404).error()["code"] == 404
    assert get(BIG, "/heads/0/0/tiles/0/0/0?stat=sum", status=400).error()["param"] == "stat"


def test_overview():
    import base64
    shown = get(BIG, "/overview?layer=1&graph=both")
    assert len(shown.body) == 4 * 64 * 64 and shown.headers["x-scale"]
    told = get(BIG, "/overview?layer=1&graph=both&format=json").json()
    assert base64.b64decode(told["data"]) == shown.body and told["heads"] == [0, 1, 2, 3]
    assert (told["done"], told["total"]) == (4, 4)
    mask, _ = dense(whole(BIG, 1, 3, "both"), 700)
    cells = numpy.frombuffer(shown.body, numpy.uint8).reshape(4, 64, 64)[3]
    at = 64 * numpy.arange(700) // 700
    counts, pairs = numpy.zeros((64, 64)), numpy.zeros((64, 64))
    numpy.add.at(counts, (at[:, None].repeat(700, 1), at[None, :].repeat(700, 0)), mask)
    numpy.add.at(pairs, (at[:, None].repeat(700, 1), at[None, :].repeat(700, 0)), llama_numpy.causal(700))
    assert ((cells > 0) == (counts > 0)).all()
    density = counts[counts > 0] / pairs[counts > 0]
    assert numpy.abs(cells[counts > 0] - (1 + 254 * numpy.maximum(0, 1 + numpy.log10(density) / 6))).max() <= 0.51


def test_search():
    data = get(ONE, "/heads").json()
    assert (data["done"], data["total"]) == (8, 8)
    every = data["data"]
    for name in ("recall", "edges_gold", "entropy", "mean_distance"):
        found = [r[name] for r in get(ONE, "/heads?sort=" + name).json()["data"]]
        assert found == sorted(found) and len(found) == 8
        assert [r[name] for r in get(ONE, "/heads?sort=-" + name).json()["data"]] == found[::-1]
        middle = found[3]
        assert len(get(ONE, "/heads?min_%s=%r" % (name, middle)).json()["data"]) == sum(v >= middle for v in found)
        assert len(get(ONE, "/heads?max_%s=%r" % (name, middle)).json()["data"]) == sum(v <= middle for v in found)
    for pattern in ("self", "previous", "sink", "duplicate", "induction"):
        found = [r[pattern] for r in get(ONE, "/heads?pattern=" + pattern).json()["data"]]
        assert found == sorted((r[pattern] for r in every), reverse=True)
    some = get(ONE, "/heads?layers=1&heads=0,3").json()
    assert [(r["layer"], r["head"]) for r in some["data"]] == [(1, 0), (1, 3)] and some["total"] == 2


def test_refusals():
    bad = [("/heads/2/0/edges", 404, "layer"), ("/heads/0/4/edges", 404, "head"), ("/heads/x/0/edges", 404, "layer"),
           ("/heads/0/-1/edges", 404, "head"), ("/heads/0/0/edges?graph=silver", 400, "graph"),
           ("/heads/0/0/edges?rows=3:3", 400, "rows"), ("/heads/0/0/edges?rows=9:3", 400, "rows"),
           ("/heads/0/0/edges?rows=0:%d" % (N + 1), 400, "rows"), ("/heads/0/0/edges?cols=a:b", 400, "cols"),
           ("/heads/0/0/edges?cols=1", 400, "cols"), ("/heads/0/0/edges?min_weight=nan", 400, "min_weight"),
           ("/heads/0/0/edges?min_weight=-0.1", 400, "min_weight"), ("/heads/0/0/edges?min_weight=inf", 400, "min_weight"),
           ("/heads/0/0/edges?top_k=-1", 400, "top_k"), ("/heads/0/0/edges?top_k=1.5", 400, "top_k"),
           ("/heads/0/0/edges?mass=1.1", 400, "mass"), ("/heads/0/0/edges?mass=0x1", 400, "mass"),
           ("/heads/0/0/edges?limit=0", 400, "limit"), ("/heads/0/0/edges?format=xml", 400, "format"),
           ("/heads/0/0/edges?weights=u8", 400, "weights"), ("/heads/0/0/edges?colour=red", 400, "colour"),
           ("/heads?sort=beauty", 400, "sort"), ("/heads?pattern=spiral", 400, "pattern"),
           ("/heads?min_recall=x", 400, "min_recall"), ("/heads?min_beauty=1", 400, "min_beauty"),
           ("/heads?layers=0,0", 400, "layers"), ("/heads?layers=", 400, "layers"), ("/heads?layers=7", 404, "layers"),
           ("/overview?layer=5", 404, "layer"), ("/overview?graph=none", 400, "graph"),
           ("/tokens?from=9&to=9", 400, "from"), ("/tokens?to=%d" % (N + 1), 400, "to"), ("/nowhere", 404, None),
           ("/heads/0/0", 404, None), ("/heads/0/0/edges/0", 404, None), ("/heads/", 404, None)]
    for path, status, param in bad:
        error = get(ONE, path, status=status).error()
        assert error["param"] == param and error["code"] == status and error["message"], (path, error)
    unknown = server.get("/v1/attention/captures/attn-000000000000000000000000/heads/0/0/edges")
    assert unknown.status == 404 and unknown.error()["param"] == "id"
    assert server.request("DELETE", "/v1/attention/captures/%s/edges" % ONE["id"]).status == 405
    assert server.get("/v1/attention/captures").status == 405


if __name__ == "__main__":
    try:
        with server:
            harness.main(globals())
    finally:
        shutil.rmtree(os.path.dirname(FOLDER), ignore_errors=True)
