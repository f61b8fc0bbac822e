"""Every allocation of every scenario fails once: no crash, no leak, no hang, no wrong answer, and the next request gets its
bytes.

The program runs with checks/torture_shim.c preloaded, which counts the allocations of the whole process (libmicrohttpd,
cJSON, libpng and libc too) while a request is under way, and fails number i of them, once. For i = 1 to K, K as many as
the scenario makes: the answer must be the usual one (the failure was absorbed), 503 or 500 in its envelope, a page of the
library's own, or a connection that is closed before its answer is whole; in a stream an error frame. Then a valid request must
get the bytes of its baseline, and the number of blocks that are not freed must come back: what stays more at each of three
further trials of the same i is a leak. Under a build with AddressSanitizer its checks hold as well, and so does its search
for leaks at the end.

Whole processes (serve's start, fit, generate, graph, inspect, tokenize, score) must do their work, or end with 69 to 77 and a message.
"""
import mmap
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import check
import harness
import torture_scenes
from hostile_replies import stripped_text

SPARSED = os.path.join(harness.BUILD, "sparsed")
SHIM = os.path.join(harness.BUILD, "tests", "torture_shim.so")
FRAMES = 14
EXPIRY = 5.0  # of captures, in seconds
COUNT, FAIL_AT, FIRED, LIVE, ARMED, FRAME, BASE = 0, 8, 16, 24, 32, 40, 40 + 8 * FRAMES
VARIES = {"metrics", "limits", "requests", "picture png", "picture overview", "heads", "capture state", "export npz"}
SANITIZED = "verify_asan_link_order=0:allocator_may_return_null=1:detect_leaks=1:exitcode=99"


def difference(a, b):
    """Where two replies part."""
    a, b = stripped_text(a), stripped_text(b)
    at = next((i for i in range(min(len(a), len(b))) if a[i] != b[i]), min(len(a), len(b)))
    return "%d and %d long, at %d %r, not %r" % (len(a), len(b), at, a[max(0, at - 40):at + 60], b[max(0, at - 40):at + 60])


