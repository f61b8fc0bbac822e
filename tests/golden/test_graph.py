"""Exports and pictures of attention graphs, written by graph_exporter, read with other programs: numpy, expat, zlib, and
scipy and networkx where they are installed. All formats hold the same edges; hostile tokens stay text; pictures are well
formed, their labels neither overlap nor leave the picture, and what is an edge is seen."""
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as tree

import numpy

ROOT, BUILD = sys.argv[1:3]
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import png_reader
from graph_files import Page, csv_edges, csr_edges, dense_edges, dot_edges, graphml_edges, npz_edges, read_safetensors

SVG = "{http://www.w3.org/2000/svg}"
SCENES = {"whole": (40, 40), "part": (150, 150), "one": (1, 1), "full": (24, 24), "large": (900, 900)}
REPLACED = "\ufffd"
passed = failed = 0


def check(good, what):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("FAILED", what)


class Folder:
    def __init__(self, path):
        self.path = path

    def bytes(self, name):
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def text(self, name):
        return self.bytes(name).decode("utf-8")

    def edges(self, scene):
        lines = [line.split() for line in self.text(scene + ".edges").splitlines()]
        return {(int(q), int(k)): numpy.float32(w) for q, k, w in lines}


def skip(what):
    print("SKIPPED: %s is not installed" % what)


# --- files ---


def check_tables(folder, scene, edges, window):
    shape = SCENES[scene]
    check(csv_edges(folder.text(scene + ".csv")) == edges, scene + ": csv")
    check(npz_edges(folder.bytes(scene + ".npz"), shape) == edges, scene + ": npz")
    meta, arrays = read_safetensors(folder.bytes(scene + ".safetensors"))
    found = csr_edges(window[0], arrays["indptr"], arrays["indices"], arrays["weights"] / 65535)
    check(found.keys() == edges.keys() and all(0 < found[e] and abs(found[e] - edges[e]) <= 1 / 65535 for e in edges),
          scene + ": safetensors")
    check(meta["rows"] == "%d:%d" % window and meta["graph"] == "gold" and meta["layer"] == "1", scene + ": metadata")
    nodes, found = graphml_edges(folder.bytes(scene + ".graphml"))
    check(found == edges and len(nodes) == window[1] - window[0], scene + ": graphml")
    check(dot_edges(folder.text(scene + ".dot")) == edges, scene + ": dot")


def check_dense(folder, scene, edges, window):
    bertviz, circuits, exbert = (json.loads(folder.text(scene + "." + f)) for f in ("bertviz", "circuitsvis", "exbert"))
    entry = bertviz["attention"][0]
    check(dense_edges(entry["attn"][0][0], window[0], window[0]) == edges, scene + ": bertviz")
    check(len(entry["left_text"]) == len(entry["attn"][0][0]) == window[1] - window[0], scene + ": bertviz texts")
    check(bertviz["include_layers"] == [1] and bertviz["default_filter"] == "0", scene + ": bertviz parameters")
    check(dense_edges(circuits["attention"][0], window[0], window[0]) == edges, scene + ": circuitsvis")
    check(circuits["attentionHeadNames"] == ["L1H2"] and circuits["maskUpperTri"] == (scene != "full"),
          scene + ": circuitsvis parameters")
    aa = exbert["payload"]["aa"]
    found = dense_edges(aa["att"][0], window[0], window[0])
    check(all(abs(found.get(e, 0) - edges[e]) <= 6e-6 for e in edges) and found.keys() <= edges.keys(), scene + ": exbert")
    check(len(aa["left"]) == len(aa["right"]) == window[1] - window[0] and "bpe_token" in aa["left"][0],
          scene + ": exbert tokens")


def check_scipy(folder):
    try:
        import scipy.sparse
    except ImportError:
        return skip("python3-scipy")
    for scene, shape in SCENES.items():
        matrix = scipy.sparse.load_npz(os.path.join(folder.path, scene + ".npz"))
        coo, edges = matrix.tocoo(), folder.edges(scene)
        check(scipy.sparse.isspmatrix_csr(matrix) and matrix.shape == shape, scene + ": scipy shape")
        check(dict(zip(zip(coo.row.tolist(), coo.col.tolist()), coo.data)) == edges, scene + ": scipy edges")


def check_networkx(folder):
    try:
        import networkx
    except ImportError:
        return skip("python3-networkx")
    for scene in SCENES:
        graph, edges = networkx.read_graphml(os.path.join(folder.path, scene + ".graphml")), folder.edges(scene)
        found = {(int(q[1:]), int(k[1:])): numpy.float32(d["weight"]) for q, k, d in graph.edges(data=True)}
        check(graph.is_directed() and found == edges, scene + ": networkx")
        check(all("token" in data for _, data in graph.nodes(data=True)), scene + ": networkx tokens")


