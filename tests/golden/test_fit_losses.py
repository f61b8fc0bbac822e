#!/usr/bin/python3
"""The balanced loss against the paper's, both fitted on all of train-sample.txt in windows of 1,024 tokens and measured on
heldout.txt: at sparsity .7 and .8 `dot` of rank 8 finds a tenth of all edges more than distances of rank 4 by the hinge."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
from austen_fit import TRAIN, check_floors, fit, measured

with tempfile.TemporaryDirectory() as folder:
    found = {}
    for loss, rank in (("balanced", "8"), ("hinge", "4")):
        path = os.path.join(folder, loss)
        fit("--text", TRAIN, "--length", "1024", "--loss", loss, "--rank", rank, "--clusters", "none", "--kmeans", "none",
            "--bins", "none", "--out", path)  # fmt: skip
        found[loss] = measured(path)
check_floors(found["balanced"])
assert "dot" not in found["hinge"]
ahead = [a - b for a, b in zip(found["balanced"]["dot"]["recall"], found["hinge"]["distance"]["recall"])]
print("dot is ahead of the paper's loss by", ["%.3f" % part for part in ahead])
assert ahead[1] >= 0.1 and ahead[2] >= 0.1, ahead
