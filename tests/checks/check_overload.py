"""check-overload: ten times more than the server can do, for two minutes (--count: seconds).

A few more clients than there are places measure what it can do, for four seconds. Then requests of the same kinds
arrive at ten times that rate, whatever becomes of those before them, for ten seconds. That is done again and again, for
the machine may have other work. Promised:
- goodput, tokens a second of requests that got their whole result, is at least 90 % of the peak;
- refusals are 429 with a whole number of seconds in Retry-After, 1 to 120, and 99 of 100 come within 50 ms;
- every request that was not refused ends with its whole result, whatever its kind;
- the largest resident size stays below the ceiling printed at start.
Requests are completions of all sizes, streamed or not, some with logprobs and echo (large replies), two choices, or a
capture of their attention. Meanwhile the key file is rewritten and read again (SIGHUP) every second: nobody with a key
may notice. The engine computes on all CPUs but one, which the clients need.
"""
import os
import random
import re
import signal
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import check
import harness
import swarm

PLACES, QUEUE = 8, 32
KEY = "the-key-that-stays"
LEAST = 0.4  # of the peak, in a quick run


def draw_request(draw, scale):
    """scale: of the lengths of answers."""
    prompt = [5 + draw.randrange(4000) for _ in range(draw.choice([5, 20, 60, 300]))]
    fields = {"prompt": prompt, "max_tokens": int(draw.choice([200, 400, 600]) * scale), "ignore_eos": True,
              "stream": draw.random() < 0.6, "seed": draw.randrange(1000)}  # fmt: skip
    kind = draw.randrange(20)
    if kind == 0:
        fields.update(attention={"backend": "dense", "capture": True}, max_tokens=20)
    elif kind == 1:
        fields.update(logprobs=5, echo=True, stream=False)
    elif kind == 2:
        fields.update(n=2, max_tokens=fields["max_tokens"] // 2)
    fields["attention"] = fields.get("attention") or draw.choice(["dense", {"backend": "window"}])
    return fields


def waited():
    """Seconds for which this process could have run and other work had the CPU."""
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


class Clock:
    """Time, but of a stall of more than a quarter of a second only what this process did not spend waiting for a CPU."""

    def __init__(self):
        self.seen, self.waited, self.passed = time.monotonic(), waited(), 0.0

    def now(self):
        now, waits = time.monotonic(), waited()
        took = now - self.seen
        self.passed += took - min(max(took - 0.25, 0.0), waits - self.waited)
        self.seen, self.waited = now, waits
        return self.passed


class Load:
    """Requests and what became of them: of all, tokens of whole results; of those offered, everything."""

    def __init__(self, port, seed, scale):
        self.swarm, self.draw, self.scale = swarm.Swarm(port), random.Random(seed), scale
        self.swarm.on_end = self._over
        self.clock = Clock()
        self.tokens, self.whole, self.faults = 0, 0, []
        self.offers, self.sent, self.served, self.slowest, self.refusals, self.retries = False, 0, 0, 0.0, [], set()

    def ask(self):
        fields = draw_request(self.draw, self.scale)
        self.swarm.send("/v1/completions", fields, "Authorization: Bearer %s\r\n" % KEY).offered = self.offers

    def _over(self, call):
        outcome = call.outcome()
        if outcome == "full":
            self.whole += 1
            self.tokens += call.fields["max_tokens"] * call.fields.get("n", 1)
            self.served += call.offered
            self.slowest = max(self.slowest, call.seconds() if call.offered else 0)
        elif outcome == "told" and call.status() == 429 and call.offered:
            self.refusals.append(call.seconds())
            after = call.headers().get("retry-after", "")
            self.retries.add(int(after) if re.fullmatch("[1-9][0-9]{0,2}", after) else after)
        else:
            self.faults.append("%s %r" % (outcome, bytes(call.data[:300])))

    def closed(self, clients, seconds):
        """So many clients, each with another request as soon as its last is over; counted once they are in full swing.
        -> (tokens, requests) a second; what is open goes on"""
        begin, tokens, whole = self.clock.now() + 1.5, 0, 0
        while self.clock.now() < begin + seconds:
            while self.swarm.open < clients:
                self.ask()
            self.swarm.poll(0.02)
            if self.clock.now() < begin:
                tokens, whole = self.tokens, self.whole
        return (self.tokens - tokens) / seconds, (self.whole - whole) / seconds

    def offered(self, rate, seconds, each_second):
        """Requests at this rate. -> tokens a second"""
        tokens, sent, told, begin = self.tokens, 0, 0, self.clock.now()
        self.offers = True
        while self.clock.now() < begin + seconds:
            passed = self.clock.now() - begin
            while sent < passed * rate:
                self.ask()
                sent += 1
            if passed >= told:
                told += 1
                each_second()
            self.swarm.poll(min(0.005, 1 / rate))
        self.offers = False
        self.sent += sent
        goodput = (self.tokens - tokens) / seconds
        self.swarm.run(240)
        return goodput


def resident(server):
    with open("/proc/%d/status" % server.process.pid) as file:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1))


