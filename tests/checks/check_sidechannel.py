"""check-sidechannel: nobody can tell by the time what was asked under another key, or another salt (--count: probes).

A probe: the victim sends a prompt of 129 random tokens, two full pages, and at once the prober sends, on the toss of a
coin, the same prompt or one that nobody has sent, of the same length in tokens and bytes. Victim and prober have two
API keys, or one key and two salts; probes of both kinds take turns. What the prober can see of each probe is kept: its
own clock from the request to the first event, and what the reply says of itself: first_token_seconds, and attend_seconds,
which where there are keys must be whole milliseconds, for it would tell: branch predictors follow entmax some 1.5 us faster
through a prompt that they have just seen. Promised, of each of them: a Kolmogorov-Smirnov test does not tell the two
prompts apart (p > 0.01), and cached_tokens is 0. One test in a hundred says otherwise by chance: what fails is drawn once
more in full and must fail again.

A check that can't see would promise nothing, so it must also see, p < 1e-6: prompts that the prober's own key has
cached, and the same probes at a server with --share-prefixes; and its least visible difference must be below a tenth of
the time that reuse saves. Refusals come last: a capture of another key, one that was deleted and one that never was get
the same 404 after the same time, keys that are almost right the same 401 as any other.
"""
import gc
import json
import os
import random
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import check
import harness
import two_samples

VICTIM, PROBER = "the-key-of-the-victim", "the-key-of-the-prober"
TOKENS, CACHED = 129, 128
CLOCKS = ("first event", "first_token_seconds", "attend_seconds")


class Client:
    """One key on one connection that stays open."""

    def __init__(self, server, key):
        self.link, self.key = server.connect(600.0), key

    def exchange(self, method, path, body, end):
        """-> (seconds to the first event or, where none comes, to the end; the reply)"""
        text = "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n" % (
            method, path, self.key)  # fmt: skip
        data = ("%sContent-Length: %d\r\n\r\n%s" % (text, len(body), body)).encode()
        got, first = b"", None
        began = time.perf_counter()
        self.link.sendall(data)
        while not end(got):
            piece = self.link.recv(65536)
            assert piece, got
            got += piece
            if first is None and b"data: " in got:
                first = time.perf_counter() - began
        return first or time.perf_counter() - began, got

    def ask(self, prompt, salt):
        """-> (the three clocks), cached tokens"""
        fields = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True, "cache_salt": salt, "stream": True,
                  "stream_options": {"include_usage": True}}  # fmt: skip
        seconds, got = self.exchange("POST", "/v1/completions", json.dumps(fields), lambda g: g.endswith(b"\r\n0\r\n\r\n"))
        (reply,) = harness.parse_replies(got)
        frames = harness.frames(reply.body)
        assert reply.status == 200 and frames[-1] == "[DONE]", reply
        usage = json.loads(frames[-2])["usage"]
        (last,) = [json.loads(frame) for frame in frames[:-2] if '"timings"' in frame]
        prefill, cached = last["attention_report"]["prefill"], usage["prompt_tokens_details"]["cached_tokens"]
        clocks = (seconds, last["timings"]["first_token_seconds"], prefill["attend_seconds"])
        assert prefill["tokens"] == TOKENS - cached and prefill["attend_seconds"] == round(prefill["attend_seconds"], 3), last
        return clocks, cached


class Room:
    """A server with two keys, and what the prober has seen of it: {(kind, same): [clocks]}."""

    def __init__(self, server, draw):
        self.victim, self.prober, self.draw, self.seen = Client(server, VICTIM), Client(server, PROBER), draw, {}

    def probe(self, kind, same, cached=0):
        draw = [[self.draw.randrange(1000, 4096) for _ in range(TOKENS)] for _ in range(2)]
        victim = self.victim if kind == "keys" else self.prober
        victim.ask(draw[0], "one" if kind == "salts" else "")
        clocks, reused = self.prober.ask(draw[0 if same else 1], "")
        assert reused == cached, "%d tokens were reused between %s" % (reused, kind)
        self.seen.setdefault((kind, same), []).append(clocks)

    def clock(self, kind, same, which):
        return np.array([clocks[which] for clocks in self.seen[kind, same]])


def probes(room, run, count, already):
    """So many of each kind, and some of the prober's own prompts."""
    for i in range(count):
        for kind in room.draw.sample(("keys", "salts"), 2):
            room.probe(kind, room.draw.random() < 0.5)
        if i % (2 if run.quick else 20) == 0:
            room.probe("own", True, CACHED)
        run.progress(already + i, already + count, "probes between keys, as many between salts")


def suspects(room, run):
    """What tells the two prompts apart: {(kind, clock): p}; and p of all."""
    found, every = {}, {}
    for kind in ("keys", "salts"):
        for which, name in enumerate(CLOCKS):
            same, other = room.clock(kind, True, which), room.clock(kind, False, which)
            p = every[kind, name] = two_samples.kolmogorov(same, other)[1]
            clear = not run.quick or abs(two_samples.precedence(same, other) - 0.5) > 0.15
            if p <= (1e-4 if run.quick else 0.01) and clear:
                found[kind, name] = p
    return found, every


def is_visible(run, seen, hidden):
    """A difference that must be seen."""
    return two_samples.kolmogorov(seen, hidden)[1] < (1e-3 if run.quick else 1e-6)


