#!/usr/bin/python3
"""sparsed sweep from outside, on a short text: files, figures against `sparsed score`, two runs, going on, refusals.
Arguments: root, build folder."""
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

ROOT, BUILD = sys.argv[1], sys.argv[2]
PROGRAM = os.path.join(BUILD, "sparsed")
MODEL = os.path.join(ROOT, "models/austen")
SECONDS = ("prefill_seconds", "prefill_seconds_dense", "decode_seconds", "decode_seconds_dense")


def run(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=300, text=True)


class Sweep(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.text = os.path.join(cls.folder.name, "text.txt")
        with open(os.path.join(MODEL, "heldout.txt")) as file, open(cls.text, "w") as out:
            out.write(file.read()[2000:5000])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def sweep(self, name, grid, *more, code=0):
        done = run("sweep", "--model", MODEL, "--text", self.text, "--length", "128", "--windows", "2", "--out",
                   os.path.join(self.folder.name, name), "--grid", grid, *more)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def points(self, name):
        with open(os.path.join(self.folder.name, name, "sweep.json")) as file:
            return json.load(file)

    def test_two_runs(self):
        found = []
        for name in ("one", "two"):
            self.sweep(name, "window=3,33;strided=8")
            found.append(self.points(name))
            for point in found[-1]["points"]:
                for key in SECONDS:
                    self.assertGreater(point.pop(key), 0)
        self.assertEqual(found[0], found[1])
        sweep = found[0]
        self.assertEqual(sweep["format"], "sparsed.sweep.v1")
        self.assertEqual([point["attention"]["backend"] for point in sweep["points"]],
                         ["dense", "window", "window", "strided"])
        dense, narrow, wide, _ = sweep["points"]
        self.assertEqual((dense["density"], dense["recall"]), (1, 1))
        self.assertAlmostEqual(dense["mass"], 1, places=5)
        self.assertLess(narrow["recall"], wide["recall"])
        for point in sweep["points"]:
            self.assertEqual((point["length"], point["windows"], point["device"]), (128, 2, "cpu"))
            self.assertEqual(point["perplexity_dense"], dense["perplexity"])
            self.assertFalse(point["selection_sees_later_tokens"])

    def test_figures(self):
        """Perplexity and means over heads as `sparsed score --json` gives them for the same two windows."""
        self.sweep("figures", "window=17")
        point = self.points("figures")["points"][1]
        with open(self.text) as file:
            text = file.read()
        tokenize = subprocess.run([PROGRAM, "tokenize", "--model", MODEL, "--special"], capture_output=True,
                                  input=json.dumps([text]), text=True, timeout=60)
        offsets = json.loads(tokenize.stdout)[0]["offsets"]
        part = os.path.join(self.folder.name, "part.txt")
        with open(self.text, "rb") as file, open(part, "wb") as out:
            out.write(file.read()[:offsets[256][1]])
        attention = dict(point["attention"], measure=True)
        scored = json.loads(run("score", "--model", MODEL, "--text", part, "--length", "128", "--json", "--attention",
                                json.dumps(attention)).stdout)
        self.assertEqual(scored["data"][0]["n_scored"], 256)
        self.assertAlmostEqual(point["perplexity"], scored["data"][0]["perplexity"], places=9)
        report = scored["attention_report"]
        self.assertEqual(point["density"], report["prefill"]["density"])
        for name in ("recall", "mass"):
            mean = sum(head[name] for head in report["heads"]) / len(report["heads"])
            self.assertAlmostEqual(point[name], mean, places=12)

    def test_files(self):
        self.sweep("files", "window=3,9,33")
        folder = os.path.join(self.folder.name, "files")
        self.assertEqual(sorted(os.listdir(folder)), ["sweep.csv", "sweep.html", "sweep.json", "sweep.svg"])
        with open(os.path.join(folder, "sweep.csv"), newline="") as file:
            rows = list(csv.DictReader(file))
        for row, point in zip(rows, self.points("files")["points"], strict=True):
            self.assertEqual(json.loads(row["attention"]), point["attention"])
            self.assertEqual(float(row["recall"]), point["recall"])
            self.assertAlmostEqual(float(row["sparsity"]), 1 - point["density"], places=12)
        front = [(float(row["sparsity"]), float(row["recall"])) for row in rows if row["recall_front"] == "1"]
        front.sort()
        self.assertEqual([recall for _, recall in front], sorted((recall for _, recall in front), reverse=True))
        with open(os.path.join(folder, "sweep.html")) as file:
            page = file.read()
        self.assertNotIn("<script", page)
        self.assertEqual(page.count("http"), page.count("http://www.w3.org/2000/svg") + page.count("http-equiv"))
        self.assertEqual(page.count('scope="row"'), len(rows))

    def test_goes_on(self):
        self.sweep("on", "window=3")
        first = self.points("on")["points"]
        done = self.sweep("on", "window=3,5")
        second = self.points("on")["points"]
        self.assertEqual(second[:2], first)
        self.assertEqual(len(second), 3)
        self.assertNotIn("window 3:", done.stderr)
        self.assertIn("window 5:", done.stderr)

    def test_retime(self):
        self.sweep("times", "window=3;strided=8")
        first = self.points("times")["points"]
        done = self.sweep("times", "window=3,5;strided=8", "--retime")
        second = self.points("times")["points"]
        self.assertIn("window 3:", done.stderr)
        self.assertNotIn("window 5:", done.stderr)
        self.assertNotEqual([[p[key] for key in SECONDS] for p in first], [[p[key] for key in SECONDS] for p in second])
        for point in first + second:
            for key in SECONDS:
                point.pop(key)
        self.assertEqual(first, second)

    def test_stopped(self):
        out = os.path.join(self.folder.name, "stopped")
        process = subprocess.Popen([PROGRAM, "sweep", "--model", MODEL, "--text", os.path.join(MODEL, "heldout.txt"),
                                    "--length", "256", "--windows", "2", "--out", out], stderr=subprocess.PIPE, text=True)
        while "window 3:" not in (line := process.stderr.readline()):
            self.assertTrue(line, "it has ended")
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(timeout=60), 0)
        self.assertTrue(3 <= len(self.points("stopped")["points"]) < 150)  # of 197

    def test_skips_and_refusals(self):
        done = self.sweep("skips", "longformer=4;fixed=1,8")  # two summary columns of one do not exist
        self.assertIn("fixed 1: skipped: ", done.stderr)
        self.assertEqual([point["value"] for point in self.points("skips")["points"]], [None, 8, 4])
        self.sweep("x", "windw", code=64)
        self.sweep("x", "window", "--backends", "sliding", code=64)
        self.sweep("x", "window", "--length", "1000", code=64)  # longer than the text
        other = os.path.join(self.folder.name, "other.txt")
        with open(self.text) as file, open(other, "w") as out:
            out.write(file.read() + " More.")
        done = self.sweep("skips", "window=3", "--text", other, code=65)
        self.assertIn("is of another text", done.stderr)
        self.assertEqual(run("sweep", "--model", MODEL, "--text", self.text).returncode, 64)
        self.assertEqual(run("sweep", "--model", MODEL, "--text", self.text, "--out", self.text).returncode, 64)
        self.assertEqual(run("sweep", "--model", MODEL, "--text", "absent", "--out", self.folder.name).returncode, 66)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
