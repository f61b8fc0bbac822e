"""`sparsed fit` on the bundled model, what a fit finds in the held-out text, and what that must be at least.

Shared by golden/test_fit.py and golden/test_fit_losses.py, which get the root of the repository and the build folder as
arguments.
"""
import json
import os
import subprocess
import sys

ROOT, BUILD = sys.argv[1], sys.argv[2]
SPARSED = os.path.join(BUILD, "sparsed")
AUSTEN = os.path.join(ROOT, "models/austen")
TRAIN = os.path.join(AUSTEN, "train-sample.txt")


def fit(*options, code=0):
    """-> standard output, or where the code is not 0 standard error"""
    result = subprocess.run([SPARSED, "fit", "--model", AUSTEN, *options], capture_output=True, timeout=800)
    assert result.returncode == code, (options, result.returncode, result.stderr.decode())
    return result.stdout if code == 0 else result.stderr.decode()


def measured(path):
    """Means over 24 heads in windows of 1,024: {name: {"recall": [4], "mass": [4]}} at sparsity .6 to .9, and clusters."""
    value = json.loads(fit("--measure", path, "--text", os.path.join(AUSTEN, "heldout.txt"), "--length", "1024", "--json"))
    assert value["sparsities"] == [0.6, 0.7, 0.8, 0.9] and len(value["heads"]) == 24
    return value["mean"]


def check_floors(mean):
    """What rank 8 has to reach with the balanced loss."""
    for name, kind, floor in (("dot", "recall", (0.89, 0.85, 0.79, 0.65)), ("dot", "mass", (0.94, 0.92, 0.89, 0.83)),
                              ("distance", "recall", (0.89, 0.85, 0.78, 0.63))):
        assert all(a >= b for a, b in zip(mean[name][kind], floor)), (name, kind, mean[name][kind])
