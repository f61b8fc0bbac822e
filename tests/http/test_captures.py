"""Captures over HTTP: what a body may ask, tokens and labels, captured generation, the byte budget and who leaves first,
expiry, owners, clients that leave while a head is computed."""
import base64
import json
import os
import shutil
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import fit_file
import harness
import tiny_model

PATH = "/v1/attention/captures"
ROOM = tempfile.mkdtemp(prefix="sparsed-captures-")
TINY = os.path.join(ROOM, "tiny")
tiny_model.CONFIG["max_position_embeddings"] = 16384
tiny_model.write(TINY)
MANY = 16000  # tokens
TEXT = "The the\n the \u00e9\u4f60 <b>&\"x\"</script> # 5%+ \x7f \U0001f600"


def capture(server, status=201, headers=None, **fields):
    reply = server.post(PATH, dict({"input": "the cat"}, **fields), headers=headers)
    assert reply.status == status, reply
    return reply.json()


def refused(server, param, status=400, **fields):
    error = capture(server, status, **fields)["error"]
    assert error["param"] == param and error["code"] == status, error
    return error["message"]


def used(server):
    return server.get("/v1/limits").json()["capture_bytes_used"]


def come_to(server, size):
    """What a request held goes when its thread gets to it: a moment after its answer on a busy machine."""
    harness.until(lambda: used(server) == size)


def get(server, one, path="", status=200):
    reply = server.get(PATH + "/" + one["id"] + path)
    assert reply.status == status, (path, reply)
    return reply.json()


def ready(server, one, seconds=60):
    deadline = time.time() + seconds
    while True:
        state = get(server, one)
        if state["state"] != "running":
            return state
        assert time.time() < deadline, state
        time.sleep(0.02)


def ask_until(server, path, seconds=120):
    """GET that takes 202 as "ask again"."""
    deadline, progress = time.time() + seconds, []
    while True:
        reply = server.get(path)
        if reply.status != 202:
            return reply, progress
        assert int(reply.headers["retry-after"]) >= 1 and 0 <= reply.json()["progress"] <= 1
        progress.append(reply.json()["progress"])
        assert time.time() < deadline
        time.sleep(0.2)


def test_bodies():
    with harness.Server(model=TINY) as server:
        refused(server, "input", input=None)
        refused(server, "input", input=[])
        refused(server, "input", input=[1, 260])
        refused(server, "input", input={"text": "x"})
        refused(server, "pair", pair="another text")
        refused(server, "target", target="un texte")
        refused(server, "model", 404, model="nobody")
        refused(server, "depth", depth=3)
        refused(server, "layers", layers=[2])
        refused(server, "layers", layers=[])
        refused(server, "heads", heads=[-1])
        refused(server, "heads", heads="all")
        assert "mass" in refused(server, "gold", gold={"normalizer": "softmax"})
        refused(server, "gold", gold={"normalizer": "entmax15", "mass": 0.9})
        refused(server, "gold", gold={"normalizer": "softmax", "mass": 0.9, "top_k": 3})
        refused(server, "gold", gold={"norm": "softmax"})
        refused(server, "gold.mass", gold={"normalizer": "softmax", "mass": 0})
        refused(server, "gold.top_k", gold={"normalizer": "softmax", "top_k": 0})
        refused(server, "gold.min_weight", gold={"normalizer": "softmax", "min_weight": 2})
        refused(server, "gold.normalizer", gold={"normalizer": {"alpha": 3}})
        for bad in ("nothing", 5, [], {}, {"alpha": "2"}, {"alpha": 1.5, "beta": 1}):
            refused(server, "gold.normalizer", gold={"normalizer": bad})
        refused(server, "labels", labels=["a"])
        refused(server, "labels.pos", labels={"pos": ["X"]})
        refused(server, "labels.pos", labels={"pos": [1] * 5})
        refused(server, "attention.backend", attention={"backend": "nothing"})
        refused(server, "attention.capture", attention={"capture": True})
        refused(server, "attention.capture.layers", status=400, attention={"capture": {"layers": [9]}})
        error = capture(server, 400, input=[1] * 20000)["error"]
        assert error["type"] == "exceed_context_size_error" and error["n_prompt_tokens"] == 20000
        some = capture(server, layers=[1], heads=[1], gold={"normalizer": {"alpha": 1.25}})
        assert (some["layers"], some["heads"]) == ([1], [1])
        assert some["provenance"]["gold"] == {"normalizer": {"alpha": 1.25}}
        assert get(server, some, "/heads/0/1/edges", 404)["error"]["param"] == "layer"
        assert get(server, some, "/heads/1/0/edges", 404)["error"]["param"] == "head"
        assert get(server, some, "/heads/1/1/edges")["edges_total"] > 0
        score = server.post("/v1/score", {"input": "the", "attention": {"capture": True}})
        assert score.status == 400 and score.error()["param"] == "attention.capture", score
        assert used(server) > 0
        assert server.request("DELETE", PATH + "/" + some["id"]).status == 200
        assert get(server, some, status=404)["error"]["param"] == "id"


