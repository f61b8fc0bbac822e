"""Time to the first token of a prompt of 2,000 tokens: the first time, again, and with a question of its own behind it.

    python3 tests/bench/bench_prefix.py ROOT BUILD [MODEL] [ROUNDS]

Every round has a cache_salt of its own, so its first request finds nothing. Prints the median of each."""
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

TOKENS, NEW = 2000, 32
MODEL = sys.argv[3] if len(sys.argv) > 3 else "smollm2"
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 3


def first_token(server, ids, salt):
    """-> seconds until the first frame with text, cached tokens"""
    begin = time.time()
    link = server.open_stream(prompt=ids, max_tokens=2, temperature=0, ignore_eos=True, cache_salt=salt,
                              stream_options={"include_usage": True})
    got = b""
    while b"data: " not in got:
        got += harness.read_some(link)
    seconds = time.time() - begin
    while b"[DONE]" not in got:
        got += harness.read_some(link)
    link.close()
    return seconds, int(got.split(b'"cached_tokens":')[1].split(b"}")[0])


with harness.Server("--max-sequences", "2", model=MODEL) as server:
    with open(os.path.join(harness.ROOT, "models", "austen", "heldout.txt")) as file:
        ids = server.post("/tokenize", {"prompt": file.read(60000)}).json()["tokens"][:TOKENS + NEW]
    assert len(ids) == TOKENS + NEW
    cases = {"first": [], "again": [], "another question": []}
    for round_ in range(ROUNDS):
        salt = "round %d" % round_
        for name, prompt in (("first", ids[:TOKENS]), ("again", ids[:TOKENS]), ("another question", ids[:TOKENS - NEW] + ids[TOKENS:])):
            seconds, cached = first_token(server, prompt, salt)
            assert (cached == 0) == (name == "first")
            cases[name].append(seconds)
    for name, seconds in cases.items():
        print("%-18s %8.3f s" % (name, statistics.median(seconds)))
