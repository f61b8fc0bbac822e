"""POST /v1/attention/apply: one layer on given tensors, against plain loops in double precision and `sparsed attend`."""
import json
import math
import os
import random
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

OCTETS = {"Content-Type": "application/octet-stream"}


def pack(tensors, metadata):
    """Safetensors bytes of {name: (shape, floats)}."""
    header, data = {"__metadata__": metadata}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack("<%df" % len(values), *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def unpack(data):
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = {"F32": "f", "U32": "I"}[entry["dtype"]]
            out[name] = (entry["shape"], struct.unpack("<%d%s" % ((end - begin) // 4, kind), data[8 + size:][begin:end]))
    return out, header["__metadata__"]


def case(attention, heads=2, n=13, d=4, causal=True, seed=1):
    draw = random.Random(seed)
    tensors = {name: ([heads, n, d], [draw.gauss(0, 1) for _ in range(heads * n * d)]) for name in "qkv"}
    metadata = {"attention": json.dumps(attention), "causal": "true" if causal else "false"}
    return tensors, pack(tensors, metadata)


def expected(tensors, keep):
    """Softmax over the kept keys, by definition. -> rows (heads * n * d)"""
    heads, n, d = tensors["q"][0]
    q, k, v = ([struct.unpack("f", struct.pack("f", x))[0] for x in tensors[name][1]] for name in "qkv")
    out = []
    for h in range(heads):
        def row(x, i):
            return x[(h * n + i) * d:(h * n + i + 1) * d]
        for i in range(n):
            keys = [j for j in range(n) if keep(i, j)]
            scores = [sum(a * b for a, b in zip(row(q, i), row(k, j))) / math.sqrt(d) for j in keys]
            weights = [math.exp(s - max(scores)) for s in scores]
            total = sum(weights)
            out += [sum(w * row(v, j)[c] for w, j in zip(weights, keys)) / total for c in range(d)]
    return out


def apply(server, body, query=""):
    return server.post("/v1/attention/apply" + query, body, OCTETS)


def test_values(server):
    rows = [({"backend": "dense"}, True, lambda i, j: j <= i),
            ({"backend": "dense"}, False, lambda i, j: True),
            ({"backend": "strided", "params": {"stride": 4}}, True, lambda i, j: j <= i and (i - j < 4 or (i - j) % 4 == 0)),
            ({"backend": "window", "params": {"window": 5}}, False, lambda i, j: abs(i - j) <= 2)]
    for attention, causal, keep in rows:
        tensors, body = case(attention, causal=causal)
        reply = apply(server, body)
        assert reply.status == 200 and reply.headers["content-type"] == "application/octet-stream", reply
        out, metadata = unpack(reply.body)
        wanted = expected(tensors, keep)
        assert out["out"][0] == [2, 13, 4]
        assert max(abs(a - b) for a, b in zip(out["out"][1], wanted)) < 2e-6, attention
        edges = sum(1 for i in range(13) for j in range(13) if keep(i, j))
        assert json.loads(metadata["report"])["prefill"]["edges"] == 2 * edges
        assert len(out["indices"][1]) == 2 * edges and "metrics" not in metadata


def test_times_where_there_are_keys(server):
    """Whole milliseconds: finer ones tell what others' prompts left in the processor."""
    _, body = case({"backend": "strided", "params": {"stride": 4}}, n=400)
    head = {"Authorization": "Bearer one-of-the-keys"}
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write("one-of-the-keys\n")
        keys.flush()
        with harness.Server("--api-key-file", keys.name) as guarded:
            replies = [guarded.post("/v1/attention/apply", body, dict(OCTETS, **head)) for _ in range(8)]
            text = {"prompt": [5] * 300, "max_tokens": 9, "ignore_eos": True}
            told = guarded.post("/v1/completions", text, head).json()["attention_report"]
            metrics = guarded.get("/metrics", headers=head).body.decode()
    plain = apply(server, body)
    coarse, fine = ([json.loads(unpack(reply.body)[1]["report"]) for reply in some] for some in (replies, [plain]))
    for report in coarse + [told]:
        for phase in ("prefill", "decode"):
            for name in ("predict_seconds", "attend_seconds"):
                assert report[phase][name] == round(report[phase][name], 3), report
    assert fine[0]["prefill"]["attend_seconds"] != round(fine[0]["prefill"]["attend_seconds"], 3)
    sums = [float(line.split()[1]) for line in metrics.split("\n") if re.match("sparsed_attention_[a-z]+_seconds_total", line)]
    assert sums and all(abs(one - round(one, 3)) < 1e-9 for one in sums), sums


def test_metrics_query(server):
    _, body = case({"backend": "strided", "params": {"stride": 4}, "normalizer": "entmax15"})
    out, metadata = unpack(apply(server, body, "?metrics=true").body)
    heads = json.loads(metadata["metrics"])
    assert len(heads) == 2 and heads[0]["pairs_valid"] == 13 * 14 // 2 and 0 < heads[0]["recall"] <= 1
    assert "metrics" not in unpack(apply(server, body, "?metrics=false").body)[1]
    for query, param in (("?metrics=1", "metrics"), ("?metric=true", "metric")):
        reply = apply(server, body, query)
        assert reply.status == 400 and reply.error()["param"] == param, reply


def test_equals_command_line(server):
    _, body = case({"backend": "fixed", "params": {"stride": 8, "summary": 2}, "normalizer": "entmax15"}, heads=4, n=70, d=8)
    with tempfile.TemporaryDirectory() as folder:
        given, made = os.path.join(folder, "in.safetensors"), os.path.join(folder, "out.safetensors")
        with open(given, "wb") as file:
            file.write(body)
        subprocess.run([os.path.join(harness.BUILD, "sparsed"), "attend", "--in", given, "--out", made], check=True,
                       capture_output=True, timeout=120)
        with open(made, "rb") as file:
            assert unpack(file.read())[0] == unpack(apply(server, body).body)[0]


def test_refusals(server):
    tensors, body = case({"backend": "dense"})
    (size,) = struct.unpack("<Q", body[:8])
    rows = [b"", b"x", body[:-1], body[:8 + size], body[:8 + size - 1], struct.pack("<Q", 2**63) + body[8:],
            body.replace(b'"dense"', b'"dance"').replace(b'\\"dense\\"', b'\\"dance\\"'), pack({"q": tensors["q"]}, {})]
    for row in rows:
        reply = apply(server, row)
        assert reply.status == 400 and reply.error()["type"] == "invalid_request_error", (row[:80], reply)
    for at in range(0, 8 + size, 7):  # a changed header byte: an answer or a 400, never worse
        changed = body[:at] + bytes([body[at] ^ 0x80]) + body[at + 1:]
        assert apply(server, changed).status in (200, 400), at
    assert server.post("/v1/attention/apply", body).status == 415
    assert server.request("GET", "/v1/attention/apply").status == 405
    assert apply(server, body).status == 200


def test_refuses_a_fit_with_other_key_maps(server):
    """A fit of four query heads with two key maps: right for two KV heads, for four it is refused, not read."""
    maps = {"q_proj.weight": [4, 4, 2], "q_proj.bias": [4, 2], "k_proj.weight": [2, 4, 2], "k_proj.bias": [2, 2]}
    fit = {"layers.0.self." + name: (shape, [0.5] * math.prod(shape)) for name, shape in maps.items()}
    attention = {"backend": "sparsefinder", "params": {"grouping": "distance", "keep": 3}}
    tensors, _ = case(attention, heads=4)
    metadata = {"attention": json.dumps(attention), "causal": "true"}
    reply = apply(server, pack({**tensors, **fit}, metadata))
    assert reply.status == 400 and "2 maps of keys in layer 0" in reply.error()["message"], reply
    for name in "kv":
        tensors[name] = ([2, 13, 4], tensors[name][1][:2 * 13 * 4])
    assert apply(server, pack({**tensors, **fit}, metadata)).status == 200


def test_dot_on_default_maps_needs_its_own_bound(server):
    """Thresholds of the default maps are distances: the metric dot does not read them."""
    fit = {"layers.0.self." + name: (shape, [0.5] * math.prod(shape))
           for name, shape in {"q_proj.weight": [2, 4, 2], "q_proj.bias": [2, 2], "thresholds": [2]}.items()}
    for params, status in (({}, 200), ({"metric": "dot"}, 400), ({"metric": "dot", "threshold": 1}, 200),
                           ({"metric": "dot", "keep": 2}, 200)):
        tensors, _ = case("dense")
        attention = {"backend": "sparsefinder", "params": {"grouping": "distance", **params}}
        reply = apply(server, pack({**tensors, **fit}, {"attention": json.dumps(attention), "causal": "true"}))
        assert reply.status == status, (params, reply)
        if status == 400:
            assert reply.error()["param"] == "attention.params.metric" and "threshold or keep" in reply.error()["message"]


def test_limit_and_company(server):
    _, large = case({"backend": "dense"}, heads=4, n=400, d=32)
    with harness.Server("--max-tensor-bytes", "300K") as small:
        assert apply(small, large).status == 413
        _, fits = case({"backend": "dense"}, heads=4, n=100, d=32)
        reply = apply(small, fits)  # 153,600 bytes; its edges make the answer larger than the limit
        assert reply.status in (200, 400, 413), reply
    # an apply job beside streams: both end well
    stream = server.open_stream(prompt="It was", max_tokens=300, ignore_eos=True)
    statuses = []

    def client():
        statuses.append(apply(server, large).status)

    threads = [threading.Thread(target=client) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 5, statuses
    stream.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"data: [DONE]" in harness.read_all(stream)


def test_leaving_while_it_runs(server):
    _, large = case({"backend": "dense", "normalizer": "entmax15"}, heads=4, n=600, d=32)
    for _ in range(3):
        link = server.connect()
        link.sendall(b"POST /v1/attention/apply HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(large) + large)
        link.close()
    assert apply(server, case({"backend": "dense"})[1]).status == 200


def test_stalled_readers_give_way(server):
    """At most two answers are held; clients that take nothing of theirs are cut, so the third is served."""
    _, large = case({"backend": "dense"}, heads=4, n=600, d=32)
    with harness.Server("--write-timeout", "3") as patient:
        links = []
        for _ in range(3):
            link = socket.socket()
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.connect(("127.0.0.1", patient.port))
            link.sendall(b"POST /v1/attention/apply HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(large) + large)
            links.append(link)
        harness.until(lambda: len(select.select(links, [], [], 0)[0]) >= 2, 120)  # two answers have begun and are held
        reply = apply(patient, large)
        assert reply.status == 200 and reply.whole and unpack(reply.body)[0]["out"][0] == [4, 600, 32]
        harness.until(lambda: any("takes nothing" in line for line in patient.log))
        for link in links:
            link.close()


def long_case():
    """Some 100 million pairs: more than any machine does in the time that a test gives it."""
    n, heads, d = 4000, 32, 64
    tensors = {"q": ([heads, n, d], [0.0] * (heads * n * d)), "k": ([1, n, d], [0.0] * (n * d)),
               "v": ([1, n, d], [0.0] * (n * d))}
    return pack(tensors, {"attention": json.dumps({"backend": "dense", "normalizer": "entmax15"}), "edges": "none"})


class Clients:
    """Requests of apply, each on a thread of its own; `replies` by name, with the seconds they took."""

    def __init__(self, server):
        self.server, self.threads, self.replies = server, [], {}

    def ask(self, name, body, query=""):
        def client():
            begin = time.time()
            self.replies[name] = (apply(self.server, body, query), time.time() - begin)

        self.threads.append(threading.Thread(target=client))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join()
        return self.replies


def test_limits_of_time(server):
    """A long job ends at the request timeout; those behind it wait no longer than theirs."""
    _, short = case({"backend": "dense"})
    with harness.Server("--request-timeout", "4", "--queue-timeout", "0.5", "--threads", "1") as strict:
        clients = Clients(strict)
        clients.ask("long", long_case(), "?metrics=true")
        harness.until(lambda: strict.gauge("sparsed_num_requests_running") == 1)
        clients.ask("second", short)
        replies = clients.join()
        reply, seconds = replies["second"]
        assert reply.status == 503 and "retry-after" in reply.headers and reply.error()["param"] is None, reply
        assert seconds >= 0.4 and seconds < replies["long"][1], (seconds, replies["long"])
        reply, seconds = replies["long"]
        assert reply.status == 503 and reply.headers["x-should-retry"] == "false", (reply, seconds)
        assert "retry-after" not in reply.headers and reply.error()["param"] is None and seconds >= 3.9, (reply, seconds)
        assert apply(strict, short).status == 200
        strict.until_idle()


def test_limit_of_the_queue(server):
    _, short = case({"backend": "dense"})
    with harness.Server("--queue-timeout", "600", "--max-queue", "2", "--threads", "1") as strict:
        clients = Clients(strict)
        clients.ask("long", long_case(), "?metrics=true")
        harness.until(lambda: strict.gauge("sparsed_num_requests_running") == 1)
        clients.ask("second", short)
        clients.ask("third", short)
        harness.until(lambda: strict.gauge("sparsed_num_requests_waiting") == 2)
        reply = apply(strict, short)
        assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1, reply
        (long,) = [one for one in strict.get("/v1/requests").json()["data"] if one["state"] == "running"]
        assert strict.request("DELETE", "/v1/requests/" + long["id"]).status == 200
        replies = clients.join()
        assert [replies[name][0].status for name in ("long", "second", "third")] == [409, 200, 200], replies
        strict.until_idle()


def test_memory_stays_below_the_ceiling(server):
    """While one large answer is held, a job with large copies of keys and values runs."""
    m, n, mib = 230000, 120000, 1 << 20
    shapes, header, size = {"q": (1, n, 8), "k": (1, m, 8), "v": (1, m, 256)}, {}, 0
    for name, shape in shapes.items():
        end = size + 2 * shape[0] * shape[1] * shape[2]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [size, end]}
        size = end
    header["__metadata__"] = {"attention": '{"backend":"window","params":{"window":1}}', "edges": "none"}
    text = json.dumps(header).encode()
    body = struct.pack("<Q", len(text)) + text + bytes(size)
    options = ("--max-tensor-bytes", "128M", "--max-connections", "4", "--max-body-bytes", "1K", "--max-sequences", "1",
               "--max-queue", "2", "--kv-bytes", "1M", "--ctx", "64", "--attn-scratch", "1M")
    with harness.Server(*options) as small:
        with open("/proc/%d/maps" % small.process.pid) as maps:
            if "san.so" in maps.read():
                return  # its shadow and quarantine count as resident
        ceiling = small.get("/v1/limits").json()["memory_ceiling_bytes"]
        links = []
        for _ in range(2):
            link = socket.socket()
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.settimeout(60)
            link.connect(("127.0.0.1", small.port))
            link.sendall(b"POST /v1/attention/apply HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert link.recv(15) == b"HTTP/1.1 200 OK"
            links.append(link)
        with open("/proc/%d/status" % small.process.pid) as status:
            peak = int(status.read().split("VmHWM:")[1].split()[0]) * 1024
        for link in links:
            link.close()
        assert 500 * mib < peak <= ceiling, (peak, ceiling)


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
