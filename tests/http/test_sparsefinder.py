"""sparsefinder and routing over HTTP on the bundled fit: every grouping generates, alone as in company, decoding as
prefill scores; what needs the whole text is refused, falls back or decodes by another pattern; fits that don't belong."""
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

PROMPT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of"


def finder(**params):
    return {"backend": "sparsefinder", "params": params}


STREAMING = (finder(), finder(keep=8, window=5), finder(metric="l2"), finder(metric="l2", recall=0.9),
             finder(grouping="cluster"), finder(grouping="cluster", clusters=32, top=3), finder(grouping="bucket"),
             finder(grouping="bucket", bins="fixed", buckets=9))
WHOLE = ((finder(grouping="block", block=16, keep=2), "block", "cluster"),
         (finder(grouping="bucket", bins="equal", buckets=6), "equal", "frozen"),
         ({"backend": "routing"}, "routing", "cluster"))


def generate(server, attention, **fields):
    reply = server.complete(prompt=PROMPT, max_tokens=24, temperature=0, logprobs=0, attention=attention, **fields)
    assert reply.status == 200, (attention, reply)
    return reply.json()


def test_alone_as_in_company(server):
    alone = [generate(server, attention)["choices"][0] for attention in STREAMING]
    together = [None] * len(STREAMING)

    def run(i):
        together[i] = generate(server, STREAMING[i])["choices"][0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(STREAMING))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == together


def test_decoding_is_prefill(server):
    """What a token scored when it was generated it scores in one prefill of the whole text."""
    for attention in STREAMING:
        choice = generate(server, attention, return_token_ids=True)["choices"][0]
        ids, wanted = choice["prompt_token_ids"] + choice["token_ids"], choice["logprobs"]["token_logprobs"]
        assert len(wanted) == len(choice["token_ids"]) == 24, choice
        data = server.post("/v1/score", {"input": ids, "attention": attention}).json()["data"][0]
        found = data["token_logprobs"]
        assert len(found) == len(ids)
        for a, b in zip(wanted, found[-len(wanted):]):
            assert abs(a - b) < 0.02, (attention, a, b)


def test_reports(server):
    report = generate(server, "sparsefinder")["attention_report"]
    assert report["params"]["grouping"] == "distance" and report["params"]["metric"] == "dot", report
    assert report["params"]["window"] == 33 and not report["fallbacks"] and not report["trained"], report
    assert report["prefill"]["predict_seconds"] > 0 and report["decode"]["tokens"] == 23, report
    for name, backend in ((b["name"], b) for b in server.get("/v1/attention/backends").json()["data"]):
        assert backend["available"] and backend["why"] is None, name


def test_whole_text(server):
    for attention, was, becomes in WHOLE:
        refused = server.complete(prompt=PROMPT, max_tokens=3, attention=attention)
        assert refused.status == 400 and refused.error()["param"] == "attention.backend", refused
        reply = generate(server, {**attention, "strict": False})
        report = reply["attention_report"]
        assert report["fallbacks"] == [{"from": was, "to": becomes, "why": "decoding"}], report
        assert report["decode_backend"] == "sparsefinder" and report["selection_sees_later_tokens"], report
        report = generate(server, {**attention, "decode": {"backend": "dense"}})["attention_report"]
        assert report["decode_backend"] == "dense" and report["decode"]["density"] == 1, report
        score = server.post("/v1/score", {"input": PROMPT, "attention": attention}).json()
        assert score["attention_report"]["selection_sees_later_tokens"] is True, score
    # all blocks: the layers one by one give what they give together
    everything = finder(grouping="block", block=16, keep=100000)
    text = {"input": open(os.path.join(harness.ROOT, "models/austen/heldout.txt"), encoding="utf-8").read()[:5000]}
    by_layer, dense = (server.post("/v1/score", {**text, "attention": a}).json()["data"][0] for a in (everything, "dense"))
    assert abs(by_layer["nll"] - dense["nll"]) < 1e-3 * dense["nll"] / 100, (by_layer["nll"], dense["nll"])


def test_refusals(server):
    for attention, param, word in ((finder(grouping="cluster", clusters=7), "attention.params.clusters", "it has 16, 32"),
                                   (finder(keep=3, threshold=1), "attention.params.keep", "at most one"),
                                   (finder(block=3), "attention.params.block", "grouping distance"),
                                   ({**finder(), "decode": finder(grouping="cluster")}, "attention.decode", "one set")):
        reply = server.complete(prompt=PROMPT, max_tokens=3, attention=attention)
        assert reply.status == 400 and reply.error()["param"] == param and word in reply.error()["message"], reply


def test_other_fits(server):
    fit = os.path.join(harness.ROOT, "tests/golden/attend/009-cluster.fit.safetensors")
    for path, code, words in ((fit, 65, ("2 ", "6")), (fit + ".absent", 66, ("No such file",))):
        done = subprocess.run([os.path.join(harness.BUILD, "sparsed"), "generate", "--model", harness.MODEL, "--fit", path,
                               "--prompt", "x"], capture_output=True, text=True, timeout=60)
        assert done.returncode == code and all(word in done.stderr for word in words), done


with harness.Server() as shared:
    harness.main({name: (lambda f=f: f(shared)) for name, f in list(globals().items()) if name.startswith("test_")})
