#!/usr/bin/python3
"""`sparsed bench --model`: every figure is there, lengths beyond the context are n/a or warned of, shares are shares."""
import json
import os
import subprocess
import sys
import tempfile

ROOT, BUILD = sys.argv[1], sys.argv[2]
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import tiny_model

NAMES = ["prefill.512", "prefill.2048", "prefill.8192", "decode.0", "decode.4096", "decode.16384", "decode8.0"]


def bench(model, *options):
    command = [os.path.join(BUILD, "sparsed"), "bench", "--model", model, *options]
    result = subprocess.run(command, capture_output=True, timeout=600)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode(), result.stderr.decode()


with open(os.path.join(BUILD, "CMakeCache.txt")) as file:
    if "SPARSED_SANITIZE:STRING=\n" not in file.read():
        print("measuring under a sanitizer says nothing")
        sys.exit(77)

with tempfile.TemporaryDirectory() as folder:
    tiny = tiny_model.write(os.path.join(folder, "tiny"))
    text, errors = bench(tiny, "--json")
    value = json.loads(text)
    assert value["model"] == "tiny" and value["machine"]["memory_gbps"] > 0 and value["machine"]["int8_gops"] > 0
    assert [line["name"] for line in value["results"]] == NAMES
    for line in value["results"]:
        assert line["unit"] == "tokens/s" and line["value"] > 0 and line["share"] > 0, line
    assert "trained for 256 tokens" in errors, errors

    table, errors = bench(tiny, "--ctx", "600", "--attention", "window", "--kv", "f32")
    rows = {line.split()[0]: line.split()[1] for line in table.splitlines() if line.split() and line.split()[0] in NAMES}
    assert list(rows) == NAMES
    assert [name for name in NAMES if rows[name] != "n/a"] == ["prefill.512", "decode.0", "decode8.0"], table
    assert "decode.16384 needs a context of" in errors and "trained for 256 tokens" in errors, errors

refused = subprocess.run([os.path.join(BUILD, "sparsed"), "bench", "--ctx", "600"], capture_output=True, timeout=60)
assert refused.returncode == 64 and b"--model" in refused.stderr
