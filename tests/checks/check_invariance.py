"""check-invariance: the same request has the same bytes, whatever runs beside it (--count: requests).

Forty requests, drawn from the seed, are first answered one by one by a fresh server with one thread, each under a salt
of its own, so that nothing is reused. Then servers with other threads, step times and numbers of places get them again:
in crowds of 1 to 48, in any order, begun together or while others run, with prefixes reused (no salt) or not (a salt),
some left half way. Every reply must be that of the first server: text, tokens, log-probabilities, scores, reasons.
"""
import os
import random
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import asked
import check
import harness
import swarm

SETTINGS = [
    ("--threads", 1, "--max-sequences", 48),
    ("--threads", 2, "--max-sequences", 48, "--step-ms", 2),
    ("--threads", 4, "--max-sequences", 16, "--step-ms", 100),
    ("--threads", 2, "--max-sequences", 48, "--kv-bytes", 24 << 20),  # pages are taken from what is kept
]


def salted(fields, draw, always):
    """Scores never reuse anything and know no salt."""
    if "input" in fields:
        return fields
    return dict(fields, cache_salt="%x" % draw.getrandbits(60)) if always or draw.random() < 0.3 else fields


def baselines(requests, draw):
    """What each is answered alone."""
    answers = []
    with harness.Server(*asked.OPTIONS, "--threads", "1", "--max-sequences", "1") as server:
        for path, fields in requests:
            alone = swarm.Swarm(server.port)
            call = alone.send(path, salted(fields, draw, True))
            alone.run(600)
            assert call.status() == 200, call.data
            answers.append(asked.essence(call))
            alone.close()
    return answers


class Crowd:
    """Crowds on one server until so many requests were compared."""

    def __init__(self, run, requests, answers, draw):
        self.run, self.requests, self.answers, self.draw = run, requests, answers, draw
        self.done = self.reused = self.left = 0
        self.differ = None

    def over(self, call):
        if call.left:
            self.left += 1
            return
        self.done += 1
        self.reused += asked.cached_tokens(call) > 0
        got, wanted = asked.essence(call), self.answers[call.which]
        if got != wanted and not self.differ:
            self.differ = "%s answered %s, alone %s" % (self.requests[call.which], got[:400], wanted[:400])

    def drive(self, port, target):
        crowd = swarm.Swarm(port)
        crowd.on_end = self.over
        while self.done < target and not self.differ:
            size, apart = self.draw.randrange(1, 49), self.draw.choice([0, 0, 0.001, 0.005])
            for _ in range(size):
                which = self.draw.randrange(len(self.requests))
                path, fields = self.requests[which]
                crowd.send(path, salted(fields, self.draw, False)).which = which
                if apart:
                    crowd.run(apart)
                if self.draw.random() < 0.02 and crowd.calls:
                    crowd.leave(self.draw.choice(crowd.calls))
            low = self.draw.randrange(4)  # the next ones begin before these are over
            crowd.run(600, until=lambda: crowd.open <= low)
            self.run.progress(self.done, self.run.count, "%d with reused pages" % self.reused)
        crowd.run(600)
        crowd.close()


def main():
    run = check.Check("check-invariance", 10000, 240)
    draw = random.Random(run.seed)
    requests = [asked.draw_request(draw) for _ in range(40)]
    crowd = Crowd(run, requests, baselines(requests, draw), draw)
    for i, options in enumerate(SETTINGS):
        if not crowd.differ:
            with harness.Server(*asked.OPTIONS, "--max-queue", "256", *options) as server:
                crowd.drive(server.port, run.count * (i + 1) // len(SETTINGS))
    counts = "%d requests in crowds of 1 to 48, %d with reused pages, %d left early, %d differing" % (
        crowd.done, crowd.reused, crowd.left, bool(crowd.differ))  # fmt: skip
    run.verdict(crowd.done >= run.count and crowd.reused > 0 and not crowd.differ, counts,
                crowd.differ or "%d compared, %d reused" % (crowd.done, crowd.reused))


main()
