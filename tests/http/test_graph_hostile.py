"""Hostile queries to the graph routes (acceptance point 17, and security): names, ranges, numbers and cursors that nobody
sane sends, ids of other keys, hundreds of random query strings. Every answer is 2xx or 4xx, an error is one JSON envelope
that names the field, and the server lives on.

SPARSED_HOSTILE_COUNT sets how many random queries are sent (400), SPARSED_HOSTILE_SEED which (1).
"""
import json
import os
import random
import re
import sys
import tempfile
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import graph_reference
import harness

PATH = "/v1/attention/captures"
COUNT = int(os.environ.get("SPARSED_HOSTILE_COUNT", "400"))
SEED = int(os.environ.get("SPARSED_HOSTILE_SEED", "1"))
ROOM = tempfile.TemporaryDirectory()
FOLDER = os.path.join(ROOM.name, "model")
os.mkdir(FOLDER)
graph_reference.write_model(FOLDER)
KEYS = os.path.join(ROOM.name, "keys")
with open(KEYS, "w", encoding="utf-8") as file:
    file.write("first-key\nsecond-key\n")
MINE, OTHER = {"Authorization": "Bearer first-key"}, {"Authorization": "Bearer second-key"}
server = harness.Server("--api-key-file", KEYS, "--threads", "2", model=FOLDER)
N = 70


