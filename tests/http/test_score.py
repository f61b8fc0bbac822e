"""POST /v1/score: the four kinds of input, figures that follow from the logprobs, attention, and refusals by name."""
import math
import os
import sys
import threading

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

ONE = "It is a truth universally acknowledged, that a single man"
TWO = "in possession of a good fortune, must be in want of a wife. “Bennet” replied that he had not."


def score(server, **fields):
    reply = server.post("/v1/score", fields)
    assert reply.status == 200, reply
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    return reply.json()


def refused(server, words, status=400, **fields):
    reply = server.post("/v1/score", fields)
    assert reply.status == status and reply.error()["param"] == words, (words, reply)
    return reply.error()


def check(data, text=None, min_context=0):
    ids, logprobs, offsets = data["token_ids"], data["token_logprobs"], data["offsets"]
    assert len(ids) == len(logprobs) == len(offsets) == len(data["tokens"])
    assert logprobs[0] is None and all(value < 0 for value in logprobs[1:])
    scored = range(max(1, min_context), len(ids))
    nll = -sum(logprobs[i] for i in scored)
    size = sum(offsets[i][1] - offsets[i][0] for i in scored)
    assert data["n_scored"] == len(scored) and data["bytes_scored"] == size
    assert abs(data["nll"] - nll) < 1e-6 * (1 + nll)
    if scored:
        assert abs(data["perplexity"] - math.exp(nll / len(scored))) < 1e-6 * data["perplexity"]
        assert abs(data["bits_per_byte"] - nll / math.log(2) / size) < 1e-6
    else:
        assert data["perplexity"] is None and data["bits_per_byte"] is None
    if text is not None:
        raw = text.encode()
        assert offsets[0][0] == 0 and offsets[-1][1] == len(raw)
        for (begin, end), token in zip(offsets, data["tokens"]):
            assert raw[begin:end].decode("utf-8", "replace").count("\ufffd") or raw[begin:end].decode() == token


def test_kinds_of_input(server):
    one, two = (score(server, input=text) for text in (ONE, TWO))
    for value, text in ((one, ONE), (two, TWO)):
        assert value["object"] == "score" and value["model"] == "austen"
        (data,) = value["data"]
        assert data["index"] == 0
        check(data, text)
        n = len(data["token_ids"])
        assert value["usage"]["prompt_tokens"] == value["usage"]["total_tokens"] == n
        assert value["attention_report"]["prefill"]["tokens"] == n
        assert value["attention_report"]["decode"]["tokens"] == 0
    both = score(server, input=[ONE, TWO], model="austen")
    assert [data["index"] for data in both["data"]] == [0, 1]
    ids = [value["data"][0]["token_ids"] for value in (one, two)]
    as_ids = score(server, input=ids)
    for i, value in enumerate((one, two)):
        alone = value["data"][0]
        for other in (both["data"][i], as_ids["data"][i], score(server, input=ids[i])["data"][0]):
            check(other)
            for name in ("token_ids", "token_logprobs", "tokens", "nll", "perplexity", "bytes_scored"):
                assert other[name] == alone[name], name
    assert both["usage"]["prompt_tokens"] == sum(map(len, ids))
    for name in ("tokens", "edges", "pairs", "tiles"):
        total = sum(value["attention_report"]["prefill"][name] for value in (one, two))
        assert both["attention_report"]["prefill"][name] == total, name
    assert score(server, input=[5])["data"][0]["n_scored"] == 0
    assert score(server, input="")["data"][0]["token_ids"] == [0]


def test_min_context(server):
    whole = score(server, input=TWO)["data"][0]
    late = score(server, input=TWO, min_context=9)["data"][0]
    check(late, TWO, 9)
    assert late["token_logprobs"] == whole["token_logprobs"] and late["n_scored"] == whole["n_scored"] - 8
    check(score(server, input=TWO, min_context=2000)["data"][0], TWO, 2000)


