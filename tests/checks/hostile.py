"""Hostile requests, one after another, and behind each a valid one whose answer must have the bytes it had at first.

The rows are those of support/hostile_rows.py. A row fails when the number of replies, a status, the envelope, the field
that it names or the end of the connection is another than expected, when anything is 500 or worse, or when the valid
request after it (in turn a completion with logprobs, a sampled one, a chat, a score, an embedding) differs from its
baseline in any byte but ids, times and cached tokens. At the end nothing may run, and descriptors are as many as before.

Rows of the group "lenient" are what libmicrohttpd 0.9.75 takes before we can see it; each must be named in SECURITY.md.
"""
import json
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import check
import harness
import hostile_rows
from hostile_replies import stripped

OPTIONS = ("--body-timeout", "1.5", "--header-timeout", "1.5", "--capture-max-bytes", "4M", "--graph-dense-values", "100000",
           "--graph-edges", "20000", "--chat-template", "plain", "--max-body-bytes", "1M")  # fmt: skip
PROMPT = "It is a truth universally acknowledged, that a single man in possession of a good fortune"
VALID = [
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 5, "temperature": 0, "logprobs": 5, "return_token_ids": True}),
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 6, "seed": 7, "n": 2, "attention": {"backend": "window", "params": {"window": 9}}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4, "seed": 3, "logprobs": True, "top_logprobs": 3}),
    ("/v1/score", {"input": PROMPT}),
    ("/v1/embeddings", {"input": PROMPT, "encoding_format": "base64"}),
]  # fmt: skip


def ask_valid(server, i):
    path, body = VALID[i % len(VALID)]
    reply = server.post(path, body)
    assert reply.status == 200, "the valid request after it: %r" % reply
    return json.dumps(stripped(reply.json()), sort_keys=True)


def allowed(status, wanted):
    return status in wanted if isinstance(wanted, set) else status == wanted


def check_envelope(row, reply):
    if reply.status < 400 or not reply.headers.get("content-type", "").startswith("application/json") or not reply.body:
        return
    error = reply.error()
    assert error["code"] == reply.status and error["message"] and error["type"], "the envelope: %r" % error
    if row.param is not None:
        names = row.param if isinstance(row.param, tuple) else (row.param,)
        assert error["param"] in names, "param is %r, not %r" % (error["param"], row.param)


def check_row(server, row):
    """-> whether the library let something through that it should have refused."""
    for _ in range(3):
        replies, closed = row.send(server)
        seen = [reply.status for reply in replies]
        if 408 not in seen or not server.late or row.statuses[0] == "early":
            break  # else this process stood still before it had sent all
    if row.statuses[0] == "early":  # the library's own pages, or a close
        assert all(status in (0, 400, 408, 411, 413, 414, 431, 505) for status in seen), "statuses %r" % seen
        return False
    if row.statuses[0] == "lenient":
        assert seen == row.statuses[1:] or seen in ([400], [], [0]), "statuses %r" % seen
        return seen == row.statuses[1:]
    assert all(status < 500 for status in seen), "statuses %r" % seen
    good = len(seen) == len(row.statuses) and all(map(allowed, seen, row.statuses))
    assert good, "statuses %r, not %r: %r" % (seen, row.statuses, replies)
    assert row.closed in (None, closed), "the connection stays open"
    for reply in replies:
        check_envelope(row, reply)
    return False


def capture(server, **fields):
    reply = server.post(hostile_rows.CAPTURES, fields)
    assert reply.status == 201, reply
    return reply.json()


def rows_of(server):
    limits, paths = server.get("/v1/limits").json(), server.get("/openapi.json").json()["paths"]
    backends = server.get("/v1/attention/backends").json()["data"]
    vocab = server.get("/tokenizer_info").json()["vocab_size"]
    small, large = capture(server, input=PROMPT), capture(server, input=[5 + i % 50 for i in range(400)], layers=[0])
    return hostile_rows.every_row(limits, backends, paths, vocab, small, large)


def named_in_security(row):
    with open(os.path.join(harness.ROOT, "SECURITY.md"), encoding="utf-8") as file:
        return row.param in " ".join(file.read().replace("**", "").split())


def descriptors(server):
    return len(os.listdir("/proc/%d/fd" % server.process.pid))


def settled(server, wanted):
    server.until_idle()
    deadline = time.time() + 60
    while time.time() < deadline:
        if descriptors(server) <= wanted:
            return
        time.sleep(0.05)
    raise AssertionError("%d descriptors, %d before" % (descriptors(server), wanted))


def main():
    run = check.Check("hostile", full=0, quick=500)
    failure, failed, lenient, groups, n = None, 0, 0, {}, 0
    with harness.Server(*OPTIONS) as server:
        baseline = [ask_valid(server, i) for i in range(len(VALID))]
        rows = rows_of(server)
        total = len(rows)
        draw = random.Random(run.seed)
        if 0 < run.count < total:  # a sample with every group in it
            rows = [rows[i] for i in sorted(draw.sample(range(total), run.count))]
        before = descriptors(server)
        for n, row in enumerate(rows, 1):
            try:
                through = check_row(server, row)
                assert not through or named_in_security(row), "let through and not named in SECURITY.md"
                assert ask_valid(server, n) == baseline[n % len(VALID)], "the valid request after it has other bytes"
                lenient += through
            except (AssertionError, OSError, ValueError, KeyError) as error:
                failed += 1
                failure = failure or "%s, %s: %s" % (row.group, row.name, str(error)[:400])
                print("hostile: %s, %s: %s" % (row.group, row.name, str(error)[:300]), flush=True)
                if server.process.poll() is not None:
                    break
            groups[row.group] = groups.get(row.group, 0) + 1
            run.progress(n, len(rows), row.group)
        if server.process.poll() is None:
            settled(server, before)
    counts = "%d rows (%s), each with a valid request after it, %d failed, %d let through by the library and named in SECURITY.md" % (
        n, ", ".join("%s %d" % item for item in groups.items()), failed, lenient)
    run.verdict(failed == 0 and n >= 400, counts, failure)


if __name__ == "__main__":
    main()
