"""The whole processes of checks/torture.py: commands whose every allocation fails once.

What a command is asked for is its standard output and the files it writes into a folder of its own (`OUT` in its
arguments); `essence` takes from them what is the same at every run.
"""
import collections
import json
import os
import re
import subprocess

import harness
from hostile_replies import stripped_text

OUT = "@out"
STATE = "out.state"  # of a fit that did not end: the same command goes on from it
PROMPT = "the quick brown fox and the lazy dog and the other"
FINDER = '{"backend": "sparsefinder", "params": {"grouping": "cluster"}}'


def read(folder):
    """{name: bytes}"""
    files = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            files[name] = file.read()
    return files


def whole(files):
    return {name: stripped_text(data) for name, data in files.items()}


def sweep_points(files):
    """The points without what the clock gave; of pages and tables only that they are there."""
    points = json.loads(files["sweep.json"])["points"] if "sweep.json" in files else []
    kept = [{key: value for key, value in point.items() if "seconds" not in key} for point in points]
    return {name: kept if name == "sweep.json" else "" for name in files}


def tensors(files):
    """A report without times, inside the JSON of the file's metadata."""
    return {name: re.sub(rb'seconds\\":[-+.e0-9]+| *$', b"", data[:data.find(b"}}")]) + data[data.find(b"}}"):].lstrip(b"} ") if name
            else data for name, data in files.items()}  # fmt: skip


def picture(files):
    """A compressed picture tells the time: its size may move by a little."""
    return {name: round(len(data) / 3000) if name else stripped_text(data) for name, data in files.items()}


Command = collections.namedtuple("Command", "name arguments given essence", defaults=(None, whole))


def golden(*path):
    return os.path.join(harness.ROOT, "tests", "golden", *path)


def fit_arguments(place):
    return ["fit", "--model", place.model, "--threads", "2", "--text", place.text, "--tokens", "256", "--length", "64", "--steps", "2",
            "--rank", "4", "--clusters", "2"]  # fmt: skip


def sweep_arguments(place):
    return ["sweep", "--model", place.model, "--threads", "2", "--text", place.text, "--length", "64", "--windows", "1", "--grid",
            "window=3;dot-keep=8", "--out", OUT]  # fmt: skip


def add_fit(place):
    """Puts a fit and measured figures beside the model's weights, as the commands write them."""
    for arguments, out in ((fit_arguments(place) + ["--out", OUT], os.path.join(place.model, "sparsefinder.safetensors")),
                           (fit_arguments(place) + ["--adapter", "one=" + place.adapter, "--out", OUT],
                            os.path.join(place.adapter, "sparsefinder.safetensors")),
                           (sweep_arguments(place), place.model)):  # fmt: skip
        done = subprocess.run([harness.BUILD + "/sparsed"] + [out if a == OUT else a for a in arguments], capture_output=True)
        assert done.returncode == 0, done.stderr


def commands(place):
    base, out = ["--model", place.model, "--threads", "2"], ["--out", os.path.join(OUT, "out")]
    adapted = base + ["--adapter", "one=" + place.adapter]
    generate = ["--temperature", "0", "--max-tokens", "4", "--prompt", PROMPT]
    quantized = golden("models", "tiny-gguf-quants", "q4_k_m.gguf")
    graph = ["graph"] + base + ["--text", place.short] + out
    return [
        Command("fit", fit_arguments(place) + ["--json"] + out),
        Command("fit by the hinge loss", fit_arguments(place) + ["--loss", "hinge", "--rope", "pre", "--maps", "shared"] + out),
        Command("fit measured", ["fit"] + base + ["--measure", os.path.join(place.model, "sparsefinder.safetensors"), "--text", place.text,
                                                  "--tokens", "256", "--length", "64", "--json"]),
        Command("sweep", sweep_arguments(place), None, sweep_points),
        Command("import-fit", ["import-fit", "--projections", golden("import", "projections.pt"), "--centroids",
                               golden("import", "centroids.pickle")] + out),
        Command("attend", ["attend", "--in", golden("attend", "009-cluster.in.safetensors"), "--fit",
                           golden("attend", "009-cluster.fit.safetensors"), "--metrics"] + out, None, tensors),
        Command("generate", ["generate"] + base + generate + ["--logit-bias", "5=1,6=-2", "--stop-token-ids", "3,4", "--stop", "zz"]),
        Command("generate by adapter and fit", ["generate"] + adapted + generate + ["--attention", FINDER, "--json"]),
        Command("generate from GGUF", ["generate", "--model", quantized, "--threads", "2"] + generate),
        Command("generate a chat", ["generate"] + base + ["--chat", "--chat-template", "chatml", "--temperature", "0", "--max-tokens", "4",
                                                          "--system", "be brief"], b"the fox\nthe dog\n"),
        Command("inspect", ["inspect"] + base[:2]),
        Command("inspect GGUF", ["inspect", "--model", quantized, "--json"]),
        Command("tokenize", ["tokenize"] + base[:2], b'["the other", "a"]'),
        Command("tokenize with GGUF", ["tokenize", "--model", golden("tokenizers", "llama2", "vocab.gguf")], b'["the other", "\\u00e9"]'),
        Command("tokenize with unigrams", ["tokenize", "--model", golden("tokenizers", "unigram")], b'["the other", "\\u00e9"]'),
        Command("tokenize with word pieces", ["tokenize", "--model", golden("tokenizers", "wordpiece")], b'["the other", "\\u00e9"]'),
        Command("detokenize", ["tokenize", "--decode"] + base[:2], b"[[5, 6, 259, 200], []]"),
        Command("score", ["score"] + base + ["--text", place.text, "--length", "64", "--json"]),
        Command("score by adapter and fit", ["score"] + adapted + ["--text", place.text, "--length", "64", "--attention", FINDER]),
        Command("graph svg", graph + ["--layer", "1", "--head", "1", "--format", "svg"]),
        Command("graph png", graph + ["--format", "png"], None, picture),
        Command("graph html", graph + ["--layer", "0", "--head", "1", "--format", "html", "--attention", FINDER]),
    ]  # fmt: skip