def test_attention(server):
    dense = score(server, input=TWO)
    narrow = score(server, input=[TWO, ONE], attention={"backend": "window", "params": {"window": 5}})
    report = narrow["attention_report"]
    assert report["backend"] == "window" and report["trained"] is False and report["prefill"]["density"] < 0.7
    assert report["prefill"]["density"] == report["prefill"]["edges"] / report["prefill"]["pairs"]
    assert abs(narrow["data"][0]["nll"] - dense["data"][0]["nll"]) > 0.01
    measured = score(server, input=ONE, attention={"backend": "dense", "measure": True})
    assert len(measured["attention_report"]["heads"]) == 24
    several(server, measured)
    refused(server, "attention.params.window", input=ONE, attention={"backend": "window", "params": {"window": 4}})


def several(server, one):
    """Measures of several inputs: the integers add up, mass is the mean over rows, ratios are those of the sums."""
    narrow = {"backend": "window", "params": {"window": 5}, "measure": True}
    single = [score(server, input=text, attention=narrow)["attention_report"]["heads"] for text in (ONE, TWO)]
    both = score(server, input=[ONE, TWO], attention=narrow)["attention_report"]["heads"]
    assert len(both) == len(one["attention_report"]["heads"])
    for first, second, together in zip(*single, both):
        assert (first["layer"], first["head"]) == (together["layer"], together["head"])
        for name in ("edges_gold", "edges_pred", "edges_both", "pairs_valid", "rows_valid", "rows_exact", "rows_empty"):
            assert first[name] + second[name] == together[name], name
        rows = first["rows_valid"], second["rows_valid"]
        mass = (first["mass"] * rows[0] + second["mass"] * rows[1]) / sum(rows)
        assert abs(together["mass"] - mass) < 1e-9
        assert together["exact"] == together["rows_exact"] / together["rows_valid"]
        assert abs(together["recall"] - together["edges_both"] / together["edges_gold"]) < 1e-12


def test_refusals(server):
    for value in (None, 7, True, {}, [], [[]], ["a", [1]], [[1], "a"], [1, "a"], [1.5], [-1], [4096], [None], ["a", 3]):
        refused(server, "input", input=value)
    refused(server, "input", input=["a"] * 129)
    refused(server, "text", input=ONE, text="b")
    refused(server, "max_tokens", input=ONE, max_tokens=3)
    refused(server, "min_context", input=ONE, min_context=-1)
    refused(server, "model", 404, input=ONE, model="another")
    error = refused(server, "input", input=[[1], [1] * 2049])
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 2049, 2048), error
    assert server.post("/v1/score?x=1", {"input": ONE}).status == 400
    assert server.get("/v1/score").status == 405


def test_queue_and_leaving(server):
    """A request of many inputs counts once in a full queue, and ends when its client leaves."""
    inputs, replies = [[1 + i] * 400 for i in range(6)], []
    with harness.Server("--max-sequences", 1, "--max-queue", 2, "--threads", 1) as small:
        threads = [threading.Thread(target=lambda: replies.append(small.post("/v1/score", {"input": inputs})))
                   for _ in range(3)]
        threads[0].start()
        harness.until(lambda: replies or small.gauge("sparsed_num_requests_running") == 1)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert [reply.status for reply in replies] == [200] * 3, replies
        assert replies[0].json()["data"] == replies[1].json()["data"] == replies[2].json()["data"]
        link = small.connect()
        body = b'{"input":[%s]}' % b",".join([b"[" + b",".join([b"7"] * 2000) + b"]"] * 100)
        link.sendall(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
        harness.until(lambda: small.gauge("sparsed_num_requests_running") > 0)
        link.close()
        small.until_idle()
        assert small.metrics()[0]['sparsed_request_success_total{model_name="austen",finished_reason="abort"}'] >= 1


def test_loading_models_say_score(server):
    assert "score" in server.get("/v1/models").json()["data"][0]["tasks"]


with harness.Server() as shared:
    harness.main({name: (lambda f=f: f(shared)) for name, f in list(globals().items()) if name.startswith("test_")})
