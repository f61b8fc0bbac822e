"""Every allocation of every scenario fails once: no crash, no leak, no hang, no wrong answer, and the next request gets its
bytes.

The program runs with checks/torture_shim.c preloaded, which counts the allocations of the whole process (libmicrohttpd,
cJSON, libpng and libc too) while a request is under way, and fails number i of them, once. For i = 1 to K, K as many as
the scenario makes: the answer must be the usual one (the failure was absorbed), 503 or 500 in its envelope, a page of the
library's own, or a connection that is closed before its answer is whole; in a stream an error frame. Then a valid request must
get the bytes of its baseline, and the number of blocks that are not freed must come back: what stays more at each of three
further trials of the same i is a leak. Under a build with AddressSanitizer its checks hold as well, and so does its search
for leaks at the end.

Whole processes (commands, a server's start and its end) must do their work, or end with 69 to 77 and a message, and leave no file
that they don't leave otherwise. Two workers share the scenarios, each with servers and a tap of its own.
"""
import collections
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import check
import harness
import torture_commands
import torture_scenes
from hostile_replies import stripped_text

SPARSED = os.path.join(harness.BUILD, "sparsed")
SHIM = os.path.join(harness.BUILD, "tests", "torture_shim.so")
FRAMES = 14
EXPIRY = 2.0  # of captures, in seconds
COUNT, FAIL_AT, FIRED, LIVE, ARMED, FRAME, BASE = 0, 8, 16, 24, 32, 40, 40 + 8 * FRAMES
FAILED = re.compile(rb'"error": ?\{|"state": ?"failed"')
CUT = re.compile(r"\(\[(0 .*|503 b'', 0 .*)?\], True\)|\(\[0 ")  # no reply: closed, before its end, or before a HEAD was read
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

    def wait(self):
        """Until nothing was allocated for a while."""
        end, count, since = time.time() + 20, self.get(COUNT), time.time()
        while time.time() < min(end, since + 0.06):
            time.sleep(0.002)
            if self.get(COUNT) != count:
                count, since = self.get(COUNT), time.time()

    def where(self):
        """Names of the functions around the call that failed."""
        base = self.get(BASE)
        places = ["%x" % (self.get(FRAME + 8 * i) - base - 1) for i in range(2, FRAMES) if self.get(FRAME + 8 * i) > base]
        out = subprocess.run(["addr2line", "-f", "-e", SPARSED] + places, capture_output=True, text=True).stdout.split("\n")
        return " < ".join(name for name in out[::2] if name and name != "??")


