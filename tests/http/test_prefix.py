"""Prompts that begin alike: pages of an earlier or a running request are reused, with the same bytes in the answer; not
between API keys unless --share-prefixes says so, not between salts, not where every row of the prompt is needed."""
import json
import os
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

ONE, TWO = "first-key-00001", "second-key-00002"
IDS = [(i * i * 7 + i * 13) % 4000 + 5 for i in range(600)]
SEEDED = dict(max_tokens=8, seed=11, logprobs=3, return_token_ids=True)


def keyed(folder, *options):
    """A server with two keys."""
    path = os.path.join(folder, "keys")
    with open(path, "w") as file:
        file.write(ONE + "\n" + TWO + "\n")
    return harness.Server("--api-key-file", path, *options)


def complete(server, key=None, **fields):
    headers = {"Authorization": "Bearer " + key} if key else None
    reply = server.post("/v1/completions", fields, headers)
    assert reply.status == 200, reply
    return reply.json()


def cached(value):
    return value["usage"]["prompt_tokens_details"]["cached_tokens"]


def same_answer(a, b):
    assert json.dumps(a["choices"]) == json.dumps(b["choices"]), (a["choices"], b["choices"])


def test_reuse_changes_no_byte():
    with harness.Server() as server:
        for attention in ("dense", "strided", {"backend": "sparsefinder", "params": {"grouping": "cluster"}}, "window"):
            fields = dict(SEEDED, prompt=IDS[:300], attention=attention)
            first = complete(server, **fields)
            again = complete(server, **fields)
            assert (cached(first), cached(again)) == (0, 256), attention
            same_answer(first, again)
            assert first["attention_report"]["prefill"]["tokens"] == 300, first["attention_report"]
            assert again["attention_report"]["prefill"]["tokens"] == 44, "rows that were computed"
            for length, expected in ((64, 0), (65, 64), (128, 64), (129, 128), (320, 256)):
                own = complete(server, **dict(fields, prompt=IDS[:length]))
                alone = complete(server, **dict(fields, prompt=IDS[:length], cache_salt="alone %d" % length))
                assert (cached(own), cached(alone)) == (expected, 0), (attention, length)
                same_answer(own, alone)


def test_turns_of_a_conversation():
    with harness.Server("--chat-template", "plain") as server:
        first = complete(server, prompt=IDS[:100], max_tokens=120, temperature=0, ignore_eos=True, return_token_ids=True)
        answer = first["choices"][0]["token_ids"]
        turn = dict(SEEDED, prompt=IDS[:100] + answer + IDS[300:350])
        second = complete(server, **turn)
        assert cached(second) == 192, "100 read and 119 written tokens whose keys are known: three pages"
        same_answer(second, complete(server, **dict(turn, cache_salt="alone")))

        messages = [{"role": "system", "content": "You answer like a lady of the country. " * 12},
                    {"role": "user", "content": "Who is Emma?"}]
        fields = dict(max_tokens=150, temperature=0, messages=messages)
        first = server.post("/v1/chat/completions", fields).json()
        known = first["usage"]["prompt_tokens"]
        assert cached(first) == 0 and known > 100, first["usage"]
        messages += [first["choices"][0]["message"], {"role": "user", "content": "And Mr Knightley?"}]
        second = server.post("/v1/chat/completions", fields).json()
        assert cached(second) >= (known - 1) // 64 * 64, (known, second["usage"])
        alone = server.post("/v1/chat/completions", dict(fields, cache_salt="alone")).json()
        assert cached(alone) == 0
        same_answer(second, alone)