def whole(got):
    end = got.find(b"\r\n\r\n")
    return end >= 0 and len(got) == end + 4 + int(got[:end].lower().split(b"content-length: ")[1].split(b"\r\n")[0])


def compare(client, draw, count, status, requests):
    """Requests, (key, path), drawn at random until there are so many answers, which must all be this one. -> p of the
    times of each against those of the last"""
    times, answers = [[] for _ in requests], set()
    for _ in range(count):
        which = draw.randrange(len(requests))
        client.key, path = requests[which]
        seconds, got = client.exchange("GET", path, "", whole)
        times[which].append(seconds)
        (reply,) = harness.parse_replies(got)
        answers.add((reply.status, reply.body.replace(path.rpartition("/")[2].encode(), b"ID")))
    assert len(answers) == 1 and list(answers)[0][0] == status, answers
    return [two_samples.kolmogorov(np.array(some), np.array(times[-1]))[1] for some in times[:-1]]


def refusals(server, run):
    """404 for a capture of another key and one that was deleted, against one that never was; 401 for keys that begin or
    end like a right one, against one that doesn't. -> p of each, and what is wrong or None"""
    victim, prober, draw = Client(server, VICTIM), Client(server, PROBER), random.Random(run.seed)
    ids = []
    for _ in range(2):
        reply = server.post("/v1/attention/captures", {"input": [5, 6, 7]}, {"Authorization": "Bearer " + VICTIM})
        assert reply.status in (200, 201), reply
        ids.append(reply.json()["id"])
    ids.append("attn-%024x" % draw.getrandbits(96))
    _, gone = victim.exchange("DELETE", "/v1/attention/captures/" + ids[1], "", whole)
    assert gone.startswith(b"HTTP/1.1 200"), gone
    wrong = (VICTIM[:-1] + "M", "T" + VICTIM[1:], "x" * len(VICTIM))
    level, count = (1e-4, 150) if run.quick else (0.01, 3000)
    found, failure = {}, None
    for name, status, requests in (("ids", 404, [(PROBER, "/v1/attention/captures/" + one) for one in ids]),
                                   ("401", 401, [(key, "/v1/models") for key in wrong])):  # fmt: skip
        p = compare(prober, draw, count, status, requests)
        if min(p) <= level:
            p = compare(prober, draw, count, status, requests)
        found[name,] = min(p)
        if min(p) <= level:
            failure = "%s are told apart by time: p %s" % (name, p)
    return found, failure


def look(run, keys):
    """-> counts, the first failure or None"""
    options = ("--api-key-file", keys, "--kv-bytes", "16M", "--idle-timeout", 3600,
               "--threads", max(1, len(os.sched_getaffinity(0)) - 1))  # fmt: skip
    with harness.Server(*options, "--share-prefixes") as server:
        shared = Room(server, random.Random("shared %d" % run.seed))
        for i in range(max(60, run.count // 50)):
            shared.probe("keys", i % 2 == 0, CACHED if i % 2 == 0 else 0)
    with harness.Server(*options) as server:
        draw = random.Random(run.seed)
        room = Room(server, draw)
        probes(room, run, run.count, 0)
        found, every = suspects(room, run)
        twice = {}
        if found:
            print("once more: " + told(found), flush=True)
            room = Room(server, draw)
            probes(room, run, run.count, run.count)
            again, every = suspects(room, run)
            twice = {which: p for which, p in again.items() if which in found}
        refused, failure = refusals(server, run)
    counts, blind = judge(room, shared, run)
    counts += "; p %s, refusals %s" % (told(every), told(refused))
    return counts, "told apart twice: " + told(twice) if twice else blind or failure


def judge(room, shared, run):
    """-> counts, and why differences could not have been seen or None"""
    same, hidden, own = room.clock("keys", True, 0), room.clock("keys", False, 0), room.clock("own", True, 0)
    saves = float(np.median(hidden) - np.median(own))
    least = two_samples.least_shift(same, hidden, 0.01, saves)
    counts = "%d probes between keys, %d between salts, %.1f %% of guesses right; reuse saves %.0f us, %.0f would show" % (
        len(same) + len(hidden), len(room.seen["salts", True]) + len(room.seen["salts", False]),
        100 * two_samples.precedence(same, hidden), 1e6 * saves, 1e6 * least)  # fmt: skip
    if not is_visible(run, own, hidden):
        return counts, "not even the prober's own prompts are seen to be cached"
    if not is_visible(run, shared.clock("keys", True, 0), shared.clock("keys", False, 0)):
        return counts, "not even --share-prefixes is seen"
    if least > saves / 10 and not run.quick:
        return counts, "the machine is too busy to tell"
    return counts, None


def told(every):
    return ", ".join("%s %.2g" % (" ".join(which), p) for which, p in every.items())


def main():
    run = check.Check("check-sidechannel", 10000, 100)
    two_samples.verify()
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write(VICTIM + "\n" + PROBER + "\n")
        keys.flush()
        gc.disable()  # its pauses are no one's secret
        try:
            counts, failure = look(run, keys.name)
        except AssertionError as problem:
            counts, failure = "cut short", problem
    run.verdict(failure is None, counts, failure)


main()
