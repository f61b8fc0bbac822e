"""/metrics: the text format, names and buckets, counters that count what was asked."""
import os
import re
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

HISTOGRAMS = ["time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
              "request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds"]
FIRST_TOKEN = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560]
BETWEEN = [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
WHOLE = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
SAMPLE = re.compile(r'^(sparsed_[a-z0-9_]+)\{((?:[a-z_]+="[^"\\]*",?)*)\} ([0-9.e+-]+|\+Inf|NaN)$')


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
    assert all(types["sparsed_" + name] == "histogram" for name in HISTOGRAMS)
    assert server.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


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
    for name in HISTOGRAMS:
        wanted = FIRST_TOKEN if name.startswith("time_to") else BETWEEN if name.startswith("inter") else WHOLE
        found = buckets(values, name)
        assert [float(b) for b in list(found)[:-1]] == wanted, name
        assert list(found)[-1] == "+Inf"
        counts = list(found.values())
        assert counts == sorted(counts), name
        assert counts[-1] == values['sparsed_%s_count{model_name="austen"}' % name] > 0, name
        assert values['sparsed_%s_sum{model_name="austen"}' % name] >= 0


def test_counts(server):
    before, _ = server.metrics()
    reply = server.complete(prompt=[5, 6, 7, 8], max_tokens=9, ignore_eos=True)
    assert reply.json()["usage"]["completion_tokens"] == 9
    server.get("/nowhere")
    server.complete(prompt=5)
    after, _ = server.metrics()

    def rise(name, **labels):
        def total(values):
            return sum(v for k, v in values.items() if k.split("{")[0] == "sparsed_" + name
                       and all('%s="%s"' % label in k for label in labels.items()))
        return total(after) - total(before)

    assert rise("prompt_tokens_total") == 4 and rise("generation_tokens_total") == 9
    assert rise("request_success_total", finished_reason="length") == 1
    assert rise("request_success_total", finished_reason="stop") == 0
    assert rise("time_to_first_token_seconds_count") == 1 and rise("inter_token_latency_seconds_count") == 8
    assert rise("http_requests_total", handler="/v1/completions", method="POST", status="2xx") == 1
    assert rise("http_requests_total", handler="/v1/completions", method="POST", status="4xx") == 1
    assert rise("http_requests_total", handler="none", status="4xx") == 1
    assert rise("http_requests_total", handler="/metrics") == 1


def test_gauges(server):
    with harness.Server("--max-sequences", "1") as small:
        first = small.open_stream(prompt="a", max_tokens=2000, ignore_eos=True)
        harness.read_some(first, 50)
        second = small.open_stream(prompt="a", max_tokens=2000, ignore_eos=True)
        for _ in range(100):
            values, _ = small.metrics()
            waiting = values['sparsed_num_requests_waiting{model_name="austen"}']
            if waiting:
                break
        assert waiting == 1 and values['sparsed_num_requests_running{model_name="austen"}'] == 1
        assert values['sparsed_kv_pages_used{model_name="austen"}'] > 0
        first.close()
        second.close()
        small.until_idle()


with harness.Server() as shared:
    harness.main({n: (lambda f=f: f(shared)) for n, f in list(globals().items()) if n.startswith("test_")})
