#!/usr/bin/python3
"""sparsed import-fit from outside. The fixtures are also read by Python's own pickle, with only the names of torch that
they use stood in for, and the fit's tensors must hold the same numbers. Arguments: root, build folder."""
import collections
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

import numpy as np

ROOT, BUILD = sys.argv[1], sys.argv[2]
FIXTURES = os.path.join(ROOT, "tests/golden/import")
TYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"}


class Reader(pickle.Unpickler):
    """What torch.load does with these files."""

    def __init__(self, path):
        self.zip = zipfile.ZipFile(path)
        super().__init__(self.zip.open("archive/data.pkl"))

    def find_class(self, module, name):
        if name in TYPES:
            return name
        return {"OrderedDict": lambda: Attributes(), "_rebuild_tensor_v2": self.tensor}[name]

    def persistent_load(self, pid):
        _, kind, key, device, n = pid
        data = np.frombuffer(self.zip.read("archive/data/" + key), TYPES[kind])
        assert len(data) == n and device == "cpu"
        return data

    @staticmethod
    def tensor(storage, offset, shape, strides, grad, hooks):
        assert offset == 0 and not grad and not hooks
        return np.lib.stride_tricks.as_strided(storage, shape, [s * storage.itemsize for s in strides])


class Attributes(collections.OrderedDict):
    pass


def run(*arguments):
    return subprocess.run([os.path.join(BUILD, "sparsed"), "import-fit", *arguments], capture_output=True, timeout=120)


def read_fit(path):
    with open(path, "rb") as file:
        raw = file.read()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(raw[8 + size + begin:8 + size + end], "<f4").reshape(entry["shape"])
    return tensors, header["__metadata__"]


class ImportFit(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = os.path.join(self.folder.name, "fit.safetensors")

    def tearDown(self):
        self.folder.cleanup()

    def convert(self, projections, centroids=None, *more):
        arguments = ["--projections", os.path.join(FIXTURES, projections), "--out", self.out, *more]
        if centroids:
            arguments += ["--centroids", os.path.join(FIXTURES, centroids)]
        return run(*arguments)

    def check(self, projections, centroids=None, block=None):
        done = self.convert(projections, centroids)
        self.assertEqual(done.returncode, 0, done.stderr)
        tensors, metadata = read_fit(self.out)
        self.assertEqual((metadata["format"], metadata["layers"], metadata["heads"], metadata["d"], metadata["r"]),
                         ("sparsed.sparsefinder.v1", "2", "2", "4", "2"))
        self.assertEqual(float(metadata["alpha"]), 1.5)
        expected = {}
        for layer, sides in enumerate(Reader(os.path.join(FIXTURES, projections)).load()):
            same = all(np.array_equal(sides["q"][key], sides["k"][key]) for key in "wb")
            for part in ("", "block%d." % block if block else ""):
                for side in "q" if same else "qk":
                    name = "layers.%d.self.%s%s_proj." % (layer, part, side)
                    expected[name + "weight"] = sides[side]["w"]
                    expected[name + "bias"] = sides[side]["b"][:, 0]
        if centroids:
            for layer, values in enumerate(Reader(os.path.join(FIXTURES, centroids)).load()):
                part = "block%d." % block if block else ""
                expected["layers.%d.self.%scentroids" % (layer, part)] = values
        self.assertEqual(sorted(tensors), sorted(expected))
        for name, values in expected.items():
            np.testing.assert_array_equal(tensors[name], values, name)
        return done.stdout.decode()

    def test_forms(self):
        self.assertIn("2 layers, 2 heads of 4, rank 2, separate maps", self.check("projections.pt"))
        self.assertIn("shared maps", self.check("shared.pt"))
        self.check("half.pt")
        self.assertIn("3 centroids in 1 runs", self.check("projections.pt", "centroids.pickle"))
        self.assertIn("for blocks of 2", self.check("projections.pt", "blocks.pt", block=2))

    def test_same_bytes(self):
        self.check("projections.pt", "centroids.pickle")
        with open(self.out, "rb") as file:
            first = file.read()
        self.check("projections.pt", "centroids.pickle")
        with open(self.out, "rb") as file:
            self.assertEqual(file.read(), first)

    def test_serves(self):
        """Projections of the bundled model's shape, named after it by --model, serve it; without the name they do not."""
        sys.path.insert(0, os.path.join(ROOT, "tests/support"))
        import make_import_corpus as corpus
        corpus.H, corpus.D, corpus.R, corpus.LAYERS = 4, 64, 4, 6
        corpus.linear.__defaults__ = ("FloatStorage", "f", 4)
        corpus.layers.__defaults__ = (6,)
        austen = os.path.join(ROOT, "models/austen")
        projections, text = (os.path.join(self.folder.name, name) for name in ("p.pt", "text.txt"))
        with open(projections, "wb") as file:
            file.write(corpus.projections())
        with open(text, "w") as file:
            file.write("It is a truth universally acknowledged, that a single man must be in want of a wife.")
        attention = json.dumps({"backend": "sparsefinder",
                                "params": {"grouping": "distance", "metric": "l2", "threshold": 3}})
        for model, code in (["--model", austen], 0), ([], 65):
            done = run("--projections", projections, "--out", self.out, *model)
            self.assertEqual(done.returncode, 0, done.stderr)
            name = read_fit(self.out)[1].get("model")
            self.assertEqual(len(name) if name else 0, 64 if model else 0)
            score = subprocess.run([os.path.join(BUILD, "sparsed"), "score", "--model", austen, "--fit", self.out, "--text",
                                    text, "--attention", attention], capture_output=True, timeout=120)
            self.assertEqual(score.returncode, code, score.stderr)

    def refuse(self, code, words, *arguments):
        done = run(*arguments, "--out", self.out)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(words, done.stderr.decode())
        self.assertFalse(os.path.exists(self.out))

    def test_refusals(self):
        projections = os.path.join(FIXTURES, "projections.pt")
        self.refuse(64, "--projections")
        self.refuse(66, "absent.pt", "--projections", "absent.pt")
        self.refuse(65, "2 layers, expected are 12", "--projections", projections, "--layers", "12")
        self.refuse(65, "2 heads, expected are 3", "--projections", projections, "--heads", "3")
        self.refuse(65, "is an MLP", "--projections", os.path.join(FIXTURES, "mlp.pt"))
        austen = os.path.join(ROOT, "models/austen")
        self.refuse(65, "2 layers, expected are", "--projections", projections, "--model", austen)
        self.refuse(64, "the model of --model has", "--projections", projections, "--model", austen, "--heads", "2")
        marker = os.path.join(self.folder.name, "pwned")
        code = b"\x80\x02cos\nsystem\n(X" + struct.pack("<I", 6 + len(marker)) + b"touch " + marker.encode() + b"tR."
        hostile = os.path.join(self.folder.name, "hostile.pt")
        with zipfile.ZipFile(hostile, "w") as archive:
            archive.writestr("archive/data.pkl", code)
        self.refuse(65, "os.system", "--projections", hostile)
        self.assertFalse(os.path.exists(marker))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
