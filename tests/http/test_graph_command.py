"""`sparsed graph`: the same files as the export route, from a file or standard input, written whole or not at all."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import graph_files
import harness
import png_reader

PROGRAM = os.path.join(harness.BUILD, "sparsed")
TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune"
FOLDER = tempfile.mkdtemp(prefix="sparsed-graph-")


def run(*options, code=0, text=TEXT):
    done = subprocess.run([PROGRAM, "graph", "--model", harness.MODEL, "--text", "-", *options], input=text.encode(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == code, (options, done)
    return done.stdout, done.stderr.decode()


def test_same_as_export():
    with harness.Server() as server:
        one = server.post("/v1/attention/captures", {"input": TEXT, "attention": "window"}).json()
        for query in ("layer=2&head=1&format=csv", "layer=2&head=1&format=json", "layer=3&head=0&graph=pred&format=graphml",
                      "layer=1&head=3&format=npz", "format=bertviz", "layer=0&format=exbert"):
            theirs = server.get("/v1/attention/captures/%s/export?%s" % (one["id"], query)).body
            options = [part for pair in query.split("&") for part in ("--" + pair).split("=")]
            ours, _ = run("--attention", "window", "--out", "-", *options)
            if b"attn-" in theirs:
                theirs = theirs.split(b"<node")[1:]
                ours = ours.split(b"<node")[1:]
            assert ours == theirs, query


def test_files():
    source, target = os.path.join(FOLDER, "text"), os.path.join(FOLDER, "picture.png")
    with open(source, "w", encoding="utf-8") as file:
        file.write(TEXT)
    subprocess.run([PROGRAM, "graph", "--model", harness.MODEL, "--text", source, "--format", "png", "--out", target],
                   check=True, timeout=120)
    with open(target, "rb") as file:
        width, height, texts = png_reader.describe(file.read())
    assert texts["Title"] == "austen, 24 heads: gold graph" and width > 400 and height > 400
    assert sorted(os.listdir(FOLDER)) == ["picture.png", "text"]


def test_views():
    for view, word in [("panels", b"missed"), ("lines", b"square-root"), ("matrix", b"weight of the edge")]:
        out, _ = run("--attention", "{\"backend\": \"window\", \"params\": {\"window\": 5}}", "--layer", "2", "--head", "1",
                     "--view", view, "--format", "svg", "--out", "-")
        assert word in out and out.startswith(b"<svg")
    out, _ = run("--layer", "2", "--head", "1", "--format", "html", "--out", "-")
    page = graph_files.Page()
    page.feed(out.decode())
    assert page.policy and len(page.scripts) == 2
    # One token is enough for a graph.
    out, _ = run("--layer", "2", "--head", "1", "--format", "csv", "--out", "-", text="It")
    assert out == b"query,key,weight\n0,0,1\n"


def test_refusals():
    for options, words, code in [(("--format", "pdf", "--out", "-"), "format must be", 64),
                                 (("--format", "csv", "--out", "-"), "layer and head", 64),
                                 (("--format", "csv", "--head", "1", "--out", "-"), "--layer", 64),
                                 (("--format", "csv", "--layer", "6", "--head", "1", "--out", "-"), "no layer 6", 64),
                                 (("--format", "csv", "--layer", "1", "--head", "4", "--out", "-"), "no head 4", 64),
                                 (("--format", "svg", "--graph", "silver", "--out", "-"), "--graph", 64),
                                 (("--format", "svg", "--view", "spiral", "--out", "-"), "--view", 64),
                                 (("--format", "svg"), "--out", 64), (("--out", "-"), "--format", 64),
                                 (("--format", "svg", "--attention", "nope", "--out", "-"), "nope", 64),
                                 (("--format", "svg", "--out", os.path.join(FOLDER, "no", "where")), "where", 66)]:
        out, said = run(*options, code=code)
        assert out == b"" and words in said, (options, said)
    bad = subprocess.run([PROGRAM, "graph", "--model", harness.MODEL, "--text", "-", "--format", "svg", "--out", "-"],
                         input=b"a\xff", capture_output=True, timeout=120)
    assert bad.returncode == 65 and b"--text" in bad.stderr and b"UTF-8" in bad.stderr, bad
    out, said = run("--format", "svg", "--out", "-", text="", code=65)
    assert out == b"" and "--text" in said and "empty" in said, said


if __name__ == "__main__":
    harness.main(globals())
