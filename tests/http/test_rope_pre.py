"""Fits made before the rotary embedding ("rope" "pre") against float64 numpy: scores, generation alone, in company and as
prefill scores it, graphs of captures, their clusters and sweeps, tensors given to apply. The model's rotation has a scale
and changes with the length that a request is planned for."""
import json
import os
import shutil
import sys
import tempfile
import threading

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import fit_file
import harness
import llama_numpy
import tiny_model

ROOM = tempfile.mkdtemp(prefix="sparsed-pre-")
HEADS, KV_HEADS, DIM, RANK, LAYERS, SCALE, LONG, SHORT, TURN = 4, 2, 16, 5, 2, 1.25, 6.0, 1.5, 100
tiny_model.HEADS, tiny_model.KV_HEADS = HEADS, KV_HEADS
tiny_model.CONFIG.update(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=512,
                         original_max_position_embeddings=TURN, rope_scaling={
                             "type": "longrope", "short_factor": [SHORT] * (DIM // 2), "long_factor": [LONG] * (DIM // 2),
                             "attention_factor": SCALE})
FOLDER = tiny_model.write(os.path.join(ROOM, "pre"))
PATH = "/v1/attention/captures"


class Model(llama_numpy.Llama):
    """Plans for `planned` tokens; rotated vectors are scaled. `plain` holds q and k of a layer before that."""
    planned, plain = 0, []

    def angles(self, n):
        factor = LONG if self.planned > TURN else SHORT
        frequency = self.config["rope_theta"] ** (-numpy.arange(DIM // 2) / (DIM // 2)) / factor
        return (numpy.arange(n)[:, None] * frequency)[:, None, :]

    def rotate(self, x):
        self.plain = self.plain[-1:] + [x]
        a, b = x[..., :DIM // 2], x[..., DIM // 2:]
        cos, sin = (turn(self.angles(len(x))) * SCALE for turn in (numpy.cos, numpy.sin))
        return numpy.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


MODEL = Model(FOLDER)


def make_fit():
    random, out = numpy.random.RandomState(78), {}
    for layer in range(LAYERS):
        for name in ("", "dot.", "cluster5."):
            at = "layers.%d.self.%s" % (layer, name)
            for side, maps in (("q", HEADS), ("k", KV_HEADS)):
                out[at + side + "_proj.weight"] = random.randn(maps, DIM, RANK)
                out[at + side + "_proj.bias"] = random.randn(maps, RANK)
        out["layers.%d.self.cluster5.centroids" % layer] = 4 * random.randn(HEADS, 1, 5, RANK)
        out["layers.%d.self.centroids" % layer] = 4 * random.randn(HEADS, 1, 4, RANK)
        out["layers.%d.self.thresholds" % layer] = numpy.full(HEADS, 40.0)
    return {name: values.astype(numpy.float32) for name, values in out.items()}


FIT = make_fit()
fit_file.write(os.path.join(FOLDER, "sparsefinder.safetensors"), FIT, RANK, rope="pre")
IDS = [int(t) for t in numpy.random.RandomState(4).randint(1, 250, 150)]
WINDOW = 5
server = harness.Server("--kv", "f32", "--threads", "2", model=FOLDER)


def finder(**params):
    return {"backend": "sparsefinder", "params": dict({"window": WINDOW}, **params)}


def project(layer, name, plain=None):
    """q', k' (heads, n, rank) of the vectors before their rotation, (n, heads or KV heads, dim)."""
    at, out = "layers.%d.self.%s" % (layer, name), []
    for x, side in zip(plain or MODEL.plain, "qk"):
        weight, bias = (FIT[at + side + "_proj." + part].astype(float) for part in ("weight", "bias"))
        share = HEADS // len(weight)
        weight, bias = weight.repeat(share, axis=0), bias.repeat(share, axis=0)
        out.append(numpy.einsum("nhd,hdr->hnr", x.repeat(HEADS // x.shape[1], axis=1), weight) + bias[:, None, :])
    return out


def distances(a, b):
    return ((a[:, :, None, :] - b[:, None, :, :]) ** 2).sum(-1)


def nearest(layer, plain=None):
    """The nearest of five centroids: (heads, n) each."""
    centroids = FIT["layers.%d.self.cluster5.centroids" % layer][:, 0].astype(float)
    return [numpy.argmin(distances(x, centroids), axis=-1) for x in project(layer, "cluster5.", plain)]


def fixed(n):
    i, j = numpy.indices((n, n))
    return llama_numpy.window(n, WINDOW) | (llama_numpy.causal(n) & (j < 1))


def keep_mask(layer, q, k, plain=None, keep=6):
    """Equal tokens are equal before their rotation in the first layer: ties go to the lower position."""
    a, b = project(layer, "dot.", plain)
    n = len(q)
    free = llama_numpy.causal(n) & ~fixed(n)
    score = numpy.where(free, numpy.einsum("hir,hjr->hij", a, b).round(8), -numpy.inf)
    best = numpy.argsort(-score, axis=-1, kind="stable")[..., :keep]
    mask = numpy.zeros(score.shape, bool)
    numpy.put_along_axis(mask, best, True, axis=-1)
    return (mask & free) | fixed(n)


def near_mask(layer, q, k, plain=None):
    a, b = project(layer, "", plain)
    return (llama_numpy.causal(len(q)) & (distances(a, b) < 40)) | fixed(len(q))


def cluster_mask(layer, q, k, plain=None):
    a, b = nearest(layer, plain)
    return (llama_numpy.causal(len(q)) & (a[:, :, None] == b[:, None, :])) | fixed(len(q))


def routing_mask(layer, q, k, plain=None):
    unit = lambda x: x / numpy.sqrt((x * x).sum(-1, keepdims=True))
    means, n, ids = unit(FIT["layers.%d.self.centroids" % layer][:, 0].astype(float)), len(q), []
    for x in project(layer, "", plain):
        near, taken = numpy.einsum("hnr,hcr->hcn", unit(x), means), numpy.full((HEADS, n), -1)
        for h in range(HEADS):
            for c in reversed(range(4)):
                taken[h, numpy.argsort(-near[h, c], kind="stable")[:n // 4 + 1]] = c
        ids.append(taken)
    return (llama_numpy.causal(n) & (ids[0][:, :, None] == ids[1][:, None, :]) & (ids[0][:, :, None] >= 0)) | fixed(n)


PATTERNS = ((finder(keep=6), keep_mask), (finder(metric="l2"), near_mask),
            (finder(grouping="cluster", clusters=5, top=1), cluster_mask),
            ({"backend": "routing", "params": {"window": WINDOW}}, routing_mask))


def run(ids, mask, planned):
    """The masks of every layer in a run planned for so many tokens, and its log-probabilities."""
    masks, MODEL.planned = [], planned
    def noted(layer, q, k):
        masks.append(mask(layer, q, k))
        return masks[-1]
    return numpy.array(MODEL.logprobs(numpy.array(ids), noted, 1.5)), masks


def test_score():
    for ids in (IDS, IDS[:70]):
        for attention, mask in PATTERNS:
            reply = server.post("/v1/score", {"input": ids, "attention": attention})
            assert reply.status == 200, reply
            wanted, masks = run(ids, mask, len(ids))
            value = reply.json()
            assert value["attention_report"]["prefill"]["edges"] == sum(m.sum() for m in masks), attention
            found = numpy.array(value["data"][0]["token_logprobs"][1:])
            assert abs(found - wanted).max() < 1e-3, (attention, abs(found - wanted).max())


def test_generation():
    """Alone, in company and by prefill: the same; and within one sequence the angles are those of its whole length."""
    def generate(attention, out, i):
        reply = server.complete(prompt=IDS[:80], max_tokens=40, temperature=0, logprobs=0, attention=attention,
                                ignore_eos=True, return_token_ids=True)
        assert reply.status == 200, reply
        out[i] = reply.json()["choices"][0]

    streaming = [p for p in PATTERNS if p[0]["backend"] != "routing"]
    alone, together = [None] * len(streaming), [None] * len(streaming)
    for i, (attention, _) in enumerate(streaming):
        generate(attention, alone, i)
    threads = [threading.Thread(target=generate, args=(p[0], together, i)) for i, p in enumerate(streaming)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == together
    for choice, (attention, mask) in zip(alone, streaming):
        ids = IDS[:80] + choice["token_ids"]
        found = numpy.array(choice["logprobs"]["token_logprobs"])
        assert len(ids) == 120 and len(found) == 40
        wanted, _ = run(ids, mask, 120)
        assert abs(found - wanted[79:]).max() < 1e-3, (attention, abs(found - wanted[79:]).max())
        again = server.post("/v1/score", {"input": ids, "attention": attention}).json()["data"][0]["token_logprobs"]
        assert abs(found - numpy.array(again[80:])).max() < 1e-5, attention


def capture(attention):
    reply = server.post(PATH, {"input": IDS, "attention": attention})
    assert reply.status == 201, reply
    return reply.json()["id"]


def test_graphs():
    for attention, mask in PATTERNS[:3]:
        one = capture(attention)
        _, masks = run(IDS, mask, len(IDS))
        for layer in range(LAYERS):
            for head in range(HEADS):
                pred = server.get("%s/%s/heads/%d/%d/edges?graph=pred" % (PATH, one, layer, head)).json()
                found = [pred["indices"][pred["indptr"][i]:pred["indptr"][i + 1]] for i in range(len(IDS))]
                assert found == [numpy.nonzero(row)[0].tolist() for row in masks[layer][head]], (attention, layer, head)


def test_clusters_of_tokens():
    attention, mask = PATTERNS[2]
    one, near = capture(attention), []
    def noted(layer, q, k):
        near.append(nearest(layer))
        return mask(layer, q, k)
    run(IDS, noted, len(IDS))
    for layer in range(LAYERS):
        for head in range(HEADS):
            tokens = server.get("%s/%s/tokens?layer=%d&head=%d" % (PATH, one, layer, head)).json()["data"]
            wanted = [{"q": int(a), "k": int(b)} for a, b in zip(near[layer][0][head], near[layer][1][head])]
            assert [t["clusters"] for t in tokens] == wanted, (layer, head)


def test_sweep():
    """Other attentions over the queries and keys of one run; routing looks at all of them."""
    one = capture(PATTERNS[0][0])
    for attention, mask in PATTERNS[1:]:
        vectors = []
        def noted(layer, q, k):
            vectors.append((q, k, MODEL.plain))
            return keep_mask(layer, q, k)
        run(IDS, noted, len(IDS))
        reply = server.post("%s/%s/sweep" % (PATH, one), {"attention": attention, "grid": {"global_first": [1]}})
        found = harness.finished(server, reply)
        assert found["state"] == "ready" and len(found["points"]) == LAYERS * HEADS, found
        for point in found["points"]:
            wanted = mask(point["layer"], *vectors[point["layer"]])[point["head"]].sum()
            assert point["edges_pred"] == wanted, (attention, point, wanted)


def test_apply():
    """apply turns nothing: what the maps take comes as q_pre and k_pre, else q and k are taken, and a note says so."""
    random, n = numpy.random.RandomState(6), 40
    MODEL.planned = n
    pre = {name: random.randn(heads, n, DIM).astype(numpy.float32) for name, heads in (("q", HEADS), ("k", KV_HEADS))}
    tensors = {name: MODEL.rotate(x.transpose(1, 0, 2)).transpose(1, 0, 2).astype(numpy.float32) for name, x in pre.items()}
    tensors["v"] = random.randn(KV_HEADS, n, DIM).astype(numpy.float32)
    for given in (True, False):
        body = dict(tensors, **({"q_pre": pre["q"], "k_pre": pre["k"]} if given else {}))
        data = llama_numpy.write_safetensors(body, {"attention": json.dumps(PATTERNS[0][0]), "causal": "true"})
        reply = server.post("/v1/attention/apply", data, {"Content-Type": "application/octet-stream"})
        assert reply.status == 200, reply
        meta, arrays = llama_numpy.read_safetensors(reply.body)
        notes = json.loads(meta["report"])["notes"]
        assert any("q_pre" in note for note in notes) == (not given), notes
        plain = [x.transpose(1, 0, 2).astype(float) for x in ((pre if given else tensors)[name] for name in "qk")]
        wanted = keep_mask(0, *plain, plain)
        for h in range(HEADS):
            base, at = arrays["edge_base"][h], arrays["indptr"][h]
            found = [arrays["indices"][base + at[i]:base + at[i + 1]].tolist() for i in range(n)]
            assert found == [numpy.nonzero(row)[0].tolist() for row in wanted[h]], (given, h)
    data = llama_numpy.write_safetensors(dict(tensors, q_pre=pre["k"]), {"attention": "sparsefinder"})
    wrong = server.post("/v1/attention/apply", data, {"Content-Type": "application/octet-stream"})
    assert wrong.status == 400 and "q_pre" in wrong.error()["message"], wrong


if __name__ == "__main__":
    try:
        with server:
            harness.main(globals())
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)
