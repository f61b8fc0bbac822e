"""Dense softmax predicts every pair: where all weights do not fit --capture-bytes, counts are exact all the same and the weights
that are asked for are made for their rows. Every answer against softmax in float64 numpy."""
import os
import shutil
import sys
import tempfile
import xml.etree.ElementTree as tree

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import harness
import llama_numpy
import tiny_model

ROOM = tempfile.mkdtemp(prefix="sparsed-dense-")
tiny_model.CONFIG.update(max_position_embeddings=1024)
FOLDER = tiny_model.write(os.path.join(ROOM, "tiny"))
MODEL = llama_numpy.Llama(FOLDER)
PATH = "/v1/attention/captures"
N = 700
IDS = [int(t) for t in numpy.random.RandomState(2).randint(1, 250, N)]
CAUSAL = llama_numpy.causal(N)
SCORES = MODEL.scores(numpy.array(IDS), CAUSAL, 1.0)[1, 1]
WEIGHTS = llama_numpy.normalize(SCORES, CAUSAL, 1.0)
GOLD = numpy.zeros((N, N), bool)
for row in range(N):
    order = numpy.argsort(-WEIGHTS[row], kind="stable")[:5]
    GOLD[row, order[WEIGHTS[row, order] > 0]] = True
EXTRA = CAUSAL & ~GOLD
server = harness.Server("--kv", "f32", "--threads", "2", "--capture-bytes", "3700K", "--graph-edges", "100000", model=FOLDER)
reply = server.post(PATH, {"input": IDS, "attention": {"normalizer": "softmax"}, "gold": {"normalizer": "softmax", "top_k": 5}})
assert reply.status == 201, reply
ONE = reply.json()
HEAD = "/heads/1/1/"


def ask(path, status=200):
    found = server.get(PATH + "/" + ONE["id"] + path)
    assert found.status == status, (path, found)
    return found


def near(found, wanted):
    found, wanted = numpy.asarray(found, float), numpy.asarray(wanted, float)
    assert found.shape == wanted.shape and (numpy.abs(found - wanted) < 2e-5).all(), numpy.abs(found - wanted).max()


def plane(values, z, side=256):
    """Sums of 2^z x 2^z squares, padded to side x side."""
    step = 1 << z
    out = numpy.zeros((side * step, side * step), values.dtype)
    rows, columns = min(values.shape[0], side * step), min(values.shape[1], side * step)
    out[:rows, :columns] = values[:rows, :columns]
    return out.reshape(side, step, side, step).sum(axis=(1, 3))


def test_counts():
    record = next(r for r in ask("/heads?layers=1&heads=1").json()["data"])
    assert record["edges_pred"] == record["edges_after"] == CAUSAL.sum() and record["edges_gold"] == GOLD.sum()
    kept = next(h for h in ask("").json()["cached_heads"] if (h["layer"], h["head"]) == (1, 1))
    assert kept["bytes"] < 4 * CAUSAL.sum() / 4, kept  # no weight of all pairs is held
    for graph, mask in (("pred", CAUSAL), ("extra", EXTRA), ("gold", GOLD)):
        for z in (2, 1):
            tile = numpy.frombuffer(ask(HEAD + "tiles/%d/0/0?graph=%s" % (z, graph)).body, "<u4").reshape(256, 256)
            assert (tile == plane(mask.astype(int), z)).all(), (graph, z)
        cells = numpy.frombuffer(ask("/overview?layer=1&graph=" + graph).body, numpy.uint8).reshape(-1, 64, 64)[1]
        at = (64 * numpy.arange(N)) // N
        some = numpy.zeros((64, 64), int)
        numpy.add.at(some, (at[:, None], at[None, :]), mask.astype(int))
        assert ((cells > 0) == (some > 0)).all(), graph
    diff = numpy.frombuffer(ask(HEAD + "tiles/2/0/0?stat=diff").body, "<u4").reshape(3, 256, 256)
    for found, mask in zip(diff, (GOLD, CAUSAL & False, EXTRA)):
        assert (found == plane(mask.astype(int), 2)).all()


def test_weights():
    for graph, mask in (("pred", CAUSAL), ("extra", EXTRA), ("after", CAUSAL)):
        for rows in ((0, 3), (63, 65), (500, 502), (698, 700), (0, 2)):  # back too
            found = ask(HEAD + "edges?graph=%s&rows=%d:%d" % ((graph,) + rows)).json()
            assert found["edges_total"] == mask[rows[0]:rows[1]].sum(), (graph, rows)
            for r, (a, b) in enumerate(zip(found["indptr"], found["indptr"][1:])):
                keys = found["indices"][a:b]
                assert keys == list(numpy.nonzero(mask[rows[0] + r])[0])
                near(found["weights"][a:b], WEIGHTS[rows[0] + r, keys])
            near(found["left_out"], [1 - WEIGHTS[r][mask[r]].sum() for r in range(*rows)])
    page = ask(HEAD + "edges?graph=pred&limit=1000").json()
    assert page["edges_total"] == CAUSAL.sum() and page["truncated"]
    line = ask(HEAD + "rows/600?graph=pred&top_k=7").json()
    best = sorted(range(601), key=lambda j: (-WEIGHTS[600, j], j))[:7]
    assert line["keys"] == best
    near(line["weights"], WEIGHTS[600, best])
    line = ask(HEAD + "cols/3?graph=pred").json()
    near(sorted(line["weights"]), sorted(WEIGHTS[3:, 3]))
    tile = numpy.frombuffer(ask(HEAD + "tiles/2/0/0?graph=pred&stat=mass").body, "<f4").reshape(256, 256)
    near(tile, plane(WEIGHTS * CAUSAL, 2))
    mean = ask("/aggregate?op=mean&graph=pred&layers=1&heads=1&rows=10:12").json()
    near(mean["weights"], WEIGHTS[10:12][CAUSAL[10:12]])


def test_files():
    assert ask("/export?format=csv&layer=1&head=1&graph=pred", 413).error()["param"] == "rows"
    lines = ask("/export?format=csv&layer=1&head=1&graph=pred&rows=300:302").body.decode().split()[1:]
    assert len(lines) == 301 + 302
    near([float(line.split(",")[2]) for line in lines], WEIGHTS[300:302][CAUSAL[300:302]])
    for view in ("matrix&graph=pred", "panels", "lines&graph=pred"):
        picture = ask("/export?format=svg&layer=1&head=1&view=" + view).body
        assert "{:,} edges".format(CAUSAL.sum()).encode() in picture, view
        tree.fromstring(picture)
    assert ask("/export?format=png&layer=1&head=1&graph=after").body[:4] == b"\x89PNG"


def test_budget_is_given_back():
    held = ONE["bytes"] + sum(h["bytes"] for h in ask("").json()["cached_heads"]) + 4096 * 3 * 2
    harness.until(lambda: server.get("/v1/limits").json()["capture_bytes_used"] == held)


if __name__ == "__main__":
    try:
        with server:
            harness.main(globals())
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)
