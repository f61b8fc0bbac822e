"""Writes tests/fuzz/corpus/fuzz_fit.

usage: make_fit_corpus.py ROOT

Run by hand after a change; its output is kept in the tree. A valid fit file, a body that holds fit tensors, and one
file for most rules that can be broken. The same bytes at every run.
"""

import json
import os
import struct
import sys

METADATA = {"format": "sparsed.sparsefinder.v1", "layers": "1", "heads": "2", "d": "2", "r": "1", "alpha": "1.5",
            "seed": "0", "rope": "post", "length": "64"}
SELF = "layers.0.self."
TENSORS = {SELF + "q_proj.weight": [2, 2, 1], SELF + "q_proj.bias": [2, 1], SELF + "k_proj.weight": [1, 2, 1],
           SELF + "k_proj.bias": [1, 1], SELF + "centroids": [2, 1, 2, 1], SELF + "centroids.3": [2, 1, 3, 1],
           SELF + "bins": [2, 1, 2], SELF + "thresholds": [2], SELF + "thresholds.90": [2],
           SELF + "dot.q_proj.weight": [2, 2, 1], SELF + "dot.q_proj.bias": [2, 1],
           SELF + "cluster2.q_proj.weight": [2, 2, 1], SELF + "cluster2.q_proj.bias": [2, 1],
           SELF + "cluster2.centroids": [2, 1, 2, 1], SELF + "block2.q_proj.weight": [2, 2, 1],
           SELF + "block2.q_proj.bias": [2, 1], SELF + "block2.centroids": [2, 1, 2, 2]}


def file(tensors, metadata, odd, values=b"\0\0\x80\x3f"):
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    while (8 + len(text) + at) % 2 != odd:
        text += b" "
    return struct.pack("<Q", len(text)) + text + values * (at // 4)


def cases():
    yield "valid", file(TENSORS, METADATA, 0)
    yield "body", file({"q": [2, 3, 2], **TENSORS}, None, 1)
    yield "nan", file(TENSORS, METADATA, 0, b"\0\0\xc0\x7f")
    yield "infinite", file(TENSORS, METADATA, 0, b"\0\0\x80\x7f")
    for key, value in (("format", "v2"), ("layers", "0"), ("heads", "3"), ("d", "9"), ("alpha", "0"), ("seed", "x")):
        yield "key-" + key, file(TENSORS, {**METADATA, key: value}, 0)
    for name in ("q_proj.weight", "q_proj.bias", "k_proj.bias"):
        yield "without-" + name, file({k: v for k, v in TENSORS.items() if k != SELF + name}, METADATA, 0)
    for name, shape in (("centroids.4", [2, 1, 3, 1]), ("bins.9", [2, 1, 2]), ("k_proj.weight", [3, 2, 1]),
                        ("block9.centroids", [2, 1, 1, 1]), ("centroids", [2, 0, 2, 1])):
        yield "shape-" + name, file({**TENSORS, SELF + name: shape}, METADATA, 0)


def main():
    folder = os.path.join(sys.argv[1], "tests/fuzz/corpus/fuzz_fit")
    os.makedirs(folder, exist_ok=True)
    for name, data in cases():
        with open(os.path.join(folder, name), "wb") as out:
            out.write(data)


main()
