"""A client that leaves stops costing: {FIN, RST, half-close} x {queued, prefill, decode, graph, last token}, each many
times, and clients that fall silent without a word. What ran for it, its pages and its place in the queue must be free
within one step and 100 ms; after all, descriptors and memory are what they were.

A step is at most 2 x --step-ms. The clock starts when close() or shutdown() returns and stops when /metrics says that all
is free. Where a machine is too busy to run this program itself, the time for which it waited for a processor counts for
nobody; time in which /metrics does not answer counts. A client that falls silent is dropped within twice --write-timeout and
two seconds: the kernel's probes, in whole seconds, find it while nothing is written to it, and if its answer goes out just
before that, the end of that has --write-timeout too.
"""
import json
import os
import random
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import harness
import tiny_model
from check import Check

WAYS = ("fin", "rst", "half")
PHASES = ("queued", "prefill", "decode", "graph", "last")
STEP_MS, WRITE_TIMEOUT, KV_BYTES = 10, 1, 2100000
FREE = {"sparsed_num_requests_running": 0, "sparsed_num_requests_waiting": 0, "sparsed_kv_pages_used": 0,
        "sparsed_graph_jobs_running": 0}  # fmt: skip


class Missed(Exception):
    """The moment has passed before the client left: drawn again."""


def kept_waiting():
    """Seconds for which this program could have run and no processor was free."""
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


