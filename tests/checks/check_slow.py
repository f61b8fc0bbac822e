"""Slow clients take nothing from the others: 2,000 connections that send a head a byte a second, send a body so, read their
answer so, or do nothing, kept up for longer than each deadline, while a probe asks as it did before and after them:
p99 below twice its idle value. And every one of them is sent away in time: 408, or cut.

The crowd is one process with one epoll at the lowest priority: where the machine has two cores, these are for the server
and the probe. Idle values are those of probes before and after, together. The probe that counts is a request for 32 tokens;
/health/live takes a fraction of a millisecond, of which the scheduler of shared cores makes more than the server, so its
p99 may also be up to 2 ms above its idle value.
"""
import json
import os
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import harness
from check import Check

POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
STREAM = b'{"prompt":"It was","max_tokens":1900,"ignore_eos":true,"stream":true,"logprobs":20}'
START = {"head": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
         "body": POST % 5000 + b'{"prompt":"',
         "answer": b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
         "stream": POST % len(STREAM) + STREAM,
         "idle": b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"}  # fmt: skip
SHARE = ("head", "head", "body", "body", "answer", "idle", "head", "body", "answer", "idle")
STREAMS = 8  # of them: they hold pages, which the probe needs too
TURNS = 100  # a second


class Crowd:
    """So many slow connections; those that are sent away come back."""

    def __init__(self, port, n):
        self.port, self.poll = port, select.epoll()
        self.links = {}  # descriptor: [socket, kind, since]
        self.turns = [set() for _ in range(TURNS)]
        self.told = {kind: [0, 0, 0.0] for kind in START}  # sent away, with a 408, longest life
        self.n = n

    def open(self, kind):
        link = socket.socket()
        if kind in ("answer", "stream"):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.connect(("127.0.0.1", self.port))
        link.send(START[kind])
        link.setblocking(False)
        self.links[link.fileno()] = [link, kind, time.time()]
        self.turns[link.fileno() % TURNS].add(link.fileno())
        self.poll.register(link.fileno(), select.EPOLLRDHUP)

    def close(self, number):
        link, kind, since = self.links.pop(number)
        told = self.told[kind]
        told[0] += 1
        told[2] = max(told[2], time.time() - since)
        try:
            told[1] += b" 408 " in link.recv(4096)
        except OSError:
            pass
        self.poll.unregister(number)
        self.turns[number % TURNS].discard(number)
        link.close()
        self.open(kind)

    def act(self, number):
        link, kind, _ = self.links[number]
        try:
            if kind in ("head", "body"):
                link.send(b"x")
            elif kind != "idle":
                link.recv(1)
        except OSError:
            pass

    def run(self, writes):
        """Opened a few each turn, so that their deadlines are spread as those of real clients are."""
        turn, due, opened = 0, time.time(), 0
        while True:
            for _ in range(min(5, self.n - opened)):
                self.open("stream" if opened < STREAMS else SHARE[opened % len(SHARE)])
                opened += 1
                if opened == self.n:
                    os.write(writes, b"all there\n")
            wait = due - time.time()
            for number, _ in self.poll.poll(wait if wait > 0 else 0):
                self.close(number)
            if time.time() < due:
                continue
            for number in list(self.turns[turn]):
                self.act(number)
            turn, due = (turn + 1) % TURNS, due + 1 / TURNS


def start_crowd(port, n, nice):
    """-> the process, and what reads a line of its figures after each SIGUSR1."""
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(writes)
        return child, os.fdopen(reads)
    try:  # whatever happens, nothing of the parent's code runs here
        os.nice(nice)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        crowd = Crowd(port, n)

        def tell(number, frame):
            os.write(writes, json.dumps(crowd.told).encode() + b"\n")

        signal.signal(signal.SIGUSR1, tell)
        crowd.run(writes)
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)


def ask_crowd(child, figures_of):
    os.kill(child, signal.SIGUSR1)
    told = json.loads(figures_of.readline() or "null")
    assert told, "the crowd has ended"
    return told


class Stalled(Exception):
    pass


