"""`sparsed generate`: the sampling options do what the API's fields do, --chat on a terminal keeps history, Ctrl-C stops an
answer and not the program, refusals name the option."""
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

PROGRAM = os.path.join(harness.BUILD, "sparsed")
PROMPT = "It is a truth universally acknowledged"


def generate(*options, text=None):
    return subprocess.run([PROGRAM, "generate", "--model", harness.MODEL, *[str(o) for o in options]], input=text,
                          capture_output=True, text=True, timeout=600)


def test_options_are_the_fields(server):
    base = {"max_tokens": 24, "seed": 5}
    for fields in ({"min_p": 0.3}, {"presence_penalty": 1.5}, {"frequency_penalty": -1}, {"repetition_penalty": 1.4},
                   {"logit_bias": {"300": 50, "301": 50}}, {"stop": "e"}, {"stop_token_ids": [13, 14, 260]},
                   {"min_tokens": 20, "ignore_eos": True}, {"temperature": 0.5, "top_k": 9, "top_p": 0.8}):
        wanted = server.complete(prompt=PROMPT, **dict(base, **fields)).json()["choices"][0]["text"]
        options = []
        for name, value in dict(base, **fields).items():
            if isinstance(value, dict):
                value = ",".join("%s=%s" % item for item in value.items())
            if isinstance(value, list):
                value = ",".join(map(str, value))
            options += ["--" + name.replace("_", "-")] + ([] if value is True else [value])
        got = generate("--prompt", PROMPT, *options)
        assert got.returncode == 0 and got.stdout == wanted + "\n", (fields, got, wanted)


def test_chat_once_and_from_a_pipe(server):
    with harness.Server("--chat-template", "plain") as plain:
        def wanted(messages):
            reply = plain.post("/v1/chat/completions", {"messages": messages, "max_tokens": 12, "temperature": 0})
            return reply.json()["choices"][0]["message"]["content"]

        options = ("--chat", "--chat-template", "plain", "--max-tokens", 12, "--temperature", 0)
        user = {"role": "user", "content": "Who is Emma?"}
        first = wanted([user])
        assert generate("--prompt", "Who is Emma?", *options).stdout == first + "\n"
        system = {"role": "system", "content": "Be brief."}
        assert generate("--prompt", "Who is Emma?", "--system", "Be brief.", *options).stdout == wanted([system, user]) + "\n"
        second = wanted([user, {"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}])
        got = generate(*options, text="Who is Emma?\n\nWhy?\n")
        assert got.returncode == 0 and got.stdout == first + "\n" + second + "\n", got


def test_lengths_nobody_asked_for(server):
    """128 tokens of a text; of a chat what the context has left, as /v1/chat/completions."""
    more = ("--temperature", 0, "--ignore-eos", "--ctx", 300)
    value = json.loads(generate("--prompt", "Emma", "--json", *more).stdout)
    assert value["usage"]["completion_tokens"] == 128, value["usage"]
    with harness.Server("--chat-template", "plain", "--ctx", "300") as plain:
        fields = {"messages": [{"role": "user", "content": "Who is Emma?"}], "temperature": 0, "ignore_eos": True}
        wanted = plain.post("/v1/chat/completions", fields).json()
        assert wanted["usage"]["total_tokens"] == 300, wanted["usage"]
        got = generate("--chat", "--chat-template", "plain", "--prompt", "Who is Emma?", *more)
        assert got.stdout == wanted["choices"][0]["message"]["content"] + "\n", got


class Terminal:
    def __init__(self, *options):
        self.process, self.fd = pty.fork()
        if self.process == 0:
            os.environ["SPARSED_CPU"] = "reference"  # slow enough to be stopped
            os.execv(PROGRAM, [PROGRAM, "generate", "--model", harness.MODEL, *[str(o) for o in options]])

    def until(self, mark, seconds=240):
        got, deadline = b"", time.time() + seconds
        while mark not in got:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.time()))
            assert ready, got
            try:
                got += os.read(self.fd, 4096)
            except OSError:
                raise AssertionError("it ended: %r" % got)
        return got

    def end(self):
        os.write(self.fd, b"\x04")
        deadline = time.time() + 120
        while time.time() < deadline:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            ready, _, _ = select.select([self.fd], [], [], 0.05)
            try:
                if ready:
                    os.read(self.fd, 4096)
            except OSError:
                pass
        os.kill(self.process, signal.SIGKILL)
        raise AssertionError("it does not end")


def test_terminal(server):
    talk = Terminal("--chat", "--chat-template", "plain", "--max-tokens", 1900, "--ignore-eos", "--temperature", 0,
                    "--logit-bias", "300=100")
    talk.until(b"> ")
    os.write(talk.fd, b"\x03")  # between answers: a new line, no end
    talk.until(b"> ")
    os.write(talk.fd, b"Go on.\n")
    talk.until(b"Go on.")
    talk.until(b"omom")
    os.write(talk.fd, b"\x03")
    got = talk.until(b"> ")
    assert b"stopped" in got, got
    os.write(talk.fd, b"Again.\n")
    talk.until(b"Again.")
    talk.until(b"omom")
    os.write(talk.fd, b"\x03")
    assert b"stopped" in talk.until(b"> ")
    assert talk.end() == 0


def test_refusals(server):
    for options, name in ((("--prompt", "a", "--logit-bias", "x"), "--logit-bias"), (("--prompt", "a", "--logit-bias", "1=101"), "--logit-bias"),
                          (("--prompt", "a", "--stop-token-ids", "1,,2"), "--stop-token-ids"), (("--prompt", "a", "--min-p", "2"), "--min-p"),
                          (("--prompt", "a", "--repetition-penalty", "0"), "--repetition-penalty"), (("--prompt", "a", "--system", "s"), "--system"),
                          (("--chat", "--json", "--prompt", "a"), "--json"), (("--chat", "--chat-template", "x", "--prompt", "a"), "x")):
        got = generate(*options)
        assert got.returncode == 64 and name in got.stderr, (options, got)
    got = generate("--chat", "--prompt", "a")
    assert got.returncode != 0 and "chat template" in got.stderr, got
    got = generate("--prompt", "a", "--max-tokens", 2, "--logit-bias", "5000=1")
    assert got.returncode != 0 and "logit_bias" in got.stderr, got


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
