"""/metrics: the text format, names and buckets, counters that count what was asked."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

HISTOGRAMS = ["time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
              "request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
              "request_inference_time_seconds"]
LENGTHS = ["request_prompt_tokens", "request_generation_tokens", "request_params_max_tokens", "iteration_tokens"]
FIRST_TOKEN = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560]
BETWEEN = [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
WHOLE = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
COUNTS = [d * 10**e for e in range(7) for d in (1, 2, 5)][:19]
CHOICES = [1, 2, 5, 10, 20]
SAMPLE = re.compile(r'^((?:sparsed|process)_[a-z0-9_]+)(\{(?:[a-z_]+="[^"\\]*",?)*\})? ([0-9.e+-]+|\+Inf|NaN)$')


def test_format(server):
    text = server.metrics()[1]
    assert text.endswith("\n")
    types, helped, family = {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in helped, "family twice: " + family
            helped.add(family)
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family
            types[family] = line.split()[3]
        else:
            match = SAMPLE.match(line)
            assert match, line
            name = match.group(1)
            base = re.sub("_(bucket|sum|count)$", "", name) if types[family] == "histogram" else name
            assert base == family, line
            assert (types[family] == "counter") == name.endswith("_total") or types[family] == "histogram", line
            assert ":" not in name
    assert set(types) == helped
    for name in ("num_requests_running", "num_requests_waiting", "kv_pages_used", "kv_pages_cached"):
        assert types["sparsed_" + name] == "gauge"
    histograms = HISTOGRAMS + LENGTHS + ["request_params_n", "http_request_duration_seconds"]
    assert all(types["sparsed_" + name] == "histogram" for name in histograms)
    for name in ("num_preemptions", "prefix_cache_queries", "prefix_cache_hits", "request_success", "attention_edges", "attention_pairs"):
        assert types["sparsed_%s_total" % name] == "counter", name
    for name in ("sparsed_cache_config_info", "sparsed_build_info", "sparsed_memory_ceiling_bytes", "process_resident_memory_bytes"):
        assert types[name] == "gauge", name
    assert server.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


def test_promtool(server):
    program = shutil.which("promtool")
    if not program:
        print("      not run: promtool is absent (Debian package prometheus)")
        return
    server.complete(prompt="a", max_tokens=2, attention="strided")
    server.get("/nowhere")
    done = subprocess.run([program, "check", "metrics"], input=server.metrics()[1].encode(), capture_output=True, timeout=60)
    assert done.returncode == 0 and not done.stdout + done.stderr, (done.stdout, done.stderr)


def buckets(values, name):
    found = {}
    for key, value in values.items():
        match = re.match(r'sparsed_%s_bucket\{model_name="austen",le="([^"]+)"\}' % name, key)
        if match:
            found[match.group(1)] = value
    return found


def test_buckets(server):
    server.complete(prompt="a", max_tokens=5, ignore_eos=True)
    values, _ = server.metrics()
    for name in HISTOGRAMS + LENGTHS + ["request_params_n"]:
        wanted = COUNTS if name in LENGTHS else CHOICES if name == "request_params_n" else FIRST_TOKEN if name.startswith("time_to") else BETWEEN if name.startswith("inter") else WHOLE
        found = buckets(values, name)
        assert [float(b) for b in list(found)[:-1]] == wanted, name
        assert list(found)[-1] == "+Inf"
        counts = list(found.values())
        assert counts == sorted(counts), name
        assert counts[-1] == values['sparsed_%s_count{model_name="austen"}' % name] > 0, name
        assert values['sparsed_%s_sum{model_name="austen"}' % name] >= 0


def test_counts(server):
    with harness.Server() as fresh:
        reply = fresh.complete(prompt=[5, 6, 7, 8], max_tokens=9, ignore_eos=True)
        assert reply.json()["usage"]["completion_tokens"] == 9
        fresh.get("/nowhere")
        fresh.complete(prompt=5)
        values = {}

        def rise(name, **labels):
            return sum(v for k, v in values.items() if k.split("{")[0] == "sparsed_" + name
                       and all('%s="%s"' % label in k for label in labels.items()))

        def booked():
            """A request is counted a moment after its answer."""
            values.update(fresh.metrics()[0])
            return rise("http_requests_total", handler="none") == 1 and rise("http_requests_total", handler="/v1/completions") == 2

        harness.until(lambda: booked() and rise("http_requests_total", handler="/metrics") > 0)

    assert rise("prompt_tokens_total") == 4 and rise("generation_tokens_total") == 9
    assert rise("request_success_total", finished_reason="length") == 1
    assert rise("request_success_total", finished_reason="stop") == 0
    assert rise("time_to_first_token_seconds_count") == 1 and rise("inter_token_latency_seconds_count") == 8
    assert rise("request_prompt_tokens_sum") == 4 and rise("request_generation_tokens_sum") == 9
    assert rise("request_params_max_tokens_sum") == 9 and rise("iteration_tokens_sum") == 12
    assert rise("request_params_n_sum") == 1 and rise("http_request_duration_seconds_count", handler="/v1/completions") == 2
    # of 4 prompt rows 10 pairs, of the 8 decoded 5 + .. + 12; every layer and head
    per_pair = rise("attention_pairs_total", backend="dense", phase="prefill") / 10
    assert per_pair == 24 and rise("attention_edges_total", backend="dense", phase="prefill") == 240
    assert rise("attention_pairs_total", backend="dense", phase="decode") == 24 * sum(range(5, 13))
    assert rise("attention_tokens_total", backend="dense", phase="prefill") == 4 and rise("attention_tokens_total", backend="strided") == 0
    assert rise("http_requests_total", handler="/v1/completions", method="POST", status="2xx") == 1
    assert rise("http_requests_total", handler="/v1/completions", method="POST", status="4xx") == 1
    assert rise("http_requests_total", handler="none", status="4xx") == 1


def test_gauges_of_the_process(server):
    values, _ = server.metrics()
    limits = server.get("/v1/limits").json()
    assert values['sparsed_memory_ceiling_bytes{model_name="austen"}'] == limits["memory_ceiling_bytes"]
    assert 1 << 24 < values["process_resident_memory_bytes"] < limits["memory_ceiling_bytes"]
    assert values["process_cpu_seconds_total"] > 0 and 5 < values["process_open_fds"] < values["process_max_fds"]
    links = [server.connect() for _ in range(3)]
    harness.until(lambda: server.gauge("sparsed_http_connections") == 4)
    for link in links:
        link.close()


def test_gauges(server):
    with harness.lasting("--max-sequences", "1") as small:
        first = small.open_plain(prompt="a", max_tokens=harness.ENDLESS, ignore_eos=True)
        harness.until(lambda: small.gauge("sparsed_num_requests_running") == 1)
        second = small.open_plain(prompt="a", max_tokens=harness.ENDLESS, ignore_eos=True)
        harness.until(lambda: small.gauge("sparsed_num_requests_waiting") == 1)
        values, _ = small.metrics()
        assert values['sparsed_num_requests_running{model_name="austen"}'] == 1
        assert values['sparsed_kv_pages_used{model_name="austen"}'] > 0
        first.close()
        second.close()
        small.until_idle()


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
