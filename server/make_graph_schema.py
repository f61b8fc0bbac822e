"""Writes the JSON Schema of every answer of the attention graph routes as a C array: GET /v1/attention/schema.

usage: make_graph_schema.py FILE
"""
import json
import sys

BASE = "/v1/attention/captures/{id}"
WHOLE = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number"}
RATIO = {"type": ["number", "null"]}
TEXT = {"type": "string"}
TRUTH = {"type": "boolean"}
PAIR = {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 2}
MAYBE_WHOLE = {"type": ["integer", "null"], "minimum": 0}
MAYBE_TEXT = {"type": ["string", "null"]}
GRAPH = {"enum": ["gold", "pred", "both", "missed", "extra", "after"]}
STATE = {"enum": ["running", "ready", "failed"]}
COUNTS = "edges_gold edges_pred edges_both edges_after pairs_valid rows_valid rows_exact rows_empty max_degree".split()
RATIOS = ("recall precision f1 sparsity sparsity_gold mass_recall mean_distance entropy self previous sink duplicate "
          "induction").split()  # fmt: skip


def array(items):
    return {"type": "array", "items": items}


def record(optional=(), **members):
    return {"type": "object", "properties": members, "required": [m for m in members if m not in optional],
            "additionalProperties": False}  # fmt: skip


def numbers():
    return dict({name: WHOLE for name in COUNTS}, **{name: RATIO for name in RATIOS})


def schemas():
    normalizer = {"oneOf": [{"const": "softmax"}, record(alpha={"type": "number", "exclusiveMinimum": 1, "maximum": 2})]}
    gold = record(("mass", "top_k", "min_weight"), normalizer=normalizer, mass=NUMBER, top_k=WHOLE, min_weight=NUMBER)
    provenance = record(model=TEXT, arch=TEXT, model_hash=MAYBE_TEXT, backend=TEXT, params={"type": "object"},
                        decode_backend=MAYBE_TEXT, decode_params={"type": ["object", "null"]}, selection_sees_later_tokens=TRUTH,
                        normalizer=normalizer, heads=TEXT,
                        gold=gold, dtype=TEXT, software=TEXT, created=WHOLE)  # fmt: skip
    cached = record(layer=WHOLE, head=WHOLE, bytes=WHOLE, seconds=NUMBER, progress=NUMBER)
    capture = record(id=TEXT, object={"const": "attention.capture"}, state=STATE, progress=NUMBER, error=MAYBE_TEXT,
                     n_query=WHOLE, n_key=WHOLE, block={"enum": ["self", "enc", "dec", "cross"]}, causal=TRUTH,
                     layers=array(WHOLE), heads=array(WHOLE), kv_heads=WHOLE, bytes=WHOLE, expires=WHOLE, labels=array(TEXT),
                     provenance=provenance, cached_heads=array(cached))  # fmt: skip
    token = record(("clusters",), index=WHOLE, id=WHOLE, text=TEXT, bytes=TEXT, special=TRUTH,
                   labels={"type": "object", "additionalProperties": TEXT},
                   clusters=record(q=WHOLE, k=WHOLE))  # fmt: skip
    head = record(COUNTS + RATIOS, layer=WHOLE, head=WHOLE, kv_head=WHOLE, state={"enum": ["ready", "pending"]}, **numbers())
    metrics = dict(record(**{name: WHOLE for name in COUNTS}), type=["object", "null"])
    edges = record(graph=TEXT, layer=MAYBE_WHOLE, head=MAYBE_WHOLE, kv_head=MAYBE_WHOLE, rows=PAIR, cols=PAIR,
                   indptr=array(WHOLE), indices=array(WHOLE), weights=array(NUMBER), left_out=array(NUMBER), edges_total=WHOLE,
                   edges_returned=WHOLE, truncated=TRUTH, next=MAYBE_TEXT, metrics=metrics)  # fmt: skip
    line = dict(graph=GRAPH, layer=WHOLE, head=WHOLE)
    rest = dict(weights=array(NUMBER), left_out=NUMBER)
    point = record(attention={"type": "object"}, layer=WHOLE, head=WHOLE,
                   **{n: WHOLE for n in "edges_gold edges_pred edges_both pairs_valid rows_exact rows_empty".split()},
                   **{n: RATIO for n in "recall precision sparsity sparsity_gold mass_recall".split()})  # fmt: skip
    sweep = record(id=TEXT, capture=TEXT, state=STATE, error=MAYBE_TEXT, done=WHOLE, total=WHOLE, points=array(point))
    label = record(layer=WHOLE, head=WHOLE, counts=array(array(WHOLE)), mass=array(array(NUMBER)))
    histogram = {"type": "object", "additionalProperties": WHOLE}
    cluster = record(("labels_q", "labels_k"), cluster=WHOLE, size_q=WHOLE, size_k=WHOLE, edges=WHOLE, labels_q=histogram,
                     labels_k=histogram)  # fmt: skip
    return {
        "POST /v1/attention/captures": capture,
        "GET " + BASE: capture,
        "DELETE " + BASE: record(id=TEXT, object={"const": "attention.capture"}, deleted={"const": True}),
        "GET " + BASE + "/tokens": record(object={"const": "list"}, n=WHOLE, data=array(token)),
        "GET " + BASE + "/heads": record(object={"const": "list"}, done=WHOLE, total=WHOLE, data=array(head)),
        "GET " + BASE + "/heads/{layer}/{head}/edges": edges,
        "GET " + BASE + "/heads/{layer}/{head}/rows/{row}": record(row=WHOLE, keys=array(WHOLE), **line, **rest),
        "GET " + BASE + "/heads/{layer}/{head}/cols/{col}": record(col=WHOLE, queries=array(WHOLE), **line, **rest),
        "GET " + BASE + "/overview?format=json": record(graph=GRAPH, layer=WHOLE, heads=array(WHOLE), state=array(TEXT), done=WHOLE,
                                                        total=WHOLE, shape=array(WHOLE), scale=TEXT, data=TEXT),
        "GET " + BASE + "/heads/{layer}/{head}/clusters": record(clusters=array(cluster), missed=array(array(WHOLE))),
        "GET " + BASE + "/heads/{layer}/{head}/clusters/{cluster}": record(cluster=WHOLE, queries=array(WHOLE), keys=array(WHOLE),
                                                                           next=MAYBE_TEXT),
        "GET " + BASE + "/aggregate": edges,
        "GET " + BASE + "/labels": record(graph=GRAPH, set=TEXT, labels=array(TEXT), data=array(label)),
        "POST " + BASE + "/sweep": sweep,
        "GET " + BASE + "/sweeps/{job}": sweep,
        "GET /v1/attention/compare": record(graph=GRAPH, layer=WHOLE, head=WHOLE, edges_a=WHOLE, edges_b=WHOLE, both=WHOLE,
                                            only_a=WHOLE, only_b=WHOLE),
        "202": record(state={"const": "running"}, progress=NUMBER),
        "error": record(error=dict(record(message=TEXT, type=TEXT, param=MAYBE_TEXT, code=WHOLE))),
    }  # fmt: skip


def main(path):
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Answers of the attention graph routes",
                "type": "object", "properties": schemas()}  # fmt: skip
    data = json.dumps(document, separators=(",", ":")).encode()
    with open(path, "w", encoding="ascii") as out:
        out.write("static const char graph_schema[] = {\n")
        for at in range(0, len(data), 24):
            out.write(" ".join("%d," % byte for byte in data[at : at + 24]) + "\n")
        out.write("0};\n")


main(sys.argv[1])
