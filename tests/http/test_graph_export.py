"""GET /v1/attention/captures/{id}/export: every format holds the edges of the edges route, pictures are pictures, tokens
stay text, limits are answered before anything is computed, and what makes no sense is refused by name."""
import json
import os
import sys
import xml.etree.ElementTree as tree

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import graph_files
import harness
import png_reader

TEXT = "It is a truth </script><img src=x onerror=alert(1)> \"universally\" & acknowledged,\n that a single man."
LAYERS, HEADS = 6, 4
server = harness.Server("--threads", "2", "--graph-dense-values", "40000", "--graph-edges", "20000",
                        "--graph-json-edges", "20000")
reply = server.post("/v1/attention/captures", {"input": TEXT, "attention": {"backend": "window", "params": {"window": 5}}})
assert reply.status == 201, reply
ONE = reply.json()
N = ONE["n_query"]


def get(query, status=200, one=ONE, **more):
    found = server.get("/v1/attention/captures/%s/export?%s" % (one["id"], query), **more)
    assert found.status == status, (query, found)
    return found


def edges(layer, head, graph="gold", extra=""):
    path = "/v1/attention/captures/%s/heads/%d/%d/edges?graph=%s%s" % (ONE["id"], layer, head, graph, extra)
    slice_ = server.get(path).json()
    weights = numpy.array(slice_["weights"], numpy.float32)
    return graph_files.csr_edges(slice_["rows"][0], slice_["indptr"], slice_["indices"], weights)


def test_sparse_formats():
    for layer, head, graph, cut in [(2, 1, "gold", ""), (0, 3, "pred", ""), (5, 0, "missed", "&rows=3:20&cols=1:9"),
                                    (1, 1, "gold", "&top_k=2"), (4, 2, "gold", "&min_weight=0.1")]:
        wanted = edges(layer, head, graph, cut)
        query = "layer=%d&head=%d&graph=%s%s&format=" % (layer, head, graph, cut)
        found = get(query + "csv")
        assert found.headers["content-type"] == "text/csv; charset=utf-8"
        assert graph_files.csv_edges(found.body.decode()) == wanted
        assert graph_files.npz_edges(get(query + "npz").body, (N, N)) == wanted
        assert graph_files.graphml_edges(get(query + "graphml").body)[1] == wanted
        assert graph_files.dot_edges(get(query + "dot").body.decode()) == wanted
        meta, arrays = graph_files.read_safetensors(get(query + "safetensors&weights=f32").body)
        first = int(meta["rows"].split(":")[0])
        assert graph_files.csr_edges(first, arrays["indptr"], arrays["indices"], arrays["weights"]) == wanted
        page = graph_files.Page()
        page.feed(get(query + "html").body.decode())
        data = json.loads(page.scripts[0][1])
        weights = numpy.array(data["weights"], numpy.float32)
        assert graph_files.csr_edges(data["rows"][0], data["indptr"], data["indices"], weights) == wanted


def test_json_is_the_edges_route():
    for query in ("", "&rows=0:5", "&limit=7"):
        path = "/v1/attention/captures/%s/heads/2/1/edges?graph=gold%s" % (ONE["id"], query)
        assert get("format=json&graph=gold&layer=2&head=1" + query).json() == server.get(path).json()
    first = get("format=json&layer=2&head=1&limit=7").json()
    assert first["truncated"]
    second = get("format=json&layer=2&head=1&limit=7&cursor=" + first["next"]).json()
    assert second["rows"][0] == first["rows"][1]


def test_dense_formats():
    bertviz = get("format=bertviz&rows=0:20&cols=0:20").json()
    attn = bertviz["attention"][0]["attn"]
    assert numpy.array(attn).shape == (LAYERS, HEADS, 20, 20) and bertviz["include_layers"] == list(range(LAYERS))
    wanted = edges(3, 2, extra="&rows=0:20&cols=0:20")
    assert graph_files.dense_edges(attn[3][2], 0, 0) == wanted
    circuits = get("format=circuitsvis&layers=3,1&heads=2").json()
    assert circuits["attentionHeadNames"] == ["L3H2", "L1H2"] and len(circuits["tokens"]) == N
    assert graph_files.dense_edges(circuits["attention"][0], 0, 0) == edges(3, 2)
    assert circuits["maskUpperTri"] is True and circuits["minValue"] == 0 and circuits["maxValue"] == 1
    exbert = get("format=exbert&layer=2").json()["payload"]["aa"]
    assert numpy.array(exbert["att"]).shape == (HEADS, N, N) and exbert["left"][0]["text"] == "It"