def write_keys(path, number):
    with open(path + ".new", "w") as file:
        file.write("%s\nthe-key-that-goes-%d\n" % (KEY, number))
    os.replace(path + ".new", path)


def overload(run, folder):
    keys = os.path.join(folder, "keys")
    write_keys(keys, 0)
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    scale = 0.25 if run.quick else 1
    with harness.Server("--threads", threads, "--max-sequences", PLACES, "--max-queue", QUEUE, "--api-key-file", keys,
                        "--max-connections", 2048, "--max-connections-per-ip", 2048, "--max-body-bytes", "64K",
                        "--max-tensor-bytes", "1M", "--capture-bytes", "64M", "--capture-max-bytes", "32M",
                        "--graph-jobs", 1, "--queue-timeout", 600) as server:  # fmt: skip
        ceiling = server.get("/v1/limits", headers={"X-Api-Key": KEY}).json()["memory_ceiling_bytes"]
        load, seconds = Load(server.port, run.seed, scale), [0]

        def each_second():
            seconds[0] += 1
            write_keys(keys, seconds[0])
            server.process.send_signal(signal.SIGHUP)
            run.progress(seconds[0], run.count, "s: %d served, %d refused" % (load.served, len(load.refusals)))

        peaks, goodputs, rounds = [], [], max(1, run.count // 10)
        for again in range(rounds + 2):
            if again >= rounds and not (run.quick and sum(goodputs) < LEAST * sum(peaks)):
                break  # a quick run has few seconds: where other work took them, some more
            peak, rate = load.closed(PLACES + 4, 4)
            peaks.append(peak)
            # however little it does in a quick run's seconds, more is offered than its places and its queue take
            least = 4 * (PLACES + QUEUE) / run.count if run.quick else 5
            goodputs.append(load.offered(max(10 * rate, least), run.count / rounds, each_second))
        used = resident(server)
    ratio, refusals = sum(goodputs) / sum(peaks), sorted(load.refusals)
    p99 = refusals[int(0.99 * (len(refusals) - 1))] if refusals else 0.0
    counts = ("%d offered in %d s, ten times the peak, %d served, %d refused, p99 %.1f ms, Retry-After %s; goodput %.0f %% (%s of %s "
              "tokens/s); slowest %.1f s; %d MiB resident, ceiling %d") % (
                  load.sent, run.count, load.served, len(refusals), 1e3 * p99, sorted(load.retries, key=str), 100 * ratio,
                  [int(g) for g in goodputs], [int(p) for p in peaks], load.slowest, used >> 20, ceiling >> 20)  # fmt: skip
    if load.faults:
        return counts, "%d requests did not end well: %s" % (len(load.faults), load.faults[0])
    if load.served + len(refusals) != load.sent or not load.served or not refusals:
        return counts, "%d of %d requests have no end" % (load.sent - load.served - len(refusals), load.sent)
    if any(not isinstance(r, int) or r > 120 for r in load.retries):
        return counts, "Retry-After: %s" % load.retries
    if p99 > (10 if run.quick else 0.05):
        return counts, "refusals take %.0f ms" % (1e3 * p99)
    if ratio < (LEAST if run.quick else 0.9):
        return counts, "goodput is %.0f %% of the peak" % (100 * ratio)
    if used > ceiling:
        return counts, "%d bytes resident, the ceiling is %d" % (used, ceiling)
    return counts, None


def main():
    run = check.Check("check-overload", 120, 5)
    with tempfile.TemporaryDirectory() as folder:
        counts, failure = overload(run, folder)
    run.verdict(failure is None, counts, failure)


main()
