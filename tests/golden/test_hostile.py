"""Damaged model files: every one is refused by name within a second, or serves as if nothing had happened.

usage: test_hostile.py ROOT BUILD

Two steps on a two-layer model of 54 KB (tests/support/tiny_model.py), then on a GGUF file of 134 KB: hostile_loader
tries some twenty thousand damages in one process, then a few hundred go through the real command, whose exit status
must be 65 (or 0 where the file is still valid) with the file's name on standard error.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile

ROOT, BUILD = sys.argv[1], sys.argv[2]
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import tiny_model  # noqa: E402

SAMPLES = 240
LIMIT = 1.0  # seconds of processor time, so that a busy machine fails nothing


def many_loads(path):
    result = subprocess.run([os.path.join(BUILD, "tests", "hostile_loader"), path], stdout=subprocess.PIPE, timeout=600)
    text = result.stdout.decode(errors="replace")
    print(text[-4000:], end="")
    assert result.returncode == 0, f"hostile_loader ended with {result.returncode}"
    loads, refused, served = map(int, re.search(r"(\d+) loads: (\d+) refused, (\d+) served", text).groups())
    assert loads > 15000 and refused > 14000 and served > 10, "fewer loads than the files have bytes"


def generate(path):
    """Exit status, standard error and processor seconds of one token."""
    command = [os.path.join(BUILD, "sparsed"), "generate", "--model", path, "--prompt", "the", "--max-tokens", "1"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result.returncode, result.stderr.decode(errors="replace"), seconds


def damages(data, header):
    """SAMPLES damaged copies of a file, spread over its header and its cuts."""
    cuts = list(range(0, header + 64, 97)) + [len(data) - 1]
    for size in cuts:
        yield f"cut to {size}", data[:size]
    yield "one byte appended", data + b"\0"
    left = SAMPLES - len(cuts) - 1
    for i in range(left):
        place = i * header // left
        byte = [0x00, 0xFF, data[place] ^ 0x80, (data[place] + 1) & 255][i % 4]
        yield f"byte {place} to {byte:02x}", data[:place] + bytes([byte]) + data[place + 1 :]


def many_commands(model, path, header):
    """Damages the file at path, of model, and runs the command on it; restores it."""
    with open(path, "rb") as file:
        data = file.read()
    counts, slowest = {}, 0.0
    for damage, bad in damages(data, header):
        with open(path, "wb") as file:
            file.write(bad)
        status, text, seconds = generate(model)
        for _ in range(4):  # a processor taken from this machine counts as used
            if seconds >= LIMIT:
                status, text, seconds = generate(model)
        slowest = max(slowest, seconds)
        counts[status] = counts.get(status, 0) + 1
        assert status in (0, 65), f"{damage}: exit {status}: {text}"
        assert status == 0 or os.path.basename(path) in text, f"{damage}: {text}"
        assert seconds < LIMIT, f"{damage}: {seconds:.2f} s"
    with open(path, "wb") as file:
        file.write(data)
    print(f"sparsed generate: exits {counts}, slowest {slowest:.2f} s")
    assert counts.get(65, 0) > SAMPLES * 3 // 4, counts


def gguf():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        shutil.copyfile(os.path.join(ROOT, "tests", "golden", "models", "tiny-qwen3", "model.gguf"), path)
        many_loads(path)
        status, text, _ = generate(path)
        assert status == 0, f"the undamaged file: {status} {text}"
        with open(path, "rb") as file:
            header = file.read().index(b"output_norm.weight") + 64
        many_commands(path, path, header)


def main():
    with tempfile.TemporaryDirectory() as folder:
        tiny_model.write(folder)
        size = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
        assert size < 100_000, size
        many_loads(folder)

        status, text, _ = generate(folder)
        assert status == 0, f"the undamaged model: {status} {text}"
        path = os.path.join(folder, "model.safetensors")
        with open(path, "rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
        many_commands(folder, path, header)

        os.remove(path)
        status, text, _ = generate(folder)
        assert status == 66 and "model.safetensors" in text, f"no weights: {status} {text}"
        os.mkdir(path)
        status, text, _ = generate(folder)
        assert status == 65 and "model.safetensors" in text, f"weights are a folder: {status} {text}"
        shutil.rmtree(path)


main()
gguf()