class Tap:
    """The file that is shared with the shim."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "control")
        with open(self.path, "wb") as file:
            file.write(bytes(4096))
        with open(self.path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4096)
        known = os.path.join(folder, "lsan.supp")
        with open(known, "w", encoding="utf-8") as file:
            file.write("leak:dl_open_worker_begin\n")  # the loader's own, of the library that unwinds for the shim
        self.environment = {"LSAN_OPTIONS": "suppressions=%s:print_suppressions=0" % known, "LD_PRELOAD": SHIM, "SPARSED_TORTURE": self.path,
                            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":" + SANITIZED}  # fmt: skip

    def get(self, place):
        return struct.unpack_from("<Q", self.map, place)[0]

    def put(self, place, value):
        struct.pack_into("<Q", self.map, place, value)

    def arm(self, fail_at):
        self.put(ARMED, 0)
        self.put(COUNT, 0)
        self.put(FIRED, 0)
        self.put(FAIL_AT, fail_at)
        self.put(ARMED, 1)

    def disarm(self):
        """-> allocations since arm()"""
        self.put(ARMED, 0)
        return self.get(COUNT)

    def where(self):
        """Names of the functions around the call that failed."""
        base = self.get(BASE)
        places = ["%x" % (self.get(FRAME + 8 * i) - base - 1) for i in range(2, FRAMES) if self.get(FRAME + 8 * i) > base]
        out = subprocess.run(["addr2line", "-f", "-e", SPARSED] + places, capture_output=True, text=True).stdout.split("\n")
        return " < ".join(name for name in out[::2] if name and name != "??")


class Torture:
    def __init__(self, run, folder):
        self.run, self.folder, self.tap = run, folder, Tap(folder)
        self.model, self.adapter, self.text, self.short = torture_scenes.write_model(folder)
        self.trials = self.allocations = self.failed = 0
        self.failure, self.server = None, None

    def fail(self, scene, number, what):
        self.failed += 1
        text = "%s, allocation %d in %s: %s" % (scene, number, self.tap.where() or "a library", what)
        self.failure = self.failure or text[:600]
        print("torture: " + text[:1200], flush=True)

    def numbers(self, count):
        """Which allocations fail: all, or under --quick a sample with the first and the last."""
        most = self.run.count
        if not most or count <= most:
            return range(1, count + 1)
        step = count / most
        return sorted({1, count} | {1 + int(i * step) for i in range(most)})

    # --- requests ---
    def start(self):
        self.server = harness.Server("--adapter", "one=" + self.adapter, "--threads", "2", "--kv-bytes", "4M", "--chat-template", "plain",
                                     "--capture-bytes", "16M", "--attn-scratch", "8M", "--capture-expiry", EXPIRY, environment=self.tap.environment, model=self.model)  # fmt: skip

    def valid(self):
        reply = self.server.complete(prompt=torture_scenes.PROMPT, max_tokens=4, temperature=0, logprobs=3, timeout=60.0)
        assert reply.status == 200, reply
        return stripped_text(reply.body)

    def settle(self, wanted, seconds):
        """Blocks alive once nothing happens any more, at most `wanted` where that comes in time."""
        end, live = time.time() + seconds, self.tap.get(LIVE)
        while live > wanted and time.time() < end:
            time.sleep(0.002)
            live = self.tap.get(LIVE)
        return live

    def trial(self, scene, number):
        """One run of the scene with one failure. -> (outcome, allocations it made)"""
        state = scene.prepare(self.server)
        self.tap.arm(number)
        try:
            outcome = scene.run(self.server, state)
        except (AssertionError, OSError, ValueError) as error:
            outcome = error
        made = self.tap.disarm()
        try:
            scene.tidy(self.server, state)
        except OSError as error:
            outcome = error
        return outcome, made

    def judge(self, scene, outcome, usual):
        """None, or what is wrong with the answer."""
        if isinstance(outcome, AssertionError):  # no reply: closed is right, silence is not
            text = str(outcome)
            return None if text.startswith("([], True)") or text.startswith("([0 ") else "no answer: " + text[:200]
        if isinstance(outcome, Exception):
            return None if isinstance(outcome, (ConnectionError, BrokenPipeError)) else "no answer: %r" % outcome
        for reply, wanted in zip(outcome, usual):
            if not reply.whole:
                continue
            if reply.status == wanted.status:
                same = scene.name in VARIES or stripped_text(reply.body) == stripped_text(wanted.body)
                if not same and not re.search(rb'"error": ?\{', reply.body):
                    return "another answer: " + difference(reply.body, wanted.body)
            elif reply.status not in (500, 503) and not (reply.status in (413, 431) and b"<html>" in reply.body):
                return "status %d: %r" % (reply.status, reply.body[:200])
            elif reply.body and b"<html>" not in reply.body and reply.json()["error"]["code"] != reply.status:
                return "envelope %r" % reply.body[:200]
        return None

    def leak(self, scene, number, before):
        """Whether more blocks stay at each further trial of the same failure."""
        for _ in range(3):
            self.trial(scene, number)
            self.valid()
            now = self.settle(before, 1.0)
            if now > before:  # a capture whose name was lost with its answer goes when it expires
                time.sleep(EXPIRY + 0.1)
                self.server.get("/v1/limits")
                now = self.settle(before, 0.2)
            if now <= before:
                return 0
            grown, before = now - before, now
        return grown

    def ended(self):
        """Whether the server is gone; it may take a moment to be."""
        try:
            self.server.process.wait(0.5)
            return True
        except subprocess.TimeoutExpired:
            return False

    def usual(self, scene):
        """What the scene gives undisturbed, the valid request beside it, blocks that stay, allocations."""
        for _ in range(scene.warm):  # what is made once is made
            replies, made = self.trial(scene, 0)
            assert isinstance(replies, list), "%s: %r" % (scene.name, replies)
            baseline = self.valid()
        return replies, baseline, self.settle(0, 0.05), made

    def scene(self, scene):
        usual, baseline, before, count = self.usual(scene)
        for number in self.numbers(count):
            try:
                outcome, _ = self.trial(scene, number)
                if not self.tap.get(FIRED):
                    continue
                self.trials += 1
                wrong = self.judge(scene, outcome, usual)
                wrong = wrong or (None if self.valid() == baseline else "the next request has other bytes")
                live = self.settle(before, 0.3)
                if live > before and not wrong:
                    grown = self.leak(scene, number, live)
                    wrong = "%d blocks leak" % grown if grown else None
                    before = max(before, self.settle(before, 0.1))
            except (AssertionError, OSError) as error:
                wrong = "the next request fails: %s" % str(error)[:200]
            if wrong and self.ended():
                wrong = "the server ends with %d: %s" % (self.server.process.returncode, "\n".join(self.server.log[-40:]))
                self.fail(scene.name, number, wrong)
                self.start()
                _, baseline, before, _ = self.usual(scene)
            elif wrong:
                self.fail(scene.name, number, wrong)
            self.run.progress(number, count, scene.name)
        self.allocations += count
        return count

    # --- whole processes ---
    def command(self, number, arguments, given):
        """-> (code, standard output, standard error)"""
        self.tap.arm(number)
        done = subprocess.run([SPARSED] + arguments, env=dict(os.environ, **self.tap.environment), input=given, capture_output=True, timeout=600)
        self.tap.disarm()
        return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")

    def commands(self, name, arguments, output=None, given=None):
        def once(number):
            if output and os.path.exists(output):
                os.remove(output)
            code, out, err = self.command(number, arguments, given)
            made = b""
            if output and os.path.exists(output):
                with open(output, "rb") as file:
                    made = file.read()
            return code, out + made, err

        code, usual, err = once(0)
        assert code == 0, (name, code, err)
        count = self.tap.get(COUNT)
        for number in self.numbers(count):
            code, out, err = once(number)
            if not self.tap.get(FIRED):
                continue
            self.trials += 1
            if code == 0 and stripped_text(out) != stripped_text(usual):
                self.fail(name, number, "ends with 0 and another result: " + difference(out, usual))
            elif code != 0 and (not 69 <= code <= 77 or not err.strip()):
                self.fail(name, number, "ends with %d: %s" % (code, err[-1500:]))
            self.run.progress(number, count, name)
        self.allocations += count

    def serve_start(self):
        def once(number):
            self.tap.arm(number)
            try:
                with harness.Server("--adapter", "one=" + self.adapter, "--kv-bytes", "1M", environment=self.tap.environment, model=self.model) as server:
                    count = self.tap.disarm()
                    reply = server.complete(prompt=torture_scenes.PROMPT, max_tokens=4, temperature=0)
                    assert reply.status == 200, reply
                    return count, stripped_text(reply.body), None
            except AssertionError as error:
                return 0, None, str(error)

        count, usual, error = once(0)
        assert not error, error
        for number in self.numbers(count):
            _, text, error = once(number)
            fired = self.tap.get(FIRED)
            self.tap.disarm()
            if not fired:
                continue
            self.trials += 1
            if text not in (None, usual):
                self.fail("start", number, "other bytes: %s" % text[:200])
            if text is None and not re.match(r"no server, exit code (69|7[0-7]):", error):
                self.fail("start", number, error[-1500:])
            self.run.progress(number, count, "start")
        self.allocations += count

    def all(self):
        fit = os.path.join(self.model, "sparsefinder.safetensors")
        out = os.path.join(self.folder, "out")
        base = ["--model", self.model, "--threads", "2"]
        self.commands("fit", ["fit"] + base + ["--text", self.text, "--tokens", "256", "--length", "64", "--steps", "2", "--rank", "4",
                                               "--clusters", "2", "--json", "--out", fit], fit)  # fmt: skip
        self.serve_start()
        self.commands("generate", ["generate"] + base + ["--temperature", "0", "--max-tokens", "4", "--prompt", torture_scenes.PROMPT])
        self.commands("inspect", ["inspect"] + base[:2])
        self.commands("tokenize", ["tokenize"] + base[:2], given=b'["the other", "a"]')
        self.commands("score", ["score"] + base + ["--text", self.text, "--length", "64", "--json"])
        self.commands("graph", ["graph"] + base + ["--text", self.short, "--layer", "1", "--head", "1", "--format", "svg", "--out", out], out)
        scenes = 7
        self.start()
        for scene in torture_scenes.scenes():
            self.scene(scene)
            scenes += 1
        self.server.__exit__(None, None, None)  # code 0: nothing crashed, no sanitizer has a leak to tell
        return scenes


def main():
    run = check.Check("torture", full=0, quick=4)
    if not os.path.exists(SHIM):
        print("no %s: build the target torture_shim" % SHIM)
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        torture, scenes = Torture(run, folder), 0
        try:
            scenes = torture.all()
        except (AssertionError, OSError) as error:
            torture.failed += 1
            print("torture: %s" % error, flush=True)
            torture.failure = torture.failure or str(error)[-800:]
        finally:
            if torture.server and torture.server.process.poll() is None:
                torture.server.process.kill()
    counts = "%d scenarios, %d allocations, %d failed one by one, %d failures" % (scenes, torture.allocations, torture.trials, torture.failed)
    if torture.trials <= scenes:  # each makes several allocations
        torture.failure = torture.failure or "the shim fails nothing, or next to nothing"
    run.verdict(torture.failed == 0 and scenes >= 20 and torture.trials > scenes, counts, torture.failure)


if __name__ == "__main__":
    main()