def capture(**fields):
    body = dict({"input": graph_reference.tokens(3, N), "labels": {"pos": ["A", "B"] * (N // 2)}}, **fields)
    reply = server.post(PATH, body, headers=MINE)
    assert reply.status == 201, reply
    return reply.json()["id"]


def get(path, headers=MINE):
    return server.get(path, headers=headers)


def check(path, reply, statuses=None):
    """2xx or a client's error in the one envelope; never another."""
    assert 200 <= reply.status < 500, (path, reply)
    assert statuses is None or reply.status in statuses, (path, reply)
    if reply.status >= 400:
        error = reply.error()
        assert set(error) >= {"message", "type", "param", "code"}, (path, reply)
        assert error["code"] == reply.status and error["message"], (path, reply)
        return error
    if reply.status == 200 and reply.headers["content-type"].startswith("application/json"):
        value = json.loads(reply.body, parse_constant=lambda x: 1 / 0)
        assert "error" not in value or value["error"] is None, path
    return None


ONE = capture(attention={"backend": "sparsefinder", "params": {"grouping": "cluster", "clusters": 6}})

NUMBERS = ["-1", "+1", "1e9", "1e400", "NaN", "nan", "inf", "-inf", "Infinity", "0x10", "1.5", "", " 1", "1 ", "1,2", "01", "--1",
           "99999999999999999999", "9223372036854775807", "9223372036854775808", "4294967296", "18446744073709551616",
           "1_0", "١", "1%00", "%00", "1;2", "true", "null", "[]", "1e-400", "1e", ".", "-0", "0.0.0"]
RANGES = ["5-3", "5:3", "5:5", ":", "1:", ":5", "1:2:3", "-1:5", "0:71", "0:99999999999999999999", "a:b", "0:1e1", "1.0:2", "0:NaN",
          " 0:5", "0 :5", "0:5 ", "0:%00", "70:71", "4294967296:4294967297", "18446744073709551616:18446744073709551617"]


def test_numbers():
    for name in ("top_k", "limit"):
        for value in NUMBERS:
            path = "%s/%s/heads/0/0/edges?%s=%s" % (PATH, ONE, name, urllib.parse.quote(value, safe="%"))
            error = check(path, get(path))
            assert error is None or error["param"] == name, (path, error)
            if re.fullmatch(r"\d{1,9}", value) is None:
                assert error or value in ("+1", "-0", "9223372036854775807", "4294967296"), (path, value)
    for name in ("min_weight", "mass"):
        for value in NUMBERS:
            path = "%s/%s/heads/0/0/edges?%s=%s" % (PATH, ONE, name, urllib.parse.quote(value, safe="%"))
            error = check(path, get(path))
            assert error is None or (error["param"] == name and error["code"] == 400), (path, error)
            if re.search(r"(?i)n|x|--|_|%|,|;|^$|^-1|e400|\[|t", value):
                assert error, (path, "taken")
    for value in NUMBERS:
        quoted = urllib.parse.quote(value, safe="%")
        for where, name in (("/heads/%s/0/edges", "layer"), ("/heads/0/%s/edges", "head"), ("/heads/0/0/rows/%s", "row"),
                            ("/heads/0/0/cols/%s", "col"), ("/heads/0/0/clusters/%s", "cluster")):
            path = PATH + "/" + ONE + where % quoted
            error = check(path, get(path), (200, 404) if value in ("", "01") else (400,) if "%00" in value else (404,))
            assert error is None or error["param"] in (name, None), (path, error)
        for k in range(3):
            place = ["0", "0", "0"]
            place[k] = quoted
            path = "%s/%s/heads/0/0/tiles/%s" % (PATH, ONE, "/".join(place))
            check(path, get(path), (400, 404) if value != "01" else (200, 204, 404))
        for route in ("overview?layer", "aggregate?op=mean&layers", "aggregate?op=mean&heads", "heads?layers", "heads?min_recall",
                      "heads?max_edges_gold", "tokens?from", "tokens?to", "export?format=csv&head=0&layer", "labels?layers"):
            path = "%s/%s/%s=%s" % (PATH, ONE, route, quoted)
            error = check(path, get(path))
            if value.lower() in ("nan", "inf", "-inf", "infinity", "1e400", ""):
                assert error and error["param"] == re.split(r"[?&]", route)[-1], (path, error)


def test_ranges():
    for value in RANGES:
        for name in ("rows", "cols"):
            for route in ("heads/0/0/edges?", "aggregate?op=mean&", "export?format=csv&layer=0&head=0&", "export?format=svg&layer=0&head=0&",
                          "export?format=bertviz&"):
                path = "%s/%s/%s%s=%s" % (PATH, ONE, route, name, urllib.parse.quote(value, safe="%:"))
                error = check(path, get(path), (400,))
                assert error["param"] == name, (path, error)


def test_names():
    """Unknown and doubled parameters, a parameter of another route, names of other case."""
    routes = ["", "/tokens", "/heads", "/heads/0/0/edges", "/heads/0/0/rows/0", "/heads/0/0/cols/0", "/heads/0/0/tiles/0/0/0",
              "/overview?layer=0", "/aggregate?op=mean", "/labels", "/heads/0/0/clusters", "/heads/0/0/clusters/0",
              "/export?format=csv&layer=0&head=0", "/sweeps/none"]
    for route in routes:
        glue = "&" if "?" in route else "?"
        for extra, name in (("nonsense=1", "nonsense"), ("GRAPH=gold", "GRAPH"), ("=1", None), ("graph%00=gold", None), ("a" * 500 + "=1", None)):
            path = PATH + "/" + ONE + route + glue + extra
            error = check(path, get(path), (400, 404) if route else (200, 400))
            assert not error or name is None or error["code"] == 404 or error["param"] == name, (path, error)
    for query, name in (("graph=gold&graph=pred", "graph"), ("top_k=1&top_k=1", "top_k"), ("rows=0:5&rows=0:6", "rows")):
        path = "%s/%s/heads/0/0/edges?%s" % (PATH, ONE, query)
        assert check(path, get(path), (400,))["param"] == name
    for route in ("rows/3?rows=0:5", "rows/3?cols=0:5", "cols/3?rows=0:5", "cols/3?cols=0:5"):
        path = "%s/%s/heads/0/0/%s" % (PATH, ONE, route)
        assert check(path, get(path), (400,))["param"] == route[7:11]
    for value in ("%", "%0", "%zz", "%00", "a%00", "%0a", "%ff", "%c3%28", "%ed%a0%80"):
        path = "%s/%s/tokens?q=%s" % (PATH, ONE, value)
        assert check(path, get(path), (400,))["param"] == "q"
    for query in ("", "?", "?&", "?&&graph=gold", "?graph=gold&", "?graph"):
        path = "%s/%s/heads/0/0/edges%s" % (PATH, ONE, query)
        check(path, get(path))


def test_cursors():
    base = "%s/%s/heads/0/0/edges?limit=20" % (PATH, ONE)
    cursor = get(base).json()["next"]
    assert get(base + "&cursor=" + cursor).status == 200
    other = capture()
    for wrong in [cursor[:i] + ("0" if c != "0" else "1") + cursor[i + 1:] for i, c in enumerate(cursor)] + \
            [cursor.upper() + "0", cursor[::-1], "-" + cursor, cursor * 2, cursor + "%00", "%00", "..", "f" * len(cursor), cursor + " "]:
        error = check(wrong, get(base + "&cursor=" + wrong), (400,))
        assert error["param"] == "cursor", (wrong, error)
    for id, route in ((ONE, "heads/0/1/edges?"), (ONE, "heads/1/0/edges?"), (other, "heads/0/0/edges?"), (ONE, "heads/0/0/edges?graph=pred&"),
                      (ONE, "heads/0/0/edges?rows=0:70&"), (ONE, "aggregate?op=mean&"), (ONE, "heads/0/0/clusters/0?"),
                      (ONE, "export?format=json&layer=0&head=1&")):
        path = "%s/%s/%slimit=20&cursor=%s" % (PATH, id, route, cursor)
        assert check(path, get(path), (400,))["param"] == "cursor", path
    members = get("%s/%s/heads/0/0/clusters/0?limit=2" % (PATH, ONE)).json()["next"]
    path = "%s/%s/heads/0/0/clusters/1?limit=2&cursor=%s" % (PATH, ONE, members)
    assert check(path, get(path), (400,))["param"] == "cursor"


def test_others():
    """With another key every route answers as if the capture were not there."""
    never = "attn-000000000000000000000000"
    routes = ["", "/tokens", "/heads", "/heads/0/0/edges", "/heads/0/0/rows/0", "/heads/0/0/cols/0", "/heads/0/0/tiles/0/0/0",
              "/overview?layer=0", "/aggregate?op=mean", "/labels", "/heads/0/0/clusters", "/export?format=png", "/heads/9/9/edges",
              "/heads/0/0/edges?rows=5-3", "/sweeps/x", "/export?format=bertviz"]
    reply = server.post("%s/%s/sweep" % (PATH, ONE), {"attention": "window", "grid": {"window": [3]}}, headers=MINE)
    assert reply.status == 202
    routes.append(reply.headers["location"][len(PATH + "/" + ONE):])
    for route in routes:
        theirs, missing = get(PATH + "/" + ONE + route, OTHER), get(PATH + "/" + never + route, OTHER)
        assert theirs.status == missing.status, (route, theirs, missing)
        assert theirs.body.replace(ONE.encode(), b"X") == missing.body.replace(never.encode(), b"X"), (route, theirs, missing)
    for a, b in ((ONE, ONE), (ONE, never), (never, ONE)):
        assert get("/v1/attention/compare?a=%s&b=%s&layer=0&head=0" % (a, b), OTHER).status == 404
    body = {"attention": "window", "grid": {"window": [3]}}
    assert server.post("%s/%s/sweep" % (PATH, ONE), body, headers=OTHER).status == 404
    assert server.request("DELETE", PATH + "/" + ONE, headers=OTHER).status == 404
    assert get(PATH + "/" + ONE, {}).status == 401
    for id in ("attn-", "attn-" + "z" * 24, "../" + ONE, ONE + "0", ONE[:-1], ONE.upper(), "%2e%2e", "a" * 3000, "%00", ONE + "%00"):
        path = PATH + "/" + id + "/heads"
        check(path, get(path), (400, 404, 414))
    assert get(PATH + "/" + ONE).status == 200


def test_use():
    """What is refused keeps nothing alive."""
    def expires():
        return get(PATH + "/" + ONE).json()["expires"]
    get("%s/%s/tokens?to=1" % (PATH, ONE))
    first = expires()
    time.sleep(1.2)
    for route in ("heads/0/0/edges?rows=5-3", "heads/9/0/edges", "nowhere", "overview?layer=7"):
        assert get("%s/%s/%s" % (PATH, ONE, route)).status in (400, 404)
    assert expires() == first
    assert get("%s/%s/tokens?to=1" % (PATH, ONE)).status == 200
    assert expires() > first


def random_query(draw):
    """A route with parameters of any route and values of any kind."""
    small = [str(draw.randint(-2, 80)) for _ in range(3)]
    route = draw.choice(["heads", "tokens", "overview", "labels", "aggregate", "export", "heads/%s/%s/edges" % (small[0], small[1]),
                         "heads/%d/%d/edges" % (draw.randint(0, 2), draw.randint(0, 3)),
                         "heads/0/1/rows/" + small[0], "heads/0/1/cols/" + small[1], "heads/1/1/tiles/0/0/0",
                         "heads/1/1/tiles/" + "/".join(small), "heads/2/3/clusters", "heads/2/3/clusters/" + small[2]])
    values = NUMBERS + RANGES + small + ["gold", "pred", "missed", "both", "extra", "after", "0:9", "3:70", "0,1", "mean", "rollout",
                                         "reach2", "csv", "png", "svg", "html", "npz", "dot", "graphml", "bertviz", "exbert", "circuitsvis",
                                         "json", "safetensors", "f32", "u16", "recall", "-recall", "diff", "mass", "max", "pos", "é", "\x7f", "<b>",
                                         "x" * 300, "panels", "lines", "matrix", "overview", "log", "dark", "viridis", "0.5", "1", "2"]
    names = ["graph", "rows", "cols", "top_k", "min_weight", "mass", "limit", "cursor", "format", "weights", "sort", "pattern", "min_recall",
             "max_entropy", "layers", "heads", "layer", "head", "op", "stat", "from", "to", "q", "view", "scale", "colors", "theme", "set", "by", "x"]
    likely = {"format": ["json", "csv", "png", "svg", "html", "npz", "safetensors", "binary"], "graph": ["gold", "pred", "missed", "after", "extra"],
              "op": ["mean", "max", "union", "rollout", "reach2"], "layer": ["0", "1", "2"], "head": ["0", "3"], "top_k": ["0", "3", "70"],
              "rows": ["0:9", "3:70", "69:70"], "cols": ["0:1", "5:60"], "mass": ["0", "0.5", "1"], "min_weight": ["0", "0.1", "1"],
              "limit": ["1", "30"], "weights": ["f32", "u16"], "view": ["panels", "lines", "matrix", "overview"], "layers": ["0", "2,1"],
              "heads": ["3", "0,2"], "stat": ["count", "mass", "max", "diff"], "sort": ["recall", "-edges_gold"], "theme": ["dark"],
              "scale": ["log", "linear"], "colors": ["grey"], "from": ["0", "9"], "to": ["70", "10"], "set": ["pos"], "q": ["a", "é"]}
    edges = ["graph", "rows", "cols", "top_k", "min_weight", "mass"]
    takes = {"heads": ["sort", "pattern", "layers", "heads", "min_recall"], "tokens": ["from", "to", "q"], "overview": ["graph", "format"],
             "labels": ["graph", "set", "layers"], "aggregate": edges + ["limit", "weights", "layers", "heads"],
             "export": edges + ["view", "scale", "colors", "theme", "head"], "edges": edges + ["limit", "weights", "format"],
             "rows": edges[:1] + edges[3:], "cols": edges[:1] + edges[3:], "tiles": ["graph", "stat"], "clusters": ["set", "limit"]}
    sane = draw.random() < 0.6
    own = next(names_of for key, names_of in reversed(list(takes.items())) if key in route)
    parts = []
    if route == "export":
        parts.append("format=" + draw.choice(["csv", "png", "svg", "html", "npz", "dot", "graphml", "bertviz", "exbert", "circuitsvis", "json"]))
    if route == "aggregate":
        parts.append("op=" + draw.choice(likely["op"]))
    if route in ("export", "overview"):
        parts.append("layer=%d" % draw.randint(0, 3))
    for name in draw.sample(own if sane else names, draw.randint(0, 2)):
        value = draw.choice(likely[name]) if name in likely and (sane or draw.random() < 0.5) else draw.choice(values)
        parts.append(name + "=" + urllib.parse.quote(value, safe="%:,"))
    return "%s/%s/%s?%s" % (PATH, ONE, route, "&".join(parts))


def test_random():
    draw, seen = random.Random(SEED), {}
    for at in range(COUNT):
        path = random_query(draw)
        reply = get(path)
        check("%d %s" % (at, path), reply)
        seen[reply.status] = seen.get(reply.status, 0) + 1
    assert seen.get(200, 0) > COUNT // 5 and seen.get(400, 0) > COUNT // 5, seen
    assert get(PATH + "/" + ONE).status == 200


if __name__ == "__main__":
    with server:
        harness.main(globals())
