#!/usr/bin/python3
"""Perplexity of the bundled model's held-out text by `sparsed score` against the figure of an independent
implementation: 38.381 with windows of 1,024 (golden.json of the model: validation_perplexity_1024; that text had six
separators between novels which heldout.txt leaves out, so the figures differ in the second decimal)."""
import json
import math
import os
import subprocess
import sys

ROOT, BUILD = sys.argv[1], sys.argv[2]
HELDOUT = os.path.join(ROOT, "models/austen/heldout.txt")
EXPECTED, TOKENS = 38.381, 30162


def score(*options):
    command = [os.path.join(BUILD, "sparsed"), "score", "--model", os.path.join(ROOT, "models/austen"), "--kv", "f32"]
    result = subprocess.run(command + list(options), capture_output=True, timeout=600)
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout)


value = score("--text", HELDOUT, "--length", "1024", "--json")
(data,) = value["data"]
assert value["object"] == "score" and value["model"] == "austen"
assert abs(data["perplexity"] - EXPECTED) < 0.1, data["perplexity"]
assert abs(data["bits_per_byte"] - 1.264) < 0.002, data["bits_per_byte"]
assert data["n_scored"] == TOKENS - 1 == len(data["token_ids"]) - 1 == value["usage"]["prompt_tokens"] - 1

# The figures follow from the logprobs, the tokens from the text.
logprobs = data["token_logprobs"]
nll = -sum(logprobs[1:])
assert logprobs[0] is None and len(logprobs) == TOKENS
assert abs(nll - data["nll"]) < 1e-6 * nll
assert abs(math.exp(nll / (TOKENS - 1)) - data["perplexity"]) < 1e-6
with open(HELDOUT, "rb") as file:
    text = file.read()
assert data["offsets"][0][0] == 0 and data["offsets"][-1][1] == len(text)
assert all(a[1] == b[0] for a, b in zip(data["offsets"], data["offsets"][1:]))
assert all(text[a:b].decode() == token for (a, b), token in zip(data["offsets"], data["tokens"]) if token.isascii())
assert data["bytes_scored"] == len(text) - data["offsets"][0][1]
report = value["attention_report"]
assert report["prefill"]["tokens"] == TOKENS and report["normalizer"] == {"alpha": 1.5} and report["trained"] is True
layers, heads, whole, rest = 6, 4, TOKENS // 1024, TOKENS % 1024
pairs = layers * heads * (whole * 1024 * 1025 // 2 + rest * (rest + 1) // 2)
assert report["prefill"]["edges"] == report["prefill"]["pairs"] == pairs, report
print("perplexity %.4f, expected %.3f" % (data["perplexity"], EXPECTED))
