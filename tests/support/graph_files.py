"""Reads exported attention graphs, {(query, key): weight} of each format, with numpy and the standard library alone."""
import csv
import html.parser
import io
import json
import re
import struct
import xml.etree.ElementTree as tree
import zipfile

import numpy


def read_npz(data):
    """Arrays of an npz file, parsed here."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            arrays[name] = numpy.load(io.BytesIO(archive.read(name)))
    return arrays


def npz_edges(data, shape):
    arrays = read_npz(data)
    assert arrays["format.npy"].item() == b"csr" and tuple(arrays["shape.npy"]) == shape
    rows = numpy.repeat(numpy.arange(shape[0]), numpy.diff(arrays["indptr.npy"]))
    return dict(zip(zip(rows.tolist(), arrays["indices.npy"].tolist()), arrays["data.npy"]))


def read_safetensors(data):
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    types = {"U16": "<u2", "U32": "<u4", "F32": "<f4"}
    meta, arrays = header.pop("__metadata__"), {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        item = numpy.dtype(types[entry["dtype"]]).itemsize
        assert (8 + size + begin) % item == 0, "%s is not aligned" % name
        arrays[name] = numpy.frombuffer(data[8 + size + begin:8 + size + end], types[entry["dtype"]])
    return meta, arrays


def csr_edges(first, indptr, indices, weights):
    rows = numpy.repeat(numpy.arange(len(indptr) - 1) + first, numpy.diff(indptr))
    return dict(zip(zip(rows.tolist(), numpy.asarray(indices).tolist()), weights))


def graphml_edges(data):
    space = "{http://graphml.graphdrawing.org/xmlns}"
    graph = tree.fromstring(data).find(space + "graph")
    nodes = {node.get("id"): {d.get("key"): d.text or "" for d in node} for node in graph.findall(space + "node")}
    edges = {}
    for edge in graph.findall(space + "edge"):
        ends = edge.get("source"), edge.get("target")
        assert ends[0] in nodes and ends[1] in nodes, "an edge without its node"
        edges[int(ends[0][1:]), int(ends[1][1:])] = numpy.float32(edge[0].text)
    return nodes, edges


def dense_edges(matrix, row, column):
    matrix = numpy.array(matrix, numpy.float32)
    return {(int(i) + row, int(j) + column): matrix[i, j] for i, j in zip(*matrix.nonzero())}


def csv_edges(text):
    rows = csv.DictReader(io.StringIO(text))
    return {(int(r["query"]), int(r["key"])): numpy.float32(r["weight"]) for r in rows}


def dot_edges(text):
    found = re.findall(r'^  n(\d+) -> n(\d+) \[weight="([^"]*)"\];$', text, re.M)
    return {(int(q), int(k)): numpy.float32(w) for q, k, w in found}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.styles, self.cells, self.policy, self.now = [], [], [], [], "", None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.now = tag
        if tag == "meta" and "http-equiv" in attrs:
            self.policy = attrs["content"]
        if tag in ("script", "style"):
            (self.scripts if tag == "script" else self.styles).append([attrs.get("type"), ""])
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        self.now = None

    def handle_data(self, data):
        if self.now == "script":
            self.scripts[-1][1] += data
        elif self.now == "style":
            self.styles[-1][1] += data
        elif self.now == "td":
            self.cells[-1] += data
