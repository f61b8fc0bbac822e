"""schemathesis makes thousands of requests, valid and not, out of /openapi.json: the server's replies keep to the document,
what breaks a schema is refused, keys are asked for, and nothing is a 500. In a virtual environment below the build folder;
where pip can't reach the package the test is skipped (77).

Not asked: that everything a schema allows is accepted (positive_data_acceptance). Schemas can't say that prompt and answer
fit the context, that stream_options needs stream, or what bytes are a safetensors file. Nor that Allow names no method that is
a 404 (allow_header_conformance): one GET route takes all that lies below a capture."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

FOLDER = os.path.join(harness.BUILD, "venv-schemathesis")
PROGRAM = os.path.join(FOLDER, "bin", "schemathesis")
KEY = "sk-of-the-schemas"


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def run(*command, seconds=240, **more):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, **more)
    except subprocess.TimeoutExpired:
        skip("%s took longer than %d s" % (" ".join(command[:4]), seconds))


def prepare():
    if os.path.exists(PROGRAM) and run(PROGRAM, "--version").returncode == 0:
        return
    made = run(sys.executable, "-m", "venv", FOLDER)
    if made.returncode:
        skip("no virtual environment: %s" % (made.stdout + made.stderr)[-300:])
    python = os.path.join(FOLDER, "bin", "python")
    got = run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10",
              "schemathesis>=4,<5")  # fmt: skip
    if got.returncode:
        skip("pip can't install schemathesis: %s" % got.stderr[-300:])


prepare()
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "keys"), "w") as file:
        file.write(KEY + "\n")
    options = ("--chat-template", "plain", "--max-output-tokens", "32", "--api-key-file", os.path.join(folder, "keys"))
    with harness.Server(*options) as server:
        done = run(PROGRAM, "run", "http://127.0.0.1:%d/openapi.json" % server.port, "-H", "Authorization: Bearer " + KEY, "--phases",
                   "coverage,fuzzing", "--max-examples", "20", "--seed", "20", "--warnings", "off", "--request-timeout", "90", "--no-color", "--exclude-checks",
                   "positive_data_acceptance,allow_header_conformance", cwd=folder, seconds=500)  # fmt: skip
        output = done.stdout + done.stderr
        print(output[-600:] if done.returncode == 0 else output[-8000:])
        assert done.returncode == 0, "schemathesis found something"