def check_hostile(folder):
    """Tokens 1 to 5 of the scene: markup, quotes, controls, ill-formed bytes, 10 kB."""
    expected = ["</script><img src=x onerror=alert(1)>", "\"'&amp;<b>]]>", None, REPLACED * 3, "x" * 10240]
    nodes, _ = graphml_edges(folder.bytes("whole.graphml"))
    texts = [json.loads(folder.text("whole.circuitsvis"))["tokens"][i] for i in range(1, 6)]
    for i, token in enumerate(expected):
        if token:
            check(nodes["n%d" % (i + 1)]["token"] == token, "graphml: token %d" % (i + 1))
            check(texts[i] == token, "circuitsvis: token %d" % (i + 1))
    check(nodes["n3"]["token"] == REPLACED * 2 + "[31m" + REPLACED * 2 + "z", "graphml: controls")
    dot = folder.text("whole.dot")
    check('n2 [token="\\"\'&amp;<b>]]>"' in dot, "dot: quotes")
    check(all(c >= " " or c == "\n" for c in dot), "dot: controls")


# --- the page ---


def digest(text):
    return "'sha256-%s'" % base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def check_page(folder, scene, edges, window):
    text, page = folder.text(scene + ".html"), Page()
    page.feed(text)
    names = [tag for tag, _ in page.tags]
    check(names.count("script") == 2 and names.count("style") == 1 and names.count("img") == 0, scene + ": page elements")
    check([kind for kind, _ in page.scripts] == ["application/json", None], scene + ": scripts")
    check("script-src " + digest(page.scripts[1][1]) in page.policy, scene + ": hash of the script")
    check("style-src " + digest(page.styles[0][1]) in page.policy, scene + ": hash of the style")
    check("default-src 'none'" in page.policy and "unsafe" not in page.policy, scene + ": policy")
    attributes = [(name, value or "") for _, attrs in page.tags for name, value in attrs.items()]
    check(not [n for n, _ in attributes if n == "style" or n.startswith("on")], scene + ": inline style or handler")
    check(not [v for n, v in attributes if n in ("href", "src") and not v.startswith("data:")], scene + ": foreign links")
    check(set(re.findall(r"https?://[^\"'\s<]+", text)) <= {"http://www.w3.org/2000/svg"}, scene + ": foreign origins")
    data = json.loads(page.scripts[0][1])
    found = csr_edges(window[0], data["indptr"], data["indices"], numpy.array(data["weights"], numpy.float32))
    check(found == edges and data["rows"] == list(window), scene + ": data of the page")
    check(len(page.cells) == 6 * min(100, len(edges)), scene + ": rows of the table")
    weights = [float(w) for w in page.cells[4::6]]
    check(weights == sorted(weights, reverse=True) and (not edges or weights[0] == max(weights)), scene + ": order")
    if scene == "whole":
        check(data["tokens"][1] == "</script><img src=x onerror=alert(1)>" and data["tokens"][5] == "x" * 10240,
              "page: hostile tokens")


# --- pictures ---


def text_boxes(root):
    """(text, x, y, width, height, upward) of all texts of an SVG picture; width as stated there."""
    boxes = []
    for element in root.iter(SVG + "text"):
        size, text = float(element.get("font-size", 11)), element.text
        width = float(element.get("textLength"))
        turned = re.match(r"translate\(\s*([\d.-]+),\s*([\d.-]+)\)rotate\(-90\)", element.get("transform", ""))
        if turned:
            x, y = map(float, turned.groups())
            boxes.append((text, x - 0.76 * size, y - width, size, width, True))
        else:
            x, y = float(element.get("x")), float(element.get("y"))
            boxes.append((text, x, y - 0.76 * size, width, size, False))
    return boxes


def overlaps(boxes):
    found = []
    for i, (a, ax, ay, aw, ah, _) in enumerate(boxes):
        for b, bx, by, bw, bh, _ in boxes[:i]:
            if ax < bx + bw - 0.1 and bx < ax + aw - 0.1 and ay < by + bh - 0.1 and by < ay + ah - 0.1:
                found.append((a, b))
    return found


def check_svg(folder, scene, view):
    name = "%s-%s.svg" % (scene, view)
    data = folder.bytes(name)
    root = tree.fromstring(data)
    width, height = float(root.get("width")), float(root.get("height"))
    boxes = text_boxes(root)
    outside = [b for b in boxes if b[1] < 0 or b[2] < 0 or b[1] + b[3] > width or b[2] + b[4] > height]
    check(not outside, "%s: cut off: %r" % (name, outside[:3]))
    clashes = overlaps(boxes)
    check(not clashes, "%s: texts overlap: %r" % (name, clashes[:3]))
    words = " ".join(box[0] for box in boxes)
    check("query" in words and "key" in words and "\u2192" in words, name + ": axis words")
    check("austen" in words and "sparsed 0.1.0" in words and "{\"alpha\":1.5}" in words, name + ": title or provenance")
    check("no edge" in words, name + ": legend")
    if scene == "whole":
        check(view == "overview" or "scale" in words, name + ": scale")
    check(root.find(SVG + "title").text.startswith("austen") and "edge" in root.find(SVG + "desc").text, name + ": title")
    check(b"style=" not in data and b"<script" not in data, name + ": inline style")
    check(all(e.get("href", "data:").startswith("data:image/png;base64,") for e in root.iter(SVG + "image")),
          name + ": links")
    return root, boxes