def test_running_requests_share():
    with harness.lasting() as server:
        link = server.open_stream(prompt=IDS[:400], max_tokens=harness.ENDLESS - 400, temperature=0, ignore_eos=True)
        harness.read_some(link, 600)  # its prompt is read
        running = complete(server, **dict(SEEDED, prompt=IDS[:400]))
        assert server.gauge("sparsed_num_requests_running") == 1 and cached(running) == 384
        link.close()
        server.until_idle()
        replies = [None] * 6
        def ask(i):
            replies[i] = complete(server, **dict(SEEDED, prompt=IDS[:500], cache_salt="together"))
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(replies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for reply in replies:
            same_answer(replies[0], reply)
        assert sum(cached(r) < 448 for r in replies) >= 1
        later = complete(server, **dict(SEEDED, prompt=IDS[:500], n=3))
        assert cached(later) == 384, "each prompt is counted once"


def test_keys_and_salts():
    for options, shared in (((), 0), (("--share-prefixes",), 192)):
        with tempfile.TemporaryDirectory() as folder, keyed(folder, *options) as server:
            fields = dict(SEEDED, prompt=IDS[:200])
            first = complete(server, ONE, **fields)
            assert cached(first) == 0
            assert cached(complete(server, ONE, **fields)) == 192
            other = complete(server, TWO, **fields)
            assert cached(other) == shared, "another key's prompt"
            same_answer(first, other)
            salted = complete(server, ONE, cache_salt="a", **fields)
            assert cached(salted) == 0, "a salt of its own"
            assert cached(complete(server, ONE, cache_salt="a", **fields)) == 192
            assert cached(complete(server, ONE, cache_salt="b", **fields)) == 0
            assert cached(complete(server, TWO, cache_salt="a", **fields)) == shared
            assert cached(complete(server, ONE, cache_salt="", **fields)) == 192
            same_answer(first, salted)
            limits = server.get("/v1/limits", headers={"Authorization": "Bearer " + ONE}).json()
            assert limits["share_prefixes"] is bool(options)


def test_what_needs_every_row():
    with harness.Server() as server:
        plain = dict(SEEDED, prompt=IDS[:200], max_tokens=2)
        first = complete(server, **dict(plain, echo=True))
        again = complete(server, **dict(plain, echo=True))
        assert cached(first) == cached(again) == 0
        same_answer(first, again)
        measured = {"backend": "window", "measure": True}
        one, two = complete(server, **dict(plain, attention=measured)), complete(server, **dict(plain, attention=measured))
        assert cached(one) == cached(two) == 0
        assert one["attention_report"]["heads"] == two["attention_report"]["heads"]
        captured = complete(server, **dict(plain, attention={"backend": "dense", "capture": True}))
        assert cached(captured) == 0
        assert cached(complete(server, **plain)) == 192, "but others may reuse what they computed"
        whole = {"backend": "sparsefinder", "params": {"grouping": "block"}, "decode": "dense"}
        first, again = (complete(server, **dict(plain, attention=whole)) for _ in range(2))
        assert cached(first) == cached(again) == 0, "rows that knew later tokens"
        same_answer(first, again)
        mean = dict(input=[IDS[:200]])
        last = dict(mean, pooling="last")
        replies = [server.post("/v1/embeddings", fields).json()["data"] for fields in (mean, mean, last, last)]
        assert replies[0] == replies[1] and replies[2] == replies[3]


def test_captures_hold_pages():
    """A capture's pages are taken by others, outlive it while others use them, and are kept after it."""
    fields = dict(SEEDED, prompt=IDS[:200], max_tokens=60, ignore_eos=True)
    with harness.Server("--ctx", "512", "--kv-bytes", "8M", "--max-sequences", "4") as server:
        def pages():
            return server.gauge("sparsed_kv_pages_used"), server.gauge("sparsed_kv_pages_cached")
        captured = complete(server, **dict(fields, attention={"backend": "dense", "capture": True}))
        capture = "/v1/attention/captures/" + captured["attention_id"]
        assert pages() == (0, 0), "they are the capture's"
        taken = complete(server, **fields)
        assert cached(taken) == 192 and pages() == (0, 0)
        same_answer(captured, taken)
        row = server.get(capture + "/heads/0/0/rows/150")
        assert row.status == 200, row
        link = server.open_stream(**dict(fields, max_tokens=200, stream_options={"include_usage": True}))
        got = harness.read_some(link, 300)
        assert server.get(capture + "/heads/0/0/rows/150").body == row.body
        assert server.request("DELETE", capture).status in (200, 204)
        while b"[DONE]" not in got:
            got += harness.read_some(link)
        link.close()
        server.until_idle()
        assert b'"cached_tokens":192' in got
        assert pages() == (0, 6), "all full pages of 200 and 199 tokens"
        again = complete(server, **fields)
        assert cached(again) == 192
        same_answer(captured, again)
        first = complete(server, **dict(fields, attention={"backend": "dense", "capture": True}))
        for i in range(12):  # others need the room of the idle capture at last
            complete(server, prompt=[i + 9] + IDS[:400], max_tokens=100, ignore_eos=True)
        kept = server.get("/v1/attention/captures/" + first["attention_id"])
        assert kept.status == 200, "what is kept for nobody goes before a capture"
        assert pages()[0] == 0


def test_pages_and_metrics():
    """A small pool: what is kept makes room, oldest first, and everything adds up."""
    with harness.Server("--ctx", "512", "--kv-bytes", "8M", "--max-sequences", "4") as server:
        def gauges():
            return {name: server.gauge("sparsed_" + name) for name in (
                "kv_pages_cached", "kv_pages_used", "prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total")}
        pages = server.get("/v1/limits").json()["kv_tokens"] / 64
        assert 8 <= pages <= 32, pages
        before = gauges()
        for _ in range(2):
            for i in range(12):
                complete(server, prompt=[i + 5] + IDS[:260], max_tokens=2)
                now = gauges()
                assert now["kv_pages_cached"] <= pages and now["kv_pages_used"] == 0, now
        assert now["kv_pages_cached"] > pages - 6, "the pool is full of what may come again"
        recent = complete(server, prompt=[16] + IDS[:260], max_tokens=2)
        assert cached(recent) == 256
        oldest = complete(server, prompt=[5] + IDS[:260], max_tokens=2)
        assert cached(oldest) == 0
        now = gauges()
        asked, hits, read = (now[name] - before[name] for name in (
            "prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total"))
        assert (asked, hits, read) == (26 * 261, 256, asked - hits), (asked, hits, read)


harness.main(globals())
