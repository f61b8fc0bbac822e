"""check-drain: SIGTERM loses nothing that was accepted.

Each round starts a server, sends it 200 streams and 200 plain requests that wait in its queue, and stops it at a moment
drawn between the first connection and the last reply, once with SIGTERM or, in a fifth of the rounds, with a second one
soon after. The delay and timeout of the drain are drawn too: mostly there is time to finish, in some rounds what runs is
cut. A round is good when every request has a full result or an explicit error (an error frame and [DONE], or 503 or 429
with Retry-After), or found the port closed after the signal; /health/ready was 503 from the first look after the signal;
new work behind the delay was refused with 503 and Connection: close; the process left with 0 in time.
"""
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import check
import harness
import swarm

STREAMS = WAITING = 200
PLACES = 200


class Failure(Exception):
    pass


def check_told(call, signalled):
    """An error that tells: 503 or 429 with Retry-After; a refusal because of the stop closes the connection."""
    headers, status = call.headers(), call.status()
    if status in (429, 503) and int(headers.get("retry-after", "0")) < 1:
        raise Failure("%d without Retry-After" % status)
    if status == 503 and b"is stopping" in call.data and headers.get("connection", "").lower() != "close":
        raise Failure("a refusal that keeps its connection")
    if status == 503 and not signalled:
        raise Failure("503 before the signal: %r" % bytes(call.data[-200:]))


def one_round(draw, totals, notice, calm, slack):
    """notice: seconds after the signal from which readiness must be 503, without those in which the machine stood still;
    calm: there is time to ask for it, and to finish; slack: seconds beside the delay and the timeout."""
    delay, timeout = draw.choice([0, 0, 0.3, notice + 1]), draw.choice([60, 60, 60, 0.2])
    twice, at = draw.random() < 0.2, draw.random() ** 2 * draw.choice([0.3, 2.0])
    if calm:
        delay, timeout, twice = notice + 1, 60, False
    server = harness.Server("--ctx", 256, "--kv-bytes", "64M", "--max-sequences", PLACES, "--max-queue", 600,
                            "--max-connections", 900, "--max-connections-per-ip", 900, "--queue-timeout", 120,
                            "--drain-delay", delay, "--drain-timeout", timeout)  # fmt: skip
    calls, probes, late = swarm.Swarm(server.port), [], []
    began, signalled, second, code = time.monotonic(), None, 0, None
    last, since = began, 0.0  # since the signal
    try:
        wanted = [True] * STREAMS + [False] * WAITING
        goes_on = draw.random() < 0.5  # requests come after the signal too
        if draw.random() < 0.5:
            draw.shuffle(wanted)
        requests = []
        while True:
            now = time.monotonic()
            since += min(now - last, 0.05) if signalled else 0
            last = now
            if wanted and (not signalled or goes_on):
                for _ in range(min(25, len(wanted))):
                    fields = {"prompt": "It was", "max_tokens": draw.choice([4, 30, 120]), "ignore_eos": True,
                              "stream": wanted.pop(0), "seed": len(wanted)}  # fmt: skip
                    close = "Connection: close\r\n" if draw.random() < 0.5 else ""
                    requests.append(calls.send("/v1/completions", fields, close))
            if calm and signalled and not probes and since < notice + 1 and calls.open < 20:  # so that it is still there
                fields = {"prompt": "It was", "max_tokens": 240, "ignore_eos": True}
                requests.append(calls.send("/v1/completions", fields))
            if not signalled and now - began >= at:
                server.process.send_signal(signal.SIGTERM)
                signalled = now
                if twice:
                    twice = now + draw.random() * 0.5
            elif signalled and twice and now >= twice:
                server.process.send_signal(signal.SIGTERM)
                second, twice = now, 0
            if signalled and len(probes) < 12 and since > notice + 0.05 * len(probes):
                probes.append(calls.send("/health/ready"))
                if since > delay + notice:
                    late.append(calls.send("/v1/completions", {"prompt": "a", "max_tokens": 1}))
            calls.poll(0.005)
            asked = probes or second or delay <= notice
            if signalled and asked and not calls.open and not (twice and now < twice):
                break
            if now - began > 135 + slack:
                raise Failure("%d requests have no answer after %.0f s" % (calls.open, now - began))
        try:
            code = server.wait(5 + slack)
        except Exception:
            raise Failure("the process does not leave")
        if code != 0:
            raise Failure("exit code %d" % code)
        took = time.monotonic() - max(signalled, second)
        if took > slack + (0 if second else delay + timeout):
            raise Failure("it took %.1f s to leave after the %s signal" % (took, "second" if second else "first"))
        for call in requests:
            outcome = call.outcome()
            if outcome == "refused" and call.ended < signalled:
                outcome = "lost (refused before the signal)"
            if outcome.startswith("lost"):
                raise Failure(outcome + " %r" % bytes(call.data[-160:]))
            if outcome == "told":
                check_told(call, signalled <= call.ended)
            totals[outcome] = totals.get(outcome, 0) + 1
        for call in probes:
            if call.outcome() != "refused" and call.status() != 503:
                raise Failure("/health/ready said %d after the signal (%s)" % (call.status(), call.outcome()))
            totals["probes"] = totals.get("probes", 0) + (call.status() == 503)
        for call in late:
            outcome = call.outcome()
            if outcome not in ("refused", "told"):
                raise Failure("new work behind the delay: " + outcome)
    finally:
        calls.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        if code != 0:
            print("\n".join(server.log[-20:]))


def main():
    run = check.Check("check-drain", 100, 3)
    totals, failure, bad = {}, None, 0
    i, calm = 0, True
    while i < run.count or (calm and i < run.count + 5):
        try:
            notice, slack = 1.0 if run.quick else 0.2, 240 if run.quick else 15
            one_round(random.Random(run.seed * 100003 + i), totals, notice, calm, slack)
        except Failure as problem:
            bad += 1
            failure = failure or "round %d: %s" % (i, problem)
            print("round %d: %s" % (i, problem), flush=True)
        i += 1
        run.progress(min(i, run.count), run.count, str(totals))
        # where the machine stood still, the server had done all and was gone before it was asked
        calm = run.quick and not totals.get("probes", 0)
    full, probes = totals.get("full", 0), totals.get("probes", 0)
    counts = ("%d rounds of %d streams and %d behind them: %d full, %d told, %d came too late, readiness 503 %d times, "
              "%d bad rounds") % (i, STREAMS, WAITING, full, totals.get("told", 0), totals.get("refused", 0),
                                  probes, bad)  # fmt: skip
    if not full or not probes:
        failure = failure or ("readiness was never seen to be 503" if full else "no full result")
    run.verdict(bad == 0 and full > 0 and probes > 0, counts, failure)


main()