def contrast(a, b):
    def luminance(color):
        c = numpy.asarray(color, float) / 255
        c = numpy.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return c @ numpy.array([0.2126, 0.7152, 0.0722]) + 0.05
    x, y = luminance(a), luminance(b)
    return max(x, y) / min(x, y)


def cell_centres(boxes, n):
    """Centres of rows and columns of a matrix whose every position has a label; unit: that of the picture."""
    columns = [x + 0.76 * 11 - 4 for _, x, _, _, _, upward in boxes if upward]
    flat = [box for box in boxes if not box[5]]
    ends = [round(x + w) for _, x, _, w, _, _ in flat]
    edge = max(set(ends), key=ends.count)
    rows = [y + 0.76 * 11 - 4 for (_, _, y, _, _, _), end in zip(flat, ends) if end == edge]
    assert len(rows) == len(columns) == n, (len(rows), len(columns))
    return rows, columns


def check_cells(folder, edges, boxes, n):
    """In the PNG, which has the layout of the SVG at double size, the middle of a cell is coloured exactly where there
    is an edge; masked cells are neither coloured nor, over their area, the page."""
    pixels, _ = png_reader.read(folder.bytes("whole-matrix.png"))
    rows, columns = cell_centres(boxes, n)
    page, wrong = pixels[0, 0], 0
    for i in range(n):
        for j in range(n):
            y, x = int(2 * rows[i]), int(2 * columns[j])
            seen = contrast(pixels[y, x], page) >= 2.9
            wrong += seen != ((i, j) in edges)
            area = pixels[y - 10:y + 10, x - 10:x + 10].reshape(-1, 3)
            share = (area == page).all(axis=1).mean()
            wrong += (share > 0.5) != (j <= i and (i, j) not in edges)
    check(wrong == 0, "whole-matrix.png: %d cells are wrong" % wrong)


def check_bins(root, edges, n):
    """More positions than cells: the embedded image has a coloured cell exactly where a bin holds an edge."""
    images = [e for e in root.iter(SVG + "image") if float(e.get("width")) > 100]
    check(len(images) == 1, "large-matrix.svg: no image")
    indices, _ = png_reader.read(base64.b64decode(images[0].get("href").split(",", 1)[1]))
    step, expected = -(-n // 720), numpy.zeros(indices.shape, bool)
    for query, key in edges:
        expected[query // step, key // step] = True
    check(indices.shape == (-(-n // step),) * 2 and ((indices > 0) == expected).all(), "large-matrix.svg: bins")


def check_pictures(folder):
    for scene in SCENES:
        edges = folder.edges(scene)
        for view in ("matrix", "panels", "lines", "overview"):
            root, boxes = check_svg(folder, scene, view)
            if view == "lines" and len(edges) <= 2000:
                lines = [e for e in root.iter(SVG + "path") if e.get("stroke-width", "0.7") != "0.7"]
                check(len(lines) == len(edges), "%s: %d lines for %d edges" % (scene, len(lines), len(edges)))
            if view == "matrix" and scene == "whole":
                check_cells(folder, edges, boxes, 40)
            if view == "matrix" and scene == "large":
                check_bins(root, edges, 900)
            if view == "panels":
                words = " ".join(box[0] for box in boxes)
                check(all(w in words for w in ("missed", "extra", "both", "gold", "predicted", "after")), scene + ": panels")
            check(scene == "full" or view == "lines" or "masked" in " ".join(b[0] for b in boxes), scene + ": masked")
    for name in ("whole-matrix", "whole-panels", "whole-lines", "whole-overview", "one-matrix"):
        width, height, texts = png_reader.describe(folder.bytes(name + ".png"))
        root = tree.fromstring(folder.bytes(name + ".svg"))
        check((width, height) == (2 * float(root.get("width")), 2 * float(root.get("height"))), name + ": size")
        check(texts["Title"] == root.find(SVG + "title").text and "sparsed" in texts["Description"], name + ": iTXt")
        if name != "whole-lines":  # a dark picture says brighter where a light one says darker
            check(texts["Description"] == root.find(SVG + "desc").text, name + ": description")


def main():
    program = os.path.join(BUILD, "tests", "graph_exporter")
    if not os.path.exists(program):
        print("not built: " + program)
        sys.exit(77)
    with tempfile.TemporaryDirectory() as path:
        subprocess.run([program, path], check=True)
        folder = Folder(path)
        for scene, shape in SCENES.items():
            edges = folder.edges(scene)
            window = (shape[0] // 3, 2 * shape[0] // 3) if scene == "part" else (0, shape[0])
            check(len(edges) > 0, scene + ": no edges")
            check_tables(folder, scene, edges, window)
            check_dense(folder, scene, edges, window)
            check_page(folder, scene, edges, window)
        check_scipy(folder)
        check_networkx(folder)
        check_hostile(folder)
        check_pictures(folder)
    print("%d passed, %d failed" % (passed, failed))
    sys.exit(1 if failed else 0)


main()