def test_model_hash():
    """A capture says which weights it ran on, though no fit is loaded: SHA-256 of the stored query and key projections."""
    wanted = fit_file.fingerprint()
    with harness.Server(model=TINY) as server:
        one = capture(server)
        assert one["provenance"]["model_hash"] == wanted, one
        for name in ("svg", "safetensors"):
            shown = server.get(PATH + "/%s/export?layer=0&head=0&format=%s" % (one["id"], name)).body
            assert (b"weights " + wanted[:12].encode() if name == "svg" else wanted.encode()) in shown


def test_tokens():
    with harness.Server(model=TINY) as server:
        count = len(server.post("/tokenize", {"content": TEXT, "add_special": False}).json()["tokens"])
        labels = ["L%d" % (i % 3) for i in range(count)]
        one = capture(server, input=TEXT, labels={"pos": labels, "other": ["<&>"] * count})
        data = get(server, one, "/tokens")["data"]
        assert [t["index"] for t in data] == list(range(count)) and one["n_query"] == count
        assert b"".join(base64.b64decode(t["bytes"]) for t in data) == TEXT.encode()
        assert [t["labels"] for t in data] == [{"pos": label, "other": "<&>"} for label in labels]
        half = [t for t in data if base64.b64decode(t["bytes"]) == b"\xc3"]
        assert len(half) == 1 and half[0]["text"] == "\ufffd"
        assert [t["index"] for t in get(server, one, "/tokens?from=2&to=5")["data"]] == [2, 3, 4]
        found = get(server, one, "/tokens?q=T")["data"]
        assert [t["index"] for t in found] == [t["index"] for t in data if "t" in t["text"].lower()] and len(found) > 3
        special = capture(server, input=[0, 5, 0])
        assert [t["special"] for t in get(server, special, "/tokens")["data"]] == [True, False, True]
        for character in "&#%+ ":
            assert get(server, one, "/tokens?q=%%%02X" % ord(character))["data"], character


def slices(server, one):
    return [[get(server, one, "/heads/%d/%d/edges" % (l, h)) for h in one["heads"]] for l in one["layers"]]


def test_generation():
    """Rows of a captured generation are those of one full pass, and its text is that of one without."""
    ask = {"prompt": "the quick brown fox and the lazy dog", "max_tokens": 64, "temperature": 0.8, "seed": 3,
           "ignore_eos": True, "return_token_ids": True}
    with harness.Server("--threads", "2") as server:
        plain = server.complete(**ask).json()
        caught = server.complete(attention={"capture": True}, **ask).json()
        assert "attention_id" not in plain and plain["choices"] == caught["choices"]
        for report in (plain, caught):
            for phase in ("prefill", "decode"):
                report["attention_report"][phase].pop("predict_seconds")
                report["attention_report"][phase].pop("attend_seconds")
        assert plain["attention_report"] == caught["attention_report"] and plain["usage"] == caught["usage"]
        ids = caught["choices"][0]["prompt_token_ids"] + caught["choices"][0]["token_ids"]
        one = get(server, {"id": caught["attention_id"]})
        assert one["state"] == "ready" and one["n_query"] == len(ids) == caught["usage"]["total_tokens"]
        assert [t["id"] for t in get(server, one, "/tokens")["data"]] == ids
        full = capture(server, input=ids)
        for ours, theirs in zip(slices(server, one), slices(server, full)):
            for a, b in zip(ours, theirs):
                assert a["indptr"] == b["indptr"] and a["indices"] == b["indices"]
                assert max(abs(x - y) for x, y in zip(a["weights"], b["weights"])) < 1e-4
        for _ in range(2):
            server.until_idle()

        frames = stream(server, attention={"capture": {"layers": [1], "heads": [0, 2]}}, **ask)
        named = [i for i, f in enumerate(frames) if "attention_id" in f]
        ends = [i for i, f in enumerate(frames) if f["choices"] and f["choices"][0]["finish_reason"]]
        assert named == [0, ends[0]] and len({frames[i]["attention_id"] for i in named}) == 1
        text = "".join(f["choices"][0]["text"] for f in frames if f["choices"])
        assert text == plain["choices"][0]["text"]
        some = get(server, {"id": frames[0]["attention_id"]})
        assert (some["layers"], some["heads"], some["n_query"]) == ([1], [0, 2], len(ids))

        several = server.complete(attention={"capture": True}, n=2, **ask).json()
        assert "attention_id" not in several
        names = [c["attention_id"] for c in several["choices"]]
        assert len(set(names)) == 2 and several["choices"][0]["text"] == plain["choices"][0]["text"]
        nothing = server.complete(prompt="the", max_tokens=0, attention={"capture": True}).json()
        assert get(server, {"id": nothing["attention_id"]})["n_query"] == nothing["usage"]["prompt_tokens"]
        chat = server.complete(prompt="the", max_tokens=3, attention={"backend": "window", "capture": True})
        assert get(server, {"id": chat.json()["attention_id"]})["provenance"]["backend"] == "window"
        server.until_idle()
        assert server.gauge("sparsed_kv_pages_used") == 0