class Worker:
    """Does scenes one after the other, with a tap, a folder and servers of its own."""

    def __init__(self, run, place, folder):
        os.mkdir(folder)
        self.run, self.place, self.folder, self.tap = run, place, folder, Tap(folder)
        self.scenes = self.trials = self.allocations = self.failed = 0
        self.failure, self.servers = None, {}

    def fail(self, scene, number, what):
        self.failed += 1
        text = "%s, allocation %d in %s: %s" % (scene, number, self.tap.where() or "a library", what)
        self.failure = self.failure or text[:600]
        print("torture: " + text[:1200], flush=True)

    def numbers(self, count, most):
        """Which allocations fail: all, or of so many a sample with the first and the last."""
        if not most or count <= most:
            return range(1, count + 1)
        step = count / most
        return sorted({1, count} | {1 + int(i * step) for i in range(most)})

    def work(self, jobs):
        """Takes jobs until there are none."""
        while jobs:
            name, job = jobs.pop(0)
            self.scenes += 1
            try:
                job(self)
            except Exception as error:  # whatever it is, it is no pass
                self.fail(name, 0, "%s: %s" % (type(error).__name__, str(error)[-800:]))

    def close(self):
        """Code 0: nothing crashed, no sanitizer has a leak to tell."""
        for kind, server in self.servers.items():
            try:
                server.__exit__(None, None, None)
            except AssertionError as error:
                self.fail("the end of the %s server" % kind, 0, str(error)[-800:])

    # --- requests ---
    def open_server(self, kind, *more):
        if kind == "keyed":
            return torture_scenes.KeyedServer("--config", self.place.config, *more, environment=self.tap.environment, model=self.place.model)
        return harness.Server("--adapter", "one=" + self.place.adapter, "--threads", "2", "--kv-bytes", "4M", "--chat-template", "plain",
                              "--capture-bytes", "16M", "--attn-scratch", "8M", "--capture-expiry", EXPIRY, *more,
                              environment=self.tap.environment, model=self.place.model)  # fmt: skip

    def valid(self, server):
        reply = server.post("/v1/completions", {"prompt": torture_scenes.PROMPT, "max_tokens": 4, "temperature": 0, "logprobs": 3}, timeout=60.0)
        assert reply.status == 200, reply
        return stripped_text(reply.body)

    def settle(self, wanted, seconds):
        """Blocks alive once nothing happens any more, at most `wanted` where that comes in time."""
        end, live = time.time() + seconds, self.tap.get(LIVE)
        while live > wanted and time.time() < end:
            time.sleep(0.002)
            live = self.tap.get(LIVE)
        return live

    def trial(self, server, scene, number):
        """One run of the scene with one failure. -> (outcome, allocations it made)"""
        state = scene.prepare(server)
        self.tap.arm(number)
        try:
            outcome = scene.run(server, state)
        except (AssertionError, OSError, ValueError) as error:
            outcome = error
        if scene.rest:
            self.tap.wait()
        made = self.tap.disarm()
        try:
            scene.tidy(server, state)
        except OSError as error:
            outcome = error
        return outcome, made

    def same(self, scene, body, usual):
        try:
            return scene.essence(body) == scene.essence(usual)
        except (AssertionError, ValueError, KeyError, IndexError):
            return False

    def judge(self, scene, outcome, usual):
        """None, or what is wrong with the answer."""
        if isinstance(outcome, AssertionError):  # no reply: closed is right, silence is not
            text = str(outcome)
            return None if CUT.match(text) else "no answer: " + text[:200]
        if isinstance(outcome, Exception):
            return None if isinstance(outcome, (ConnectionError, BrokenPipeError)) else "no answer: %r" % outcome
        for reply, wanted in zip(outcome, usual):
            if isinstance(reply, Exception):
                wrong = self.judge(scene, reply, usual)
                if wrong:
                    return wrong
                continue
            if not reply.whole:
                continue
            if reply.status == wanted.status:
                if not self.same(scene, reply.body, wanted.body) and not FAILED.search(reply.body):
                    return "another answer: " + difference(reply.body, wanted.body)
            elif reply.status not in (500, 503) + scene.also and not (reply.status in (413, 431) and b"<html>" in reply.body):
                return "status %d: %r" % (reply.status, reply.body[:200])
            elif reply.body and b"<html>" not in reply.body and reply.json()["error"]["code"] != reply.status:
                return "envelope %r" % reply.body[:200]
            elif reply.headers.keys() & {"location", "etag", "x-scale"}:
                return "status %d has headers of the answer that failed: %s" % (reply.status, reply.headers)
        return None

    def leak(self, server, scene, number, before):
        """Whether more blocks stay at each further trial of the same failure."""
        for _ in range(3):
            self.trial(server, scene, number)
            self.valid(server)
            now = self.settle(before, 1.0)
            if now > before:  # a capture whose name was lost with its answer goes when it expires
                time.sleep(EXPIRY + 0.1)
                server.get("/v1/limits")
                now = self.settle(before, 0.2)
            if now <= before:
                return 0
            grown, before = now - before, now
        return grown

    def ended(self, server):
        """Whether the server is gone; it may take a moment to be."""
        try:
            server.process.wait(0.5)
            return True
        except subprocess.TimeoutExpired:
            return False

    def usual(self, server, scene):
        """What the scene gives undisturbed, the valid request beside it, blocks that stay, allocations."""
        for _ in range(scene.warm):  # what is made once is made
            replies, made = self.trial(server, scene, 0)
            assert isinstance(replies, list), "%s: %r" % (scene.name, replies)
            baseline = self.valid(server)
        return replies, baseline, self.settle(0, 0.05), made

    def scene(self, kind, scene):
        if kind not in self.servers:
            self.servers[kind] = self.open_server(kind)
        server = self.servers[kind]
        usual, baseline, before, count = self.usual(server, scene)
        for number in self.numbers(count, self.run.count):
            try:
                outcome, _ = self.trial(server, scene, number)
                if not self.tap.get(FIRED):
                    continue
                self.trials += 1
                wrong = self.judge(scene, outcome, usual)
                wrong = wrong or (None if self.valid(server) == baseline else "the next request has other bytes")
                live = self.settle(before, 0.3)
                if live > before and not wrong:
                    grown = self.leak(server, scene, number, live)
                    wrong = "%d blocks leak" % grown if grown else None
                    before = max(before, self.settle(before, 0.1))
            except (AssertionError, OSError) as error:
                wrong = "the next request fails: %s" % str(error)[:200]
            if wrong and self.ended(server):
                wrong = "the server ends with %d: %s" % (server.process.returncode, "\n".join(server.log[-40:]))
                self.fail(scene.name, number, wrong)
                server = self.servers[kind] = self.open_server(kind)
                _, baseline, before, _ = self.usual(server, scene)
            elif wrong:
                self.fail(scene.name, number, wrong)
            self.run.progress(number, count, scene.name)
        self.allocations += count

    # --- whole processes ---
    def launch(self, command, out):
        arguments = [argument.replace(torture_commands.OUT, out) for argument in command.arguments]
        return subprocess.run([SPARSED] + arguments, env=dict(os.environ, **self.tap.environment), input=command.given, capture_output=True,
                              timeout=600)  # fmt: skip

    def command(self, command):
        out = os.path.join(self.folder, "out")

        def once(number):
            shutil.rmtree(out, ignore_errors=True)
            os.mkdir(out)
            self.tap.arm(number)
            done = self.launch(command, out)
            self.tap.disarm()
            return done.returncode, dict(torture_commands.read(out), **{"": done.stdout}), done.stderr.decode("utf-8", "replace")

        code, usual, err = once(0)
        assert code == 0, (command.name, code, err)
        count, wanted = self.tap.get(COUNT), command.essence(usual)
        for number in self.numbers(count, self.run.quick and 1 or self.run.count):
            code, files, err = once(number)
            if not self.tap.get(FIRED):
                continue
            self.trials += 1
            if code == 0 and command.essence(files) != wanted:
                where = next((name for name in usual if files.get(name) != usual[name]), "")
                self.fail(command.name, number, "ends with 0 and another result: %s %s" % (where, difference(files.get(where, b""), usual[where])))
            elif code != 0 and (not 69 <= code <= 77 or not err.strip()):
                self.fail(command.name, number, "ends with %d: %s" % (code, err[-1500:]))
            elif code != 0 and set(files) - set(usual) - {torture_commands.STATE}:
                self.fail(command.name, number, "leaves %s" % sorted(files))
            elif torture_commands.STATE in files and not self.goes_on(command, out, wanted):
                self.fail(command.name, number, "goes on from its state to another result")
            self.run.progress(number, count, command.name)
        self.allocations += count

    def goes_on(self, command, out, wanted):
        """Whether the same command makes what it should of the state that it left."""
        done = self.launch(command, out)
        files = torture_commands.read(out)
        return done.returncode == 0 and {name: text for name, text in command.essence(files).items() if name} == {
            name: text for name, text in wanted.items() if name}  # fmt: skip

    def start(self, name, kind):
        """A server's start: it serves the usual bytes, or ends with a message."""

        def once(number):
            self.tap.arm(number)
            try:
                with self.open_server(kind) as server:
                    count = self.tap.disarm()
                    return count, self.valid(server), None
            except AssertionError as error:
                return 0, None, str(error)

        count, usual, error = once(0)
        assert not error, error
        for number in self.numbers(count, self.run.quick and 1 or self.run.count):
            _, text, error = once(number)
            fired = self.tap.get(FIRED)
            self.tap.disarm()
            if not fired:
                continue
            self.trials += 1
            if text not in (None, usual):
                self.fail(name, number, "other bytes: %s" % text[:200])
            if text is None and not re.match(r"no server, exit code (69|7[0-7]):", error):
                self.fail(name, number, error[-1500:])
            self.run.progress(number, count, name)
        self.allocations += count

    def stop(self, name):
        """SIGTERM while a stream runs: it ends as it would have, or is cut, and the server ends with 0."""

        def once(number):
            server = self.open_server("plain", "--drain-delay", "0")
            try:
                link = server.open_stream(prompt=torture_scenes.PROMPT, max_tokens=400, temperature=0, ignore_eos=True)
                got = harness.read_some(link, 600)
                self.tap.arm(number)
                server.process.send_signal(signal.SIGTERM)
                try:
                    got += harness.read_all(link, 60)
                except OSError:
                    got += b'"error": {'  # cut
                code = server.wait(60)
                return self.tap.disarm(), harness.parse_replies(got)[0], code, "\n".join(server.log[-30:])
            finally:
                self.tap.disarm()
                if server.process.poll() is None:
                    server.process.kill()

        count, usual, code, _ = once(0)
        assert code == 0 and usual.whole, (code, usual)
        for number in self.numbers(count, self.run.quick and 1 or self.run.count):
            _, reply, code, log = once(number)
            if not self.tap.get(FIRED):
                continue
            self.trials += 1
            if code != 0:
                self.fail(name, number, "ends with %d: %s" % (code, log))
            elif reply.whole and b'"error"' not in reply.body and stripped_text(reply.body) != stripped_text(usual.body):
                self.fail(name, number, "another answer: " + difference(reply.body, usual.body))
            self.run.progress(number, count, name)
        self.allocations += count