def test_pictures():
    for query, words in [("format=svg", ["layer 5", "head 3"]), ("format=svg&layer=2", ["layer 2", "head 3"]),
                         ("format=svg&layer=2&head=1", ["weight of the edge"]),
                         ("format=svg&layer=2&head=1&view=panels", ["missed", "extra"]),
                         ("format=svg&layer=2&head=1&view=lines&scale=log", ["logarithmic scale"]),
                         ("format=svg&layer=2&head=1&rows=4:9&cols=0:9&theme=dark&colors=viridis", ["queries 4 to 8"])]:
        found = get(query)
        assert found.headers["content-type"] == "image/svg+xml; charset=utf-8"
        text = "".join(tree.fromstring(found.body).itertext())
        for word in words + ["austen", "query", "key", "sparsed", "window", ONE["id"]]:
            assert word in text, (query, word)
        width, height, texts = png_reader.describe(get(query.replace("svg", "png")).body)
        assert width > 400 and height > 400 and texts["Title"].startswith("austen") and ONE["id"] in texts["Description"]
    assert "layer 1" not in "".join(tree.fromstring(get("format=svg&layers=0,2").body).itertext())


def test_hostile_tokens():
    """Cut into many tokens by the model, the markup must come out as text, in order, and never as markup."""
    page = graph_files.Page()
    body = get("format=html&layer=2&head=1").body.decode()
    page.feed(body)
    data = json.loads(page.scripts[0][1])
    assert "</script><img src=x onerror=alert(1)>" in "".join(data["tokens"])
    assert [tag for tag, _ in page.tags].count("script") == 2 and "<img" not in body
    assert "default-src 'none'" in page.policy
    nodes, _ = graph_files.graphml_edges(get("format=graphml&layer=2&head=1").body)
    text = "".join(nodes["n%d" % i]["token"] for i in range(N))
    assert "</script><img src=x onerror=alert(1)>" in text and '"universally" &' in text


def test_accept():
    for accept, kind in [("text/csv", "text/csv"), ("image/svg+xml", "image/svg+xml"), ("image/png", "image/png"),
                         ("text/html,image/png,image/svg+xml,*/*", "text/html"), ("application/octet-stream", "application/octet-stream"),
                         ("application/json", "application/json"), ("*/*", "application/json")]:
        found = get("layer=2&head=1", headers={"Accept": accept})
        assert found.headers["content-type"].startswith(kind), (accept, found.headers)


def test_limits():
    dense = get("format=bertviz", status=413).error()
    assert dense["param"] == "format" and "/edges" in dense["message"] and "40000" in dense["message"]
    long = server.post("/v1/attention/captures", {"input": "the " * 400}).json()
    wanted = get("format=csv&layer=0&head=0&graph=pred", status=413, one=long).error()
    assert wanted["param"] == "rows" and "graph_edges" in wanted["message"]
    assert get("format=json&layer=0&head=0&graph=pred", one=long).json()["truncated"]
    assert get("format=csv&layer=0&head=0&graph=pred&rows=0:100", one=long).status == 200
    assert get("format=png", one=long).status == 200
    total = get("format=json&layer=0&head=0&graph=pred&limit=1", one=long).json()["edges_total"]
    for view in ("matrix", "panels", "lines"):  # a picture shows all of them, however many
        drawn = get("format=svg&layer=0&head=0&view=%s%s" % (view, "" if view == "panels" else "&graph=pred"), one=long)
        assert drawn.status == 200 and "{:,} edges".format(total) in drawn.body.decode(), (view, total)


def test_refusals():
    bad = [("format=pdf", "format"), ("format=csv", "head"), ("format=html&layer=1", "head"), ("format=csv&head=1", "layer"),
           ("format=svg&view=matrix", "head"), ("format=svg&layer=1&head=1&view=spiral", "view"),
           ("format=csv&layer=1&head=1&view=lines", "view"), ("format=png&scale=cubic", "scale"),
           ("format=png&colors=jet", "colors"), ("format=png&theme=pink", "theme"), ("format=csv&layer=1&head=1&theme=dark", "theme"),
           ("format=html&layer=1&head=1&theme=dark", "theme"),
           ("format=csv&layer=1&head=1&limit=3", "limit"), ("format=png&layer=1&head=1&weights=f32", "weights"),
           ("format=svg&rows=0:3", "rows"), ("format=svg&top_k=3", "top_k"), ("format=csv&layer=1&head=1&rows=3:1", "rows"),
           ("format=csv&layer=1&head=1&graph=silver", "graph"), ("format=csv&layer=1&head=1&color=red", "color"),
           ("format=svg&layer=1&head=1&view=panels&graph=pred", "graph"), ("format=exbert", "layers"), ("format=circuitsvis&layer=1&rows=0:3", "cols"),
           ("format=bertviz&layer=1&layers=2", "layers"), ("format=bertviz&layer=1&head=1&heads=2", "heads"),
           ("format=bertviz&layers=1,1", "layers")]
    for query, param in bad:
        error = get(query, status=400).error()
        assert error["param"] == param and error["message"], (query, error)
    for query, param in [("format=csv&layer=9&head=0", "layer"), ("format=csv&layer=0&head=9", "head"),
                         ("format=bertviz&layers=9", "layers")]:
        assert get(query, status=404).error()["param"] == param
    assert server.get("/v1/attention/captures/attn-000000000000000000000000/export?format=csv").status == 404


if __name__ == "__main__":
    with server:
        harness.main(globals())
