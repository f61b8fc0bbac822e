#!/usr/bin/python3
"""What the bundled fit keeps of the bundled model, on six windows of 1,024 tokens of text that neither has seen: perplexity
inside of the predicted graph, recall and mass, beside the window with as many edges. Arguments: root, build folder."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT, BUILD = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
MODEL = os.path.join(ROOT, "models/austen")
KEEP = {.8: 90, .9: 34, .95: 7}  # best keys a row, with window 33 and the first token: at least this sparsity
WINDOW = {.8: 213, .9: 101, .95: 49}  # at most this sparsity


class Bounds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        grid = "dot-keep=%s;window=%s;clusters=16,32" % tuple(
            ",".join(map(str, values.values())) for values in (KEEP, WINDOW))
        done = subprocess.run([os.path.join(BUILD, "sparsed"), "sweep", "--model", MODEL, "--text",
                               os.path.join(MODEL, "heldout.txt"), "--length", "1024", "--windows", "6", "--grid", grid,
                               "--out", cls.folder.name], capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr
        with open(os.path.join(cls.folder.name, "sweep.json")) as file:
            points = json.load(file)["points"]
        cls.points = {(point["grid"], point["value"]): point for point in points}
        for name, point in cls.points.items():
            print(name, {key: round(point[key], 4) for key in ("density", "recall", "mass", "perplexity")})

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_dense(self):
        dense = self.points["dense", None]
        self.assertAlmostEqual(dense["perplexity"], 37.26, delta=.05)
        self.assertEqual(dense["recall"], 1)

    def test_perplexity(self):
        for sparsity, most in ((.8, .003), (.9, .005), (.95, .015)):
            dot, window = self.points["dot-keep", KEEP[sparsity]], self.points["window", WINDOW[sparsity]]
            self.assertGreaterEqual(1 - dot["density"], sparsity)
            self.assertLessEqual(1 - window["density"], sparsity + 3e-3)
            self.assertLessEqual(dot["perplexity"], dot["perplexity_dense"] * (1 + most))
            if sparsity >= .9:
                self.assertLess(dot["perplexity"], window["perplexity"])

    def test_recall(self):
        for sparsity, recall, mass in ((.8, .76, .90), (.9, .62, .83)):
            dot, window = self.points["dot-keep", KEEP[sparsity]], self.points["window", WINDOW[sparsity]]
            self.assertGreaterEqual(dot["recall"], recall)
            self.assertGreaterEqual(dot["mass"], mass)
            self.assertGreater(dot["recall"], window["recall"])
            self.assertGreater(dot["mass"], window["mass"])
        best = max(self.points["clusters", 16]["recall"], self.points["clusters", 32]["recall"])
        self.assertGreaterEqual(best, .76)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
