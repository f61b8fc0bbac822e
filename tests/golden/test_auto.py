#!/usr/bin/python3
"""`auto` over HTTP: a copy of the bundled model with a sweep.json whose figures are made up, so that every rule of
engine/README.md, "auto", decides once. Arguments: root, build folder."""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(sys.argv[1], "tests/support"))
import harness

ROOT, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
AUSTEN = os.path.join(ROOT, "models/austen")


def point(backend, params, recall, increase, prefill, decode, **more):
    return {"attention": {"backend": backend, "params": params}, "grid": backend, "value": None, "device": "cpu",
            "length": 1000, "windows": 1, "density": .5, "recall": recall, "mass": recall,
            "perplexity": 30 * (1 + increase), "perplexity_dense": 30, "prefill_seconds": prefill,
            "prefill_seconds_dense": 1, "decode_seconds": decode, "decode_seconds_dense": .01,
            "selection_sees_later_tokens": False, **more}


POINTS = [
    dict(point("dense", {}, 1, 0, .1, .001), density=1),
    point("window", {"window": 33}, .4, .2, .2, .002),
    point("strided", {"stride": 64}, .9, .01, .5, .006),
    point("fixed", {"stride": 64, "summary": 2}, .99, -.001, .8, .008),
    point("window", {"window": 3}, 1, -.5, .01, .0001, selection_sees_later_tokens=True),
    point("window", {"window": 5}, 1, -.5, .01, .0001, device="cuda"),
    point("lattice", {}, 1, -.5, .01, .0001),
    point("sparsefinder", {"keep": 8}, 1, -.5, .01, .0001),
    point("window", {"window": 129}, .8, 0, .3, .003, length=4000),
]


def model_folder(folder):
    """The bundled model by links, without what may lie beside it."""
    path = os.path.join(folder, "model")
    os.mkdir(path)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        os.symlink(os.path.join(AUSTEN, name), os.path.join(path, name))
    return path


def fingerprint(model, folder):
    text = os.path.join(folder, "text.txt")
    with open(text, "w") as file:
        file.write("It is a truth universally acknowledged. " * 20)
    subprocess.run([os.path.join(BUILD, "sparsed"), "sweep", "--model", model, "--text", text, "--length", "16",
                    "--windows", "1", "--grid", "window=3", "--out", os.path.join(folder, "out")], check=True,
                   capture_output=True)
    with open(os.path.join(folder, "out/sweep.json")) as file:
        return json.load(file)["model"]


def write_sweep(model, print_of_model):
    with open(os.path.join(model, "sweep.json"), "w") as file:
        json.dump({"format": "sparsed.sweep.v1", "model": print_of_model, "model_name": "model", "text_sha256": "00",
                   "points": POINTS}, file)


def ask(server, params=None, tokens=20, prompt="Emma was", **more):
    attention = dict({"backend": "auto", "params": params or {}}, **more)
    reply = server.post("/v1/completions", {"prompt": prompt, "max_tokens": tokens, "temperature": 0,
                                            "attention": attention})
    assert reply.status == 200, reply
    return reply.json()


def report(*arguments, **more):
    return ask(*arguments, **more)["attention_report"]


def chosen(value):
    assert value["requested"] == "auto" and value["fallbacks"] == []
    return value["backend"], value["params"].get("window", value["params"].get("stride"))


def test_rules(server):
    none = report(server)
    assert chosen(none) == ("fixed", 64), none
    assert none["params"]["summary"] == 2 and none["trained"] is False
    assert none["reason"].startswith("fixed: 0.80 of dense's time, perplexity -0.10 %, recall 0.990, measured at 1000")
    assert chosen(report(server, {"max_perplexity_increase": .5})) == ("window", 33)
    assert chosen(report(server, {"max_perplexity_increase": .05})) == ("strided", 64)
    assert chosen(report(server, {"max_recall_loss": .2})) == ("strided", 64)
    assert chosen(report(server, {"max_recall_loss": .2, "max_perplexity_increase": 0})) == ("fixed", 64)
    nothing = report(server, {"max_recall_loss": 0, "max_perplexity_increase": 0})
    assert nothing["backend"] == "dense" and "nothing within the budget" in nothing["reason"]
    assert nothing["trained"] is True


def test_length(server):
    """Prompt and answer of 2,000 and more are nearer to 4,000 than to 1,000."""
    value = report(server, {"max_recall_loss": .5}, tokens=2040 - 1500, prompt=[7] * 1500)
    assert chosen(value) == ("window", 129) and "at 4000 tokens" in value["reason"], value


def test_runs_as_if_asked(server):
    params = {"max_perplexity_increase": .05}
    auto = ask(server, params)
    plain = server.post("/v1/completions", {"prompt": "Emma was", "max_tokens": 20, "temperature": 0, "attention": {
        "backend": "strided", "params": {"stride": 64}}}).json()
    assert auto["choices"][0]["text"] == plain["choices"][0]["text"]
    ours, theirs = auto["attention_report"], plain["attention_report"]
    for phase in ("prefill", "decode"):
        assert ours[phase]["edges"] == theirs[phase]["edges"]
    assert ours["params"] == theirs["params"] and theirs["reason"] is None
    scored = server.post("/v1/score", {"input": "Emma was here", "attention": {"backend": "auto", "params": params}})
    assert scored.json()["attention_report"]["backend"] == "strided"


def test_other_normalizer(server):
    value = report(server, normalizer="softmax")
    assert value["backend"] == "dense" and "normalizer" in value["reason"], value
    assert chosen(report(server, normalizer="entmax15")) == ("fixed", 64)  # the model's own, by name


def test_refusals(server):
    for params in ({"max_recall_loss": 2}, {"max_recall_loss": "x"}, {"max_perplexity_increase": -1}):
        reply = server.post("/v1/completions", {"prompt": "a", "attention": {"backend": "auto", "params": params}})
        assert reply.status == 400 and reply.error()["param"] == "attention.params." + list(params)[0], reply
    (entry,) = [e for e in server.get("/v1/attention/backends").json()["data"] if e["name"] == "auto"]
    assert [p["name"] for p in entry["params"]] == ["max_recall_loss", "max_perplexity_increase"]
    assert [p["type"] for p in entry["params"]] == ["number", "number"] and entry["available"] is True


def without_figures(model, why):
    with harness.Server("--model", model) as server:
        value = report(server)
        assert value["backend"] == "dense" and value["reason"] == "no sweep.json" and value["trained"] is True, why


# A bundled sweep is of the model that the bundled fit beside it is for.
for name, lengths in (("austen", {1024}), ("smollm2-entmax", {1024, 2048})):
    with open(os.path.join(ROOT, "models", name, "sweep.json")) as file:
        bundled = json.load(file)
    with open(os.path.join(ROOT, "models", name, "sparsefinder.safetensors"), "rb") as file:
        made_for = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]["model"]
    assert bundled["format"] == "sparsed.sweep.v1" and bundled["model"] == made_for, name
    assert {p["length"] for p in bundled["points"]} == lengths and all(p["prefill_seconds"] > 0 for p in bundled["points"])

with tempfile.TemporaryDirectory() as work:
    copy = model_folder(work)
    own = fingerprint(copy, work)
    without_figures(copy, "no file")
    write_sweep(copy, "0" * 64)
    without_figures(copy, "another model")
    with open(os.path.join(copy, "sweep.json"), "w") as broken:
        broken.write("{")
    without_figures(copy, "broken")
    write_sweep(copy, own)
    with harness.Server("--model", copy) as shared:
        harness.main({name: (lambda f=f: f(shared)) for name, f in list(globals().items()) if name.startswith("test_")})
