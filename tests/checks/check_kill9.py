"""check-kill9: kill -9 at any moment needs no repair.

Each restart starts the server in a folder of its own, kills it after a time drawn from before it listens to well into its
load (plain and streamed requests, captures, apply), and starts it again: it must be ready within five seconds, on the
same port, give the same bytes as ever, and the folder, the model's and the temporary one must hold nothing new. With
every restart a fit or a sweep, in turns, is killed at a drawn moment, again and again until it gets to its end: the same
command must go on or begin anew by itself, a result must be whole whenever it is there, and at the end there must be the
same files as after an undisturbed run, the fit's with the same bytes.
"""
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import check
import harness
import swarm
import tiny_model

ASKED = {"prompt": "It was", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


class Failure(Exception):
    pass


def free_port():
    """One that stays free between two starts: below those that the kernel gives to clients and other tests."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        lowest = int(file.read().split()[0])
    draw = random.Random(os.getpid())
    while True:
        port = draw.randrange(1024, lowest)
        with socket.socket() as link:
            try:
                link.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def listing(folder):
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            found[os.path.relpath(path, folder)] = (os.path.getsize(path), os.stat(path).st_mtime_ns)
    return found


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Place:
    """A folder with a model, a working and a temporary folder, and the server's command line."""

    def __init__(self, folder):
        self.model = shutil.copytree(harness.MODEL, os.path.join(folder, "model"))
        self.tiny = tiny_model.write(os.path.join(folder, "tiny"))
        self.work = os.path.join(folder, "work")
        self.temporary = os.path.join(folder, "tmp")
        self.out = os.path.join(folder, "out")
        self.text = os.path.join(folder, "text")
        for name in (self.work, self.temporary, self.out):
            os.mkdir(name)
        with open(self.text, "w") as file:
            file.write("It was the best of times, it was the worst of times. " * 60)
        self.port = free_port()
        self.environment = dict(os.environ, TMPDIR=self.temporary, HOME=self.work)
        self.command = [os.path.join(harness.BUILD, "sparsed"), "serve", "--port", str(self.port), "--model", self.model, "--ctx",
                        "256", "--kv-bytes", "16M", "--capture-bytes", "16M", "--capture-max-bytes", "8M"]  # fmt: skip
        self.answer = None

    def start(self, command):
        return subprocess.Popen(command, cwd=self.work, env=self.environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)  # fmt: skip

    def state(self):
        return [listing(folder) for folder in (self.model, self.work, self.temporary)]


def until_ready(place, process, seconds):
    """Asks until /health/ready is 200. -> seconds it took"""
    begin = time.monotonic()
    while True:
        calls = swarm.Swarm(place.port)
        call = calls.send("/health/ready")
        calls.run(seconds)
        calls.close()
        if call.status() == 200:
            return time.monotonic() - begin
        if process.poll() is not None:
            raise Failure("the next start left with %d" % process.returncode)
        if time.monotonic() - begin > seconds:
            raise Failure("not ready after %g s" % seconds)
        time.sleep(0.002)


def load(place, draw, seconds):
    """Requests of many kinds for so long, whatever becomes of them."""
    end, calls = time.monotonic() + seconds, swarm.Swarm(place.port)
    while time.monotonic() < end:
        while calls.open < 12 and time.monotonic() < end:
            fields = dict(ASKED, max_tokens=draw.choice([1, 30, 150]), stream=draw.random() < 0.5)
            if draw.random() < 0.3:
                fields["attention"] = {"backend": "dense", "capture": True}
            calls.send("/v1/completions", fields)
            calls.poll(0.001)
        calls.poll(0.005)
    calls.close()


def check_answer(place):
    calls = swarm.Swarm(place.port)
    call = calls.send("/v1/completions", ASKED)
    calls.run(30)
    calls.close()
    if call.outcome() != "full":
        raise Failure("a request after the start: " + call.outcome())
    text = json.loads(call.body())["choices"][0]["text"]
    place.answer = place.answer or text
    if text != place.answer:
        raise Failure("another answer: %r, before %r" % (text, place.answer))


class Writer:
    """A command that writes files, killed and run again until it ends."""

    def __init__(self, place, name, arguments, results):
        self.place, self.name = place, name
        self.out = os.path.join(place.out, name)
        self.command = [os.path.join(harness.BUILD, "sparsed")] + arguments
        self.results, self.kills = results, 0
        self.fresh()
        begin = time.monotonic()
        if subprocess.run(self.command, cwd=place.work, env=place.environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode != 0:  # fmt: skip
            raise Failure(name + " does not run")
        self.seconds = time.monotonic() - begin
        self.wanted = {result: digest(os.path.join(self.out, result)) for result in results}
        self.left = sorted(os.listdir(self.out))
        self.fresh()

    def fresh(self):
        shutil.rmtree(self.out, ignore_errors=True)
        os.mkdir(self.out)

    def check_whole(self):
        """A result that is there under its name is a whole one."""
        for name in os.listdir(self.out):
            path = os.path.join(self.out, name)
            if name in self.wanted and digest(path) != self.wanted[name]:
                raise Failure("%s is there and not whole" % name)
            if name.endswith(".json"):
                with open(path, "rb") as file:
                    json.load(file)

    def disturbed(self, draw):
        """Kills it once at a drawn moment; where it got to its end, compares and begins anew. -> it was killed"""
        process = self.place.start(self.command)
        try:
            time.sleep(draw.random() * 1.1 * self.seconds)
        finally:
            process.kill()
            code = process.wait()
        self.check_whole()
        if code == -signal.SIGKILL:
            self.kills += 1
            if draw.random() < 0.7:
                return True
            process = self.place.start(self.command)  # and now it may
            try:
                code = process.wait(60 + 20 * self.seconds)
            except subprocess.TimeoutExpired:
                raise Failure("%s after a kill does not end" % self.name)
            finally:
                process.kill()
                process.wait()
        if code != 0:
            raise Failure("%s after a kill leaves with %d" % (self.name, code))
        for result, value in self.wanted.items():
            if digest(os.path.join(self.out, result)) != value:
                raise Failure("%s differs after kills" % result)
        if sorted(os.listdir(self.out)) != self.left:
            raise Failure("%s leaves %s" % (self.name, sorted(os.listdir(self.out))))
        self.fresh()
        return False


def one_restart(place, draw, totals):
    process = place.start(place.command)
    moment = draw.choice(["start", "load", "load"])
    try:
        if moment == "start":
            time.sleep(draw.random() * 0.12)
        else:
            until_ready(place, process, 60)
            load(place, draw, draw.random() * 0.3)
    finally:
        process.kill()
        process.wait()
    totals[moment] = totals.get(moment, 0) + 1
    again = place.start(place.command)
    try:
        totals["slowest"] = max(totals.get("slowest", 0), until_ready(place, again, 60 if place.quick else 5))
        check_answer(place)
    finally:
        again.kill()
        again.wait()
    if place.state() != place.before:
        raise Failure("files have changed: %s" % [now for now, then in zip(place.state(), place.before) if now != then])


def main():
    run = check.Check("check-kill9", 200, 8)
    totals, failure, done = {}, None, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        place.before, place.quick = place.state(), run.quick
        fit = os.path.join(place.out, "fit", "fit.safetensors")
        sweep = os.path.join(place.out, "sweep")
        writers = []
        try:
            writers = [
                Writer(place, "fit", ["fit", "--model", place.tiny, "--text", place.text, "--out", fit, "--length", "64", "--steps", "20",
                                      "--clusters", "none", "--kmeans", "4", "--bins", "4"], ["fit.safetensors"]),
                Writer(place, "sweep", ["sweep", "--model", place.tiny, "--text", place.text, "--out", sweep, "--length", "64", "--windows",
                                        "1", "--grid", "window=9,17"], []),
            ]  # fmt: skip
            while done < run.count:
                draw = random.Random(run.seed * 100003 + done)
                one_restart(place, draw, totals)
                writers[done % 2].disturbed(draw)
                done += 1
                run.progress(done, run.count, str(totals))
        except Failure as problem:
            failure = "restart %d: %s" % (done, problem)
    counts = "%d restarts, %d killed while starting, %d under load, ready again in at most %.2f s; %s" % (
        done, totals.get("start", 0), totals.get("load", 0), totals.get("slowest", 0),
        ", ".join("%s killed %d times" % (w.name, w.kills) for w in writers))  # fmt: skip
    run.verdict(failure is None, counts, failure)


main()