def stream(server, **fields):
    link = server.connect(60.0)
    body = json.dumps(dict(fields, stream=True)).encode()
    link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                 b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    reply = harness.parse_replies(harness.read_all(link))[0]
    frames = harness.frames(reply.body)
    assert reply.status == 200 and frames[-1] == "[DONE]", reply
    return [json.loads(frame) for frame in frames[:-1]]


def test_cancelled_generation():
    """Who leaves a captured stream leaves no capture."""
    with harness.lasting("--threads", "1") as server:
        link = server.open_stream(prompt="the", max_tokens=harness.ENDLESS, ignore_eos=True, attention={"capture": True})
        harness.read_some(link, 400)
        assert used(server) > 0
        link.close()
        server.until_idle()
        come_to(server, 0)


def test_budget():
    """Too large is refused by name; the least recently used goes first and is 410; 16 clients never pass the budget."""
    with harness.Server("--capture-bytes", "1M", "--capture-max-bytes", "300K", model=TINY) as server:
        message = refused(server, "layers", 413, input=[5] * 4000)
        assert "capture_max_bytes" in message
        come_to(server, 0)
        first = capture(server, input=[5] * 600)
        size = first["bytes"]
        kept = [first] + [capture(server, input=[5] * 600) for _ in range(1048576 // size - 1)]
        come_to(server, len(kept) * size)
        get(server, kept[0], "/tokens?from=0&to=1")
        get(server, kept[1])  # the state is no use
        fresh = capture(server, input=[5] * 600)
        assert get(server, kept[1], status=410)["error"]["type"] == "not_found_error"
        assert get(server, kept[1], "/heads", status=410)
        assert get(server, kept[0])["state"] == "ready" and get(server, fresh)["state"] == "ready"
        get(server, {"id": "attn-unknown"}, status=404)
        come_to(server, len(kept) * size)
        assert server.request("DELETE", PATH + "/" + fresh["id"]).json()["deleted"] is True
        come_to(server, (len(kept) - 1) * size)
        get(server, fresh, status=404)

        most, failures, stop = [0], [], threading.Event()

        def watch():
            while not stop.is_set():
                most[0] = max(most[0], used(server))

        def client(seed):
            for i in range(6):
                reply = server.post(PATH, {"input": [1 + (seed + i) % 200] * (100 + 40 * seed)})
                if reply.status == 201:
                    answer = server.get(PATH + "/" + reply.json()["id"] + "/heads/0/0/edges?limit=5")
                    if answer.status not in (200, 202, 410, 413):  # 202: it takes longer than a client is kept waiting
                        failures.append(answer)
                elif reply.status not in (429, 503):
                    failures.append(reply)

        watcher = threading.Thread(target=watch)
        clients = [threading.Thread(target=client, args=(seed,)) for seed in range(16)]
        for thread in [watcher] + clients:
            thread.start()
        for thread in clients:
            thread.join()
        stop.set()
        watcher.join()
        assert not failures, failures[:3]
        assert 0 < most[0] <= 1048576, most
        server.until_idle()


def test_expiry():
    with harness.Server("--capture-expiry", "1", model=TINY) as server:
        begin = time.time()
        one = capture(server)
        assert begin - 1 <= one["expires"] <= time.time() + 2.5
        time.sleep(1.3)
        get(server, one, status=410)
        come_to(server, 0)
        server.until_idle()


def test_pages_come_back():
    """A request that needs the pages of captures gets them."""
    with harness.Server("--kv-bytes", "1M", "--ctx", "1024", "--max-sequences", "1", model=TINY) as server:
        kept = [capture(server, input=[7] * 900) for _ in range(12)]
        reply = server.complete(prompt=[5] * 900, max_tokens=100, temperature=0)
        assert reply.status == 200, reply
        states = [server.get(PATH + "/" + one["id"]).status for one in kept]
        assert states == sorted(states, reverse=True) and 410 in states


def test_owners():
    """A capture is for the key that made it."""
    path = os.path.join(ROOM, "keys")
    with open(path, "w", encoding="utf-8") as file:
        file.write("first-key\nsecond-key\n")
    with harness.Server("--api-key-file", path, model=TINY) as server:
        mine, other = {"Authorization": "Bearer first-key"}, {"Authorization": "Bearer second-key"}
        one = capture(server, headers=mine)
        gone, missing = capture(server, headers=mine), {"id": "attn-" + 24 * "0"}
        for where in ("", "/heads", "/tokens"):
            assert server.get(PATH + "/" + one["id"] + where, headers=mine).status == 200
            assert server.get(PATH + "/" + one["id"] + where, headers=other).status == 404
        assert server.request("DELETE", PATH + "/" + gone["id"], headers=mine).status == 200

        def answers(which):
            """Of the other key, to everything about one capture."""
            for method, where in (("GET", ""), ("GET", "/heads"), ("GET", "/tokens"), ("GET", "/heads/0/0/edges"), ("DELETE", ""),
                                  ("GET", "/nonsense")):  # fmt: skip
                yield server.request(method, PATH + "/" + which["id"] + where, headers=other)
            yield server.post(PATH + "/" + which["id"] + "/sweep", {}, other)
            yield server.get("/v1/attention/compare?a=%s&b=%s&layer=0&head=0" % (2 * (which["id"],)), headers=other)

        for replies in zip(*(answers(which) for which in (one, gone, missing))):
            assert replies[0].status == 404, replies
            texts = {(reply.status, reply.body.replace(which["id"].encode(), b"ID"))
                     for reply, which in zip(replies, (one, gone, missing))}  # fmt: skip
            assert len(texts) == 1, "another key's capture, one that is gone and one that never was are the same: %s" % texts
        assert server.request("DELETE", PATH + "/" + one["id"], headers=mine).status == 200


def write_slow(folder):
    """The tiny model with 16 heads: a graph of all of them over MANY tokens takes seconds."""
    kept = tiny_model.HEADS, tiny_model.LAYERS, dict(tiny_model.CONFIG)
    tiny_model.HEADS = tiny_model.LAYERS = 4
    tiny_model.CONFIG.update(num_attention_heads=4, num_hidden_layers=4)
    tiny_model.write(folder)
    tiny_model.HEADS, tiny_model.LAYERS = kept[:2]
    tiny_model.CONFIG.update(kept[2])
    return folder


def slow_server():
    return harness.Server("--threads", "2", "--graph-jobs", "1", "--step-ms", "10", model=write_slow(os.path.join(ROOM, "slow")))


def many():
    return [1 + (i * i) % 250 for i in range(MANY)]


def reset(link):
    link.setsockopt(1, 13, struct.pack("ii", 1, 0))
    link.close()


def long_one(server):
    """A capture whose prompt is being read; where this process stood still until it was, another one."""
    for _ in range(20):
        one = capture(server, input=many())
        rows = [row for row in listed(server) if row["id"] == one["id"]]
        if one["state"] == "running" and rows:
            return one, rows[0]
        assert server.request("DELETE", PATH + "/" + one["id"]).status == 200
    raise AssertionError("a long input is never answered before it is read")


def jobs_running(server):
    return server.gauge("sparsed_graph_jobs_running")


def test_long():
    """A long input is answered at once and shows its progress; others stream while its heads are made; who leaves stops
    the making, and the next one goes on from there."""
    with slow_server() as server:
        one, _ = long_one(server)
        assert one["n_query"] < MANY
        early = server.get(PATH + "/" + one["id"] + "/heads/0/0/edges")
        assert early.status in (200, 202), early
        state = ready(server, one, 240)
        assert state["state"] == "ready" and state["n_query"] == MANY
        link = asking(server, PATH + "/" + one["id"] + "/aggregate?op=mean&limit=10")
        harness.until(lambda: jobs_running(server) == 1)
        other = server.complete(prompt="the", max_tokens=20, ignore_eos=True)
        assert other.status == 200 and jobs_running(server) == 1, "it waited for the graph"
        harness.until(lambda: any(h["progress"] > 0 for h in get(server, one)["cached_heads"]), 120)
        reset(link)
        harness.until(lambda: jobs_running(server) == 0)
        cached = get(server, one)["cached_heads"]
        assert sum(h["progress"] == 1 for h in cached) < 16 and all(h["bytes"] > 0 for h in cached), cached
        assert any(h["progress"] > 0 for h in cached), cached  # the last one may have no row yet
        left = cached[-1]
        reply, _ = ask_until(server, PATH + "/%s/heads/%d/%d/edges?limit=10" % (one["id"], left["layer"], left["head"]), 240)
        assert reply.status == 200 and reply.json()["edges_total"] > MANY
        (made,) = [h for h in get(server, one)["cached_heads"] if (h["layer"], h["head"]) == (left["layer"], left["head"])]
        assert made["progress"] == 1 and made["seconds"] > 0
        heads = server.get(PATH + "/" + one["id"] + "/heads").json()
        assert heads["total"] == 16 and heads["done"] >= 1
        assert all(("recall" in r) == (r["state"] == "ready") for r in heads["data"])
        running = capture(server, input=many())
        assert server.request("DELETE", PATH + "/" + running["id"]).status == 200
        server.until_idle()
        get(server, running, status=404)


def listed(server, **more):
    return server.get("/v1/requests", **more).json()["data"]


def asking(server, path):
    """A query that nobody reads yet."""
    link = server.connect()
    link.sendall(("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path).encode())
    return link


def test_requests():
    """Captures, graph queries and sweeps are listed while they run, end by DELETE, and when their client leaves."""
    with slow_server() as server:
        assert listed(server) == []
        for _ in range(20):
            one, running = long_one(server)
            reply = server.request("DELETE", "/v1/requests/" + one["id"])
            if reply.status == 200:  # else it was read by then
                break
        assert set(running) == {"id", "route", "state", "tokens", "seconds"} and running["id"] == one["id"], running
        assert running["route"] == PATH and running["state"] in ("waiting", "prefill") and running["seconds"] >= 0
        assert reply.json()["cancelled"] is True
        get(server, one, status=404)
        server.until_idle()
        assert listed(server) == []

        one = capture(server, input=many())
        ready(server, one, 240)
        assert listed(server) == []
        path = PATH + "/" + one["id"] + "/aggregate?op=%s&limit=10&min_weight=0.123"
        links = [asking(server, path % "mean")]
        harness.until(lambda: [r["state"] for r in listed(server)] == ["running"])
        links.append(asking(server, path % "max"))
        states = ["running", "waiting"]
        both = harness.until(lambda: [rows for rows in [listed(server)] if sorted(r["state"] for r in rows) == states])[0]
        assert all(r["id"].startswith("req-") for r in both), both
        assert all(r["route"].startswith(PATH + "/{") and "0.123" not in json.dumps(r) for r in both), both
        first = next(r for r in both if r["state"] == "running")
        assert server.request("DELETE", "/v1/requests/" + first["id"]).status == 200
        reply = harness.parse_replies(harness.read_all(links[0]))[0]
        assert reply.status == 409 and reply.error()["type"] == "conflict_error", reply
        harness.until(lambda: [r["state"] for r in listed(server)] == ["running"])  # a thread is free for the other
        reset(links[1])
        harness.until(lambda: listed(server) == [])
        harness.until(lambda: jobs_running(server) == 0)

        reply = server.post(PATH + "/" + one["id"] + "/sweep", {"attention": "window", "grid": {"window": [9, 33]}})
        assert reply.status == 202, reply
        (sweep,) = harness.until(lambda: listed(server))
        assert sweep["id"] == reply.json()["id"] and sweep["state"] == "running" and sweep["route"].endswith("/sweep")
        assert server.request("DELETE", "/v1/requests/" + sweep["id"]).status == 200
        harness.until(lambda: get(server, one, "/sweeps/" + sweep["id"])["state"] == "failed")
        assert listed(server) == [] and get(server, one)["state"] == "ready"
        assert server.request("DELETE", "/v1/requests/" + sweep["id"]).status == 404
        assert server.request("DELETE", "/v1/requests/" + one["id"]).status == 404  # nothing runs there


if __name__ == "__main__":
    try:
        harness.main(globals())
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)