Place = collections.namedtuple("Place", "model adapter text short config")


def prepare(folder):
    model, adapter, text, short = torture_scenes.write_model(folder)
    place = Place(model, adapter, text, short, torture_scenes.KeyedServer.write_config(folder, adapter))
    torture_commands.add_fit(place)
    return place


def all_jobs(place):
    """(name, what a worker does), those that take longest first."""
    jobs = [("start", lambda worker: worker.start("start", "plain")),
            ("start with a config", lambda worker: worker.start("start with a config", "keyed")),
            ("stop", lambda worker: worker.stop("stop"))]  # fmt: skip
    jobs += [(command.name, lambda worker, command=command: worker.command(command)) for command in torture_commands.commands(place)]
    for kind, scenes in (("plain", torture_scenes.scenes()), ("keyed", torture_scenes.keyed_scenes())):
        jobs += [(scene.name, lambda worker, kind=kind, scene=scene: worker.scene(kind, scene)) for scene in scenes]
    return jobs


def main():
    run = check.Check("torture", full=0, quick=3, only="scenarios whose name has this regular expression")
    if not os.path.exists(SHIM):
        print("no %s: build the target torture_shim" % SHIM)
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        place = prepare(folder)
        jobs = [job for job in all_jobs(place) if not run.only or re.search(run.only, job[0])]
        wanted = len(jobs)
        workers = [Worker(run, place, os.path.join(folder, "worker%d" % i)) for i in range(min(2, len(os.sched_getaffinity(0))))]
        threads = [threading.Thread(target=worker.work, args=(jobs,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()
    scenes, allocations, trials, failed = (sum(getattr(w, name) for w in workers) for name in ("scenes", "allocations", "trials", "failed"))
    counts = "%d scenarios, %d allocations, %d failed one by one, %d failures" % (scenes, allocations, trials, failed)
    failure = next((worker.failure for worker in workers if worker.failure), None)
    if trials <= scenes:  # each makes several allocations
        failure = failure or "the shim fails nothing, or next to nothing"
    run.verdict(failed == 0 and scenes == wanted and trials > scenes, counts, failure)


if __name__ == "__main__":
    main()