class Probe:
    """What an ordinary client asks: a connection of its own for a state of health, a few tokens over one that it keeps."""

    def __init__(self, server):
        self.server, self.link, self.stalls = server, server.connect(120.0), 0
        body = b'{"prompt":"It was","max_tokens":32,"temperature":0,"ignore_eos":true}'
        self.request = POST % len(body) + body
        self.tokens()  # at once: a connection that has asked for nothing yet is one of a slow head

    def health(self):
        with self.server.connect(120.0) as link:
            link.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            got = b""
            while piece := link.recv(4096):
                got += piece
            self.check(got)

    def check(self, got):
        """A machine that stands still for longer than --header-timeout makes anybody slow: that is asked again."""
        if b" 408 " in got and self.stalls < 5:
            raise Stalled
        assert b" 200 " in got, got

    def tokens(self):
        self.link.sendall(self.request)
        got = self.link.recv(65536)
        self.check(got)
        head, body = got.split(b"\r\n\r\n", 1)
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < size:
            body += self.link.recv(65536)

    def times(self, seconds):
        """Probes in turn, for so long; -> sorted seconds of each kind."""
        times, end = {"health": [], "tokens": []}, time.time() + seconds
        while time.time() < end:
            for name, taken in times.items():
                begin = time.perf_counter()
                try:
                    getattr(self, name)()
                except Stalled:
                    self.stalls, self.link = self.stalls + 1, self.server.connect(120.0)
                    continue
                taken.append(time.perf_counter() - begin)
            time.sleep(0.002)
        return times


def all_sent_away(told):
    return all(told[kind][0] > 0 for kind in told if kind != "idle")


def p99(times):
    return sorted(times)[int(len(times) * 0.99)]


def main():
    check = Check("check-slow", full=2000, quick=200)
    head, body, write = (3, 3.5, 4) if check.quick else (10, 20, 20)
    failure, figures, window = None, "", write + 3
    START["answer"] *= 2 if check.quick else 40  # making them takes a sanitized server long
    try:
        with harness.Server("--max-connections", 4096, "--max-connections-per-ip", 4096, "--header-timeout", head,
                            "--body-timeout", body, "--write-timeout", write, log=subprocess.DEVNULL) as server:  # fmt: skip
            probe = Probe(server)
            probe.times(0.5)
            idle = probe.times(1 if check.quick else 4)
            # elsewhere the machine may have other work, and the crowd must see in time that it is sent away
            child, figures_of = start_crowd(server.port, check.count, 0 if check.quick else 19)
            try:
                assert figures_of.readline() == "all there\n", "the crowd has ended"
                open_now = server.gauge("sparsed_http_connections")
                slow, begin = {"health": [], "tokens": []}, time.time()
                told = ask_crowd(child, figures_of)
                while time.time() - begin < window or (check.quick and time.time() - begin < 90 and not all_sent_away(told)):
                    for name, taken in probe.times(1).items():
                        slow[name] += taken
                    open_now = min(open_now, server.gauge("sparsed_http_connections"))
                    check.progress(int(time.time() - begin), window, "seconds, %d connections" % open_now)
                    told = ask_crowd(child, figures_of)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            server.until_idle()
            for name, taken in probe.times(1 if check.quick else 4).items():
                idle[name] += taken
            figures = "at least %d slow connections open" % open_now
            for name in idle:
                quiet, busy = p99(idle[name]), p99(slow[name])
                figures += "; %s p99 %.2f ms idle (%d), %.2f ms among them (%d)" % (
                    name, 1000 * quiet, len(idle[name]), 1000 * busy, len(slow[name]))  # fmt: skip
                floor = 3 if check.quick else quiet + 0.002 if name == "health" else 0
                if check.quick:  # a handful of probes on a machine with other work: the middle one
                    quiet, busy = statistics.median(idle[name]), statistics.median(slow[name])
                if busy >= max(2 * quiet, floor):
                    failure = failure or "%s: %.2f times its idle value" % (name, busy / quiet)
            figures += "; sent away (with 408, longest life): " + ", ".join(
                "%s %d (%d, %.1f s)" % (kind, *of) for kind, of in told.items())  # fmt: skip
            slack = 30 if check.quick else 2
            assert open_now >= (0.25 if check.quick else 0.95) * check.count, "only %d connections were open at once" % open_now
            for kind, limit in (("head", head), ("body", body), ("answer", 2 * write), ("stream", 2 * write)):
                n, late, longest = told[kind]
                assert n > 0 and longest < limit + slack, "%s: sent away after %.1f s" % (kind, longest)
                assert kind in ("answer", "stream") or late >= 0.95 * n, "%s: %d of %d got a 408" % (kind, late, n)
    except (AssertionError, OSError) as error:
        failure = failure or str(error)
    check.verdict(failure is None, figures, failure)


main()
