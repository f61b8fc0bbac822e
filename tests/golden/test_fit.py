#!/usr/bin/python3
"""`sparsed fit` on the bundled model: what the bundled fit finds in the held-out text at 1,024 tokens (the figures of
models/austen/README.md, with room for rounding), a small fit from the command line, Ctrl-C and going on, and refusals."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
from austen_fit import AUSTEN, SPARSED, TRAIN, check_floors, fit, measured

BUNDLED = os.path.join(AUSTEN, "sparsefinder.safetensors")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


# --- the bundled fit, on text that nobody learned from ---
mean = measured(BUNDLED)
check_floors(mean)
for kind in ("recall", "mass"):
    assert all(a > b > c for a, b, c in zip(mean["dot"][kind], mean["window"][kind], mean["random"][kind]))
    assert all(a > b for a, b in zip(mean["scores"][kind], mean["dot"][kind]))
few, many = mean["clusters"]
assert few["clusters"] == 16 and few["sparsity"] >= 0.71 and few["recall"] >= 0.84, few
assert many["clusters"] == 32 and many["sparsity"] >= 0.77 and many["recall"] >= 0.79, many

# The header names the model and the text it was made from.
with open(BUNDLED, "rb") as file:
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
assert header["format"] == "sparsed.sparsefinder.v1" and header["length"] == "2048" and header["alpha"] == "1.5"
assert header["corpus"] == digest(TRAIN)

# --- a small fit: the same bytes from one thread, from all, and after Ctrl-C ---
with tempfile.TemporaryDirectory() as folder:
    out = [os.path.join(folder, name) for name in ("a", "b", "c")]
    small = ["--text", TRAIN, "--length", "256", "--tokens", "5120", "--steps", "50",
             "--clusters", "8", "--kmeans", "8", "--blocks", "64", "--seed", "3"]
    value = json.loads(fit(*small, "--threads", "1", "--json", "--out", out[0]))
    assert all(head["last_loss"] < head["first_loss"] for head in value["heads"])
    assert 20e6 < value["peak_memory_bytes"] < 1e9
    # At sparsity .9 the window of 33 is the whole budget of 256 tokens.
    assert all(a > b for a, b in zip(value["mean"]["dot"]["recall"][:3], value["mean"]["random"]["recall"]))
    table = fit(*small, "--out", out[1]).decode()
    assert "layer 5" in table and "window + first" in table and "q.k itself" in table and "clusters 8" in table
    assert digest(out[0]) == digest(out[1])

    process = subprocess.Popen([SPARSED, "fit", "--model", AUSTEN, *small, "--out", out[2]], stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL)
    line = b""
    while b"layer 1 head" not in line:
        line = process.stderr.readline()
        assert line, "ended before it was stopped"
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read().decode()
    assert process.wait() == 0 and "goes on from" in rest, rest
    assert os.path.exists(out[2] + ".state") and not os.path.exists(out[2])
    result = subprocess.run([SPARSED, "fit", "--model", AUSTEN, *small, "--out", out[2]], capture_output=True, timeout=800)
    said = result.stderr.decode()
    assert result.returncode == 0 and "goes on from %s.state: " % out[2] in said and "peak memory" in said, said
    assert digest(out[2]) == digest(out[0]) and not os.path.exists(out[2] + ".state")

    # Another seed is another fit; a fit of other shape or text too short is refused.
    assert fit(*small[:-1], "4", "--steps", "5", "--out", out[1]) and digest(out[1]) != digest(out[0])
    assert "fewer than two windows" in fit("--text", os.path.join(AUSTEN, "config.json"), "--out", out[1], code=65)
    assert "--text" in fit("--out", out[1], code=64) and "--out" in fit(*small[:2], code=64)
    assert "--rank" in fit(*small, "--rank", "65", "--out", out[1], code=64)
    assert "--clusters" in fit(*small, "--clusters", "8,4", "--out", out[1], code=64)
    assert "no file" in fit(*small, "--out", os.path.dirname(out[1]), code=64)
    assert "no folder" in fit(*small, "--out", os.path.join(folder, "none", "x"), code=66)
    assert "2048" in fit(*small, "--length", "4096", "--out", out[1], code=64)
