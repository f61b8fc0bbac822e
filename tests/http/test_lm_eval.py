"""lm-evaluation-harness's `local-completions` against the server, in a virtual environment below the build folder: a
log-likelihood, a multiple-choice and a rolling task from local files. Every figure it reports equals the one computed here
from /v1/score. Where pip can't reach the package, or its installation does not end in time, the test is skipped (77)."""
import glob
import json
import math
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

FOLDER = os.path.join(harness.BUILD, "venv-lm-eval")
PYTHON = os.path.join(FOLDER, "bin", "python")
INSTALL_SECONDS = 300
END_OF_TEXT = "<|endoftext|>"
KEY = "sk-of-the-harness"

CONTINUATIONS = [
    ("It is a truth universally acknowledged, that a single man in possession of a good fortune", ", must be in want of a wife."),
    ("Emma Woodhouse, handsome, clever,", " and rich"),
    ("The family of Dashwood had long been", " settled in Sussex."),
    ("She was not at all", None),  # the model's own best text
]
CHOICES = [
    ("Mr. Darcy was", ["proud", "zygote", "of the of"], 0),
    ("\u201cMy dear Mr. Bennet,\u201d said his", ["quantum", "lady", "\u4e2d\u6587"], 1),
    ("They walked to", ["the sea", "Meryton", "xxxxx"], 1),
]
TEXTS = [
    "No one who had ever seen Catherine Morland in her infancy would have supposed her born to be an heroine.",
    "Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man who, for his own amusement, never took up any book but "
    "the Baronetage \u2014 caf\u00e9 \U0001f600.",
]
TASKS = {
    "likelihood": dict(output_type="loglikelihood", doc_to_text="{{context}}", doc_to_target="{{target}}", target_delimiter="",
                       metric_list=[{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}, {"metric": "acc"}]),
    "choice": dict(output_type="multiple_choice", doc_to_text="{{context}}", doc_to_choice="{{choices}}", doc_to_target="{{label}}",
                   metric_list=[{"metric": "acc"}]),
    "rolling": dict(output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
                    metric_list=[{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}]),
}  # fmt: skip


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def run(*command, seconds, **more):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, **more)
    except subprocess.TimeoutExpired:
        skip("%s took longer than %d s" % (" ".join(command[:4]), seconds))


def prepare():
    if os.path.exists(PYTHON) and run(PYTHON, "-c", "import lm_eval, aiohttp, tenacity, datasets", seconds=120).returncode == 0:
        return
    made = run(sys.executable, "-m", "venv", FOLDER, seconds=60)
    if made.returncode:
        skip("no virtual environment: %s" % (made.stdout + made.stderr)[-300:])
    got = run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10",
              "lm_eval[api]", seconds=INSTALL_SECONDS)  # fmt: skip
    if got.returncode:
        skip("pip can't install lm_eval: %s" % got.stderr[-300:])


def set_greedy(server):
    """Fills in the pair that the model writes itself, so that the harness finds one greedy answer."""
    context, _ = CONTINUATIONS[-1]
    body = dict(prompt=context, max_tokens=4, temperature=0, return_token_ids=True)
    (choice,) = server.post("/v1/completions", body, headers={"X-Api-Key": KEY}).json()["choices"]
    CONTINUATIONS[-1] = (context, choice["text"])
    assert split(server, *CONTINUATIONS[-1]) == (choice["prompt_token_ids"], choice["token_ids"])


def write_tasks(folder):
    documents = {
        "likelihood": [dict(context=c, target=t) for c, t in CONTINUATIONS],
        "choice": [dict(context=c, choices=o, label=i) for c, o, i in CHOICES],
        "rolling": [dict(text=t) for t in TEXTS],
    }
    for name, task in TASKS.items():
        data = os.path.join(folder, name + ".jsonl")
        with open(data, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in documents[name])
        task = dict(task, task="local_" + name, dataset_path="json", test_split="test", metadata={"version": 1})
        task["dataset_kwargs"] = {"data_files": {"test": data}}
        with open(os.path.join(folder, name + ".yaml"), "w", encoding="utf-8") as file:
            json.dump(task, file)  # JSON is YAML


def evaluate(server, folder, batch):
    """-> {task: {metric: value}}"""
    out = os.path.join(folder, "out-%d" % batch)
    arguments = ["model=austen", "base_url=http://127.0.0.1:%d/v1/completions" % server.port, "num_concurrent=1",
                 "max_retries=1", "tokenizer_backend=remote", "max_length=1024", "auth_token=" + KEY]  # fmt: skip
    environment = dict(os.environ, HF_HOME=folder, HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", OPENAI_API_KEY=KEY, DO_NOT_TRACK="1")
    done = run(PYTHON, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", ",".join(arguments), "--tasks",
               ",".join("local_" + name for name in TASKS), "--include_path", folder, "--batch_size", str(batch),
               "--output_path", out, seconds=300, env=environment)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (path,) = glob.glob(os.path.join(out, "**", "results*.json"), recursive=True)
    with open(path) as file:
        found = json.load(file)["results"]
    print("      %s" % {name: {k: v for k, v in values.items() if isinstance(v, float)} for name, values in found.items()})
    return {name: {key.split(",")[0]: value for key, value in found["local_" + name].items()} for name in TASKS}


def ids_of(server, text):
    value = {"prompt": text, "add_special_tokens": False}
    return server.post("/tokenize", value, headers={"X-Api-Key": KEY}).json()["tokens"]


def logprob(server, context, continuation):
    """Of the continuation's tokens, by /v1/score."""
    reply = server.post("/v1/score", {"input": [context + continuation]}, headers={"X-Api-Key": KEY})
    assert reply.status == 200, reply
    return sum(reply.json()["data"][0]["token_logprobs"][len(context):])


def split(server, context, continuation):
    """As the harness splits a pair: blanks at the context's end belong to the continuation."""
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    whole, first = ids_of(server, context + continuation), ids_of(server, context)
    return first, whole[len(first):]


def expected(server):
    likelihood = [logprob(server, *split(server, c, t)) for c, t in CONTINUATIONS]
    right = 0
    for context, options, label in CHOICES:
        values = [logprob(server, *split(server, context, " " + option)) for option in options]
        right += values.index(max(values)) == label
    (prefix,) = ids_of(server, END_OF_TEXT)
    rolling = [logprob(server, [prefix], ids_of(server, text)) for text in TEXTS]
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    return {
        # one of them is greedy
        "likelihood": {"perplexity": math.exp(-sum(likelihood) / len(likelihood)), "acc": 1 / len(likelihood)},
        "choice": {"acc": right / len(CHOICES)},
        "rolling": {"bits_per_byte": -sum(rolling) / n_bytes / math.log(2), "byte_perplexity": math.exp(-sum(rolling) / n_bytes)},
    }


def main():
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        keys = os.path.join(folder, "keys")
        with open(keys, "w") as file:
            file.write(KEY + "\n")
        with harness.Server("--api-key-file", keys) as server:
            set_greedy(server)
            write_tasks(folder)
            wanted = expected(server)
            for batch in (1, 4):
                found = evaluate(server, folder, batch)
                for task, metrics in wanted.items():
                    for metric, value in metrics.items():
                        assert math.isclose(found[task][metric], value, rel_tol=1e-9), (batch, task, metric, found[task], value)
                print("ok    batches of %d: %s" % (batch, wanted))


main()