class Watch:
    """/metrics over one connection that stays open."""

    def __init__(self, server):
        self.link = server.connect(60.0)

    def read(self, request=b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        self.link.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.link.recv(65536)
        head, body = got.split(b"\r\n\r\n", 1)
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < size:
            body += self.link.recv(65536)
        return body

    def gauges(self, names=tuple(FREE)):
        values = {}
        for line in self.read().decode().splitlines():
            name = line.split("{")[0].split(" ")[0]
            if name in names:
                values[name] = float(line.rsplit(" ", 1)[1])
        assert len(values) == len(names), values
        return values

    def connections(self):
        return self.gauges(("sparsed_http_connections",))["sparsed_http_connections"]

    def until(self, condition, seconds=60.0):
        deadline = time.time() + seconds
        while not condition(self.gauges()):
            assert time.time() < deadline, "it does not come: %r" % self.gauges()

    def within(self, reached, limit, what):
        """Seconds until it is reached."""
        begin, waited = time.time(), kept_waiting()
        while True:
            done = reached()
            spent = time.time() - begin - (kept_waiting() - waited)
            if spent > limit:
                raise AssertionError("%s after %.3f s: %r, %d connections" % (what, spent, self.gauges(), self.connections()))
            if done:
                return spent

    def freed(self, wanted, limit):
        return self.within(lambda: self.gauges() == wanted, limit, "not free")


def send(server, path, value, small=False, method="POST"):
    link = socket.socket()
    link.settimeout(60.0)
    if small:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", server.port))
    body = json.dumps(value).encode() if value is not None else b""
    link.sendall(("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                  % (method, path, len(body))).encode() + body)  # fmt: skip
    return link


def stream(server, **fields):
    small = fields.pop("small", False)
    return send(server, "/v1/completions", dict(fields, stream=True, ignore_eos=True), small)


def leave(link, way):
    if way == "rst":
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if way == "silent":
        harness.vanish(link)
    elif way == "half":
        link.shutdown(socket.SHUT_WR)
    else:
        link.close()


def has_come(link):
    """What can be read without waiting."""
    link.setblocking(False)
    try:
        return link.recv(65536)
    except BlockingIOError:
        return b""
    finally:
        link.settimeout(60.0)


class Phases:
    """Each function makes a socket, `link`, whose request is in that phase; `after` is what must be deleted later."""

    def __init__(self, server, watch, rng):
        self.server, self.watch, self.rng, self.link, self.after = server, watch, rng, None, None
        self.baseline, self.blocker = dict(FREE), None

    def ids(self, n):
        return [self.rng.randrange(1, 250) for _ in range(n)]  # never the same prompt twice: nothing is reused

    def pause(self, most):
        time.sleep(self.rng.random() * most)

    def block(self):
        """A stream that nobody reads: it pauses, keeps its pages, and nothing that is longer fits beside it."""
        self.blocker = stream(self.server, prompt=self.ids(10), max_tokens=16000, logprobs=20, small=True)
        seen, same = None, 0
        while same < 50:  # looks apart, not a time: the machine may stand still
            rows = json.loads(self.watch.read(b"GET /v1/requests HTTP/1.1\r\nHost: localhost\r\n\r\n"))["data"]
            tokens = rows and rows[0]["tokens"]
            same = same + 1 if tokens == seen and tokens else 0
            seen = tokens
            time.sleep(0.01)
        self.baseline = self.watch.gauges()
        assert self.baseline["sparsed_num_requests_running"] == 1 and self.baseline["sparsed_kv_pages_used"] > 200

    def unblock(self):
        if self.blocker:
            self.blocker.close()
            self.blocker, self.baseline = None, dict(FREE)
            self.watch.until(lambda g: g == FREE)

    def queued(self):
        self.link = stream(self.server, prompt=self.ids(200), max_tokens=15000, small=self.rng.random() < 0.5)
        self.watch.until(lambda g: g["sparsed_num_requests_waiting"] >= 1)
        self.pause(0.005)

    def prefill(self):
        self.link = stream(self.server, prompt=self.ids(12000), max_tokens=1000)
        harness.read_some(self.link)  # the head of the reply comes with the first chunk
        self.pause(0.02)
        if b"data: " in has_come(self.link):
            raise Missed

    def decode(self):
        deaf = self.rng.random() < 0.5
        self.link = stream(self.server, prompt=self.ids(20), max_tokens=12000, small=deaf, logprobs=5)
        got = harness.read_some(self.link, 1 if deaf else 600 * self.rng.randrange(1, 20))
        assert b" 200 " in got, got
        self.pause(0.01)

    def graph(self):
        path = "/v1/attention/captures"
        if self.rng.random() < 0.5:  # the run that is captured
            self.link = send(self.server, path, {"input": self.ids(2000)})
            self.pause(0.005)
        else:  # a head of it
            one = self.server.post(path, {"input": self.ids(2000)}).json()["id"]
            self.after = path + "/" + one
            self.link = send(self.server, "%s/%s/heads/%d/%d/edges?min_weight=0.5&graph=gold" % (
                path, one, self.rng.randrange(2), self.rng.randrange(2)), None, method="GET")  # fmt: skip
            self.pause(0.003)
        if has_come(self.link):
            raise Missed

    def last(self):
        n = 3 + self.rng.randrange(6)
        self.link = stream(self.server, prompt=self.ids(20), max_tokens=n, return_token_ids=True)
        got, wanted = b"", n - self.rng.randrange(2)  # about when the last token comes, or after it
        while got.count(b"data: ") < wanted:
            got += harness.read_some(self.link)
        self.pause(0.001)

    def undo(self):
        if self.after:
            self.server.request("DELETE", self.after)
        self.after = None


def one_trial(phases, phase, way, limit):
    for _ in range(200):
        phases.link = None
        try:
            getattr(phases, phase)()
            leave(phases.link, way)
            return phases.watch.freed(phases.baseline, limit)
        except Missed:
            leave(phases.link, "rst")
            phases.watch.freed(phases.baseline, 60)
        finally:
            if phases.link:
                phases.link.close()
            phases.undo()
    raise AssertionError("the moment to leave was always missed")


def state_of(server):
    """Descriptors and resident bytes."""
    with open("/proc/%d/statm" % server.process.pid) as file:
        pages = int(file.read().split()[1])
    return len(os.listdir("/proc/%d/fd" % server.process.pid)), pages * os.sysconf("SC_PAGE_SIZE")


def warm(server, seed):
    """Every HTTP thread has read the largest bodies once: what its allocator keeps afterwards is there before we count."""
    phases = Phases(server, Watch(server), random.Random(seed))
    for _ in range(4):
        links = [stream(server, prompt=phases.ids(12000), max_tokens=1000) for _ in range(8)]
        links += [send(server, "/v1/attention/captures", {"input": phases.ids(2000)}) for _ in range(8)]
        for link in links:
            harness.read_some(link)
            link.close()
        phases.watch.until(lambda g: g == FREE)
    phases.watch.link.close()


def is_sanitized(server):
    """Whether it keeps what was freed, in a quarantine, and tells leaks by itself at its end."""
    with open("/proc/%d/maps" % server.process.pid) as file:
        return "san.so" in file.read()


def settled(server, wanted=0, seconds=60):
    """The same once the last connections are closed, and once descriptors are at most `wanted`, where that comes in time."""
    seen, begin, same = (-1, 0), time.time(), 0
    while same < 50 or (wanted and seen[0] > wanted and time.time() - begin < seconds):
        now = state_of(server)
        same = same + 1 if now[0] == seen[0] else 0
        seen = now
        time.sleep(0.01)
    return seen


def matrix(check, server, trials, limit, times):
    """Runs the 15 cells, so many trials each; -> trials done. Raises at the first that takes too long."""
    phases = Phases(server, Watch(server), random.Random(check.seed))
    done = 0
    for phase in PHASES:
        if phase == "queued":
            phases.block()
        for way in WAYS:
            for trial in range(trials):
                try:
                    took = one_trial(phases, phase, way, limit)
                except AssertionError as error:
                    raise AssertionError("%s, %s, trial %d: %s" % (way, phase, trial, error))
                times.setdefault(phase, []).append(took)
                done += 1
                check.progress(done, len(PHASES) * len(WAYS) * trials, "%s, %s" % (way, phase))
        phases.unblock()
    phases.watch.link.close()
    return done


def vanish_all(phases, names, alone, limit):
    """All these at once; -> seconds until what ran for them is free and their connections are closed."""
    links = []
    for name in names:
        try:
            getattr(phases, name)()
        except Missed:
            pass  # its answer is on the way: one more way to fall silent
        links.append(phases.link)
    for link in links:
        leave(link, "silent")
    others = 1 + (alone != FREE)  # the watch's connection, and that of the one they are queued behind
    gone = lambda: phases.watch.gauges() == alone and phases.watch.connections() <= others
    took = phases.watch.within(gone, limit, "silent clients are still there")
    for link in links:
        link.close()
    return took


def sip(link, done, cut):
    """Reads slowly until `done`, or until the server has ended it."""
    try:
        while not done.wait(0.1) and link.recv(4096):
            pass
    except OSError:
        pass
    if not done.is_set():
        cut.set()


def silent(check, tiny, options, each):
    """Clients that vanish; -> (how many, longest time)."""
    limit = 2 * WRITE_TIMEOUT + 2 + (10 if check.quick else 0.5)
    options = ("--write-timeout", WRITE_TIMEOUT, "--max-queue", 100) + options
    slow = {"SPARSED_CPU": "reference"}
    with harness.Server(*options, "--kv-bytes", 32 << 20, model=tiny, environment=slow) as server:
        phases = Phases(server, Watch(server), random.Random(check.seed + 1))
        longest = vanish_all(phases, [name for name in PHASES if name != "queued"] * each, FREE, limit)
    with harness.Server(*options, "--kv-bytes", KV_BYTES, model=tiny) as server:
        phases = Phases(server, Watch(server), random.Random(check.seed + 2))
        for _ in range(5):
            took = silent_queue(phases, each, limit)
            if took is not None:
                return each * len(PHASES), max(longest, took)
    raise AssertionError("the stream that is read slowly is always cut")


def silent_queue(phases, each, limit):
    """Queued behind a stream that is read so slowly that it does not end: one that nobody reads would be cut by the same
    timeout. -> the longest time; None: this process stood still, and that stream was cut"""
    done, cut = threading.Event(), threading.Event()
    first = stream(phases.server, prompt=phases.ids(20), max_tokens=16000, logprobs=20, small=True)
    reader = threading.Thread(target=sip, args=(first, done, cut))
    reader.start()
    try:
        phases.watch.until(lambda g: cut.is_set() or g["sparsed_num_requests_running"] == 1)
        took = vanish_all(phases, ["queued"] * each, phases.watch.gauges(), limit)
    except AssertionError:
        if not cut.is_set():
            raise
        took = None
    finally:
        done.set()
        reader.join()
        first.close()
    phases.watch.until(lambda g: g == FREE)
    return took


def main():
    check = Check("check-abort", full=200, quick=3)
    room = tempfile.mkdtemp(prefix="sparsed-abort-")
    tiny_model.CONFIG["max_position_embeddings"] = 16384
    tiny = os.path.join(room, "tiny")
    tiny_model.write(tiny)
    options = ("--step-ms", STEP_MS, "--request-timeout", 3600, "--queue-timeout", 3600, "--header-timeout", 3600,
               "--idle-timeout", 3600)  # fmt: skip
    limit = 2 * STEP_MS / 1000 + (5.0 if check.quick else 0.1)
    times, done, failure, changes = {}, 0, None, ""
    try:
        with harness.Server("--write-timeout", 600, "--kv-bytes", KV_BYTES, *options, model=tiny) as server:
            if not check.quick:
                warm(server, check.seed + 3)
            # allocators keep a few MiB of the first thousands of requests, whatever became of them; a leak goes on
            matrix(check, server, max(check.count * 3 // 2, 2), 10.0, {})
            before = settled(server)
            done = matrix(check, server, check.count, limit, times)
            after = settled(server, before[0])
            changes = "%d descriptors, then %d, resident %.1f MB, then %.1f MB" % (
                before[0], after[0], before[1] / 1e6, after[1] / 1e6)  # fmt: skip
            more = float("inf") if is_sanitized(server) else before[1] * 0.02 + ((32 if check.quick else 1) << 20)
            assert after[0] == before[0] and after[1] <= before[1] + more, changes
        n_silent, longest = silent(check, tiny, options, 1 if check.quick else 4)
        changes += "; %d silent ones within %.1f s (--write-timeout %d)" % (n_silent, longest, WRITE_TIMEOUT)
        done += n_silent
    except AssertionError as error:
        failure = str(error)
    shutil.rmtree(room)
    figures = ", ".join("%s %.0f ms" % (phase, 1000 * max(t)) for phase, t in times.items())
    check.verdict(failure is None, "%d clients left, longest until free (limit %.0f ms): %s; %s" % (
        done, 1000 * limit, figures, changes), failure)  # fmt: skip


main()
