"""Predicted graphs of captured generation, on the bundled fit: rows of the prompt are those of a capture of the prompt
alone, also where the choice needs the whole prompt, and generated rows those of the pattern they decoded by. Queries and
keys of layer 0 depend on no attention, so captures of other attentions over the same tokens show what to expect."""
import os
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import harness

PATH = "/v1/attention/captures"
PROMPT = ("It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife. "
          "However little known the feelings or views of such a man may be on his first entering a neighbourhood, this truth is "
          "so well fixed in the minds of the surrounding families")  # fmt: skip


def finder(**params):
    return {"backend": "sparsefinder", "params": params}


# the attention of the prompt, what is given for generated tokens, and a pattern of its own that sees the same
CASES = ((finder(grouping="block", block=16, keep=2), None, finder(grouping="cluster", clusters=16, top=2)),
         (finder(grouping="block", block=16, keep=2), "dense", "dense"),
         (finder(grouping="block", block=16, keep=2), finder(keep=4), finder(keep=4)),
         (finder(grouping="bucket", bins="equal", buckets=16), None, finder(grouping="bucket", buckets=16)),
         ({"backend": "routing"}, finder(grouping="bucket", buckets=16), finder(grouping="bucket", buckets=16)),
         ({"backend": "longformer", "params": {"global_random": 3, "window": 5}}, None, None),
         ({"backend": "window", "params": {"window": 5}}, "dense", "dense"),
         (finder(keep=4), {"backend": "window", "params": {"window": 7}}, {"backend": "window", "params": {"window": 7}}))  # fmt: skip


def capture(server, **fields):
    reply = server.post(PATH, fields)
    assert reply.status == 201, reply
    return reply.json()["id"]


def rows(server, one, head, graph="pred"):
    reply = server.get("%s/%s/heads/0/%d/edges?graph=%s" % (PATH, one, head, graph))
    assert reply.status == 200, reply
    edges = reply.json()
    starts = edges["indptr"]
    return [edges["indices"][a:b] for a, b in zip(starts, starts[1:])]


def test_rows(server):
    for attention, given, alike in CASES:
        asked = dict(attention, capture=True, strict=False)
        if given:
            asked["decode"] = given
        done = server.complete(prompt=PROMPT, max_tokens=40, temperature=0, ignore_eos=True, return_token_ids=True,
                               attention=asked)  # fmt: skip
        assert done.status == 200, (attention, done)
        done = done.json()
        report, choice = done["attention_report"], done["choices"][0]
        prompt, ids = choice["prompt_token_ids"], choice["prompt_token_ids"] + choice["token_ids"]
        one = server.get(PATH + "/" + done["attention_id"]).json()
        provenance = one["provenance"]
        assert one["n_query"] == len(ids) and provenance["backend"] == report["backend"]
        for name in ("decode_backend", "decode_params"):
            assert provenance[name] == report.get(name), (attention, name)
        assert provenance["selection_sees_later_tokens"] == report.get("selection_sees_later_tokens", False)
        if report["backend"] != attention["backend"]:  # it fell back for prompt and generated tokens
            attention, alike = report["backend"], report["backend"]
        first = capture(server, input=prompt, attention=attention)
        then = capture(server, input=ids, attention=alike)
        for head in range(4):
            found = rows(server, done["attention_id"], head)
            assert found[:len(prompt)] == rows(server, first, head), (attention, head)
            assert found[len(prompt):] == rows(server, then, head)[len(prompt):], (attention, alike, head)
            gold = rows(server, done["attention_id"], head, "gold")
            assert gold == rows(server, then, head, "gold"), (attention, head)


def test_provenance(server):
    """Pictures and tensors say how generated tokens were served, and that a selection saw later ones."""
    done = server.complete(prompt=PROMPT, max_tokens=4, ignore_eos=True,
                           attention={"backend": "sparsefinder", "params": {"grouping": "block"}, "strict": False, "capture": True})
    path = PATH + "/" + done.json()["attention_id"] + "/export?layer=1&head=2&format="
    picture = server.get(path + "svg").body.decode()
    assert "chosen among later tokens too" in picture and "generated tokens: sparsefinder" in picture
    assert b'"decode_backend":"sparsefinder"' in server.get(path + "safetensors").body
    plain = server.get(PATH + "/" + capture(server, input="the", attention="window") + "/export?layer=1&head=2&format=svg")
    assert b"later tokens" not in plain.body and b"generated tokens" not in plain.body


with harness.Server() as shared:
    harness.main({name: (lambda f=f: f(shared)) for name, f in list(globals().items()) if name.startswith("test_")})
