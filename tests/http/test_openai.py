"""The openai package and LangChain drive the server, in a virtual environment below the build folder. Where pip can't reach
them the test is skipped (77). What they check is in openai_client.py."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

FOLDER = os.path.join(harness.BUILD, "venv-openai")
PYTHON = os.path.join(FOLDER, "bin", "python")


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def run(*command, seconds=240):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        skip("%s took too long" % " ".join(command[:4]))


def prepare():
    if os.path.exists(PYTHON) and run(PYTHON, "-c", "import openai").returncode == 0:
        return
    made = run(sys.executable, "-m", "venv", FOLDER)
    if made.returncode:
        skip("no virtual environment: %s" % (made.stdout + made.stderr)[-300:])
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10")
    got = run(*pip, "openai")
    if got.returncode:
        skip("pip can't reach the package openai: %s" % got.stderr[-300:])
    run(*pip, "langchain-openai")  # without it that part is left out


KEY = "sk-of-the-openai-test"

prepare()
with tempfile.NamedTemporaryFile("w", prefix="sparsed-keys-") as keys:
    keys.write(KEY + "\n")
    keys.flush()
    with harness.Server("--chat-template", "plain", "--api-key-file", keys.name) as server:
        url = "http://127.0.0.1:%d" % server.port
        done = run(PYTHON, os.path.join(sys.argv[1], "tests", "http", "openai_client.py"), url, KEY)
        print(done.stdout + done.stderr)
        assert done.returncode == 0, "openai_client.py failed"
