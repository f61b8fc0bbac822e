#!/usr/bin/python3
"""The command line, driven from outside: exit codes, help, generate, attend, bench. Arguments: root, build folder."""
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT, BUILD = sys.argv[1], sys.argv[2]
PROGRAM = os.path.join(BUILD, "sparsed")
MODEL = os.path.join(ROOT, "models/austen")
COMMANDS = ["serve", "generate", "score", "inspect", "tokenize", "attend", "sweep", "fit", "import-fit", "health",
            "bench"]
BENCH_NAMES = ["linear.f32", "linear.bf16", "attention.f32.4096", "attention.bf16.4096", "entmax15.4096.sigma2",
               "entmax15.4096.sigma6", "strided128.8192", "fixed256x8.8192"]


def run(*arguments, stdin=b"", timeout=300, cwd=None):
    return subprocess.run([PROGRAM, *arguments], input=stdin, capture_output=True, timeout=timeout, cwd=cwd)


def safetensors(tensors, metadata):
    """tensors: {name: (shape, numbers)}, all F32. Written as the format's description says, without a library."""
    header, data = {"__metadata__": metadata}, b""
    for name, (shape, numbers) in tensors.items():
        begin = len(data)
        data += struct.pack("<%df" % len(numbers), *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def parse_safetensors(data):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        kind = {"F32": "f", "U32": "I"}[entry["dtype"]]
        raw = data[8 + size + begin:8 + size + end]
        out[name] = (entry["shape"], list(struct.unpack("<%d%s" % (len(raw) // 4, kind), raw)))
    return out, header.get("__metadata__", {})


# Attention worked out by hand (numpy, float64) for d = 2, four keys, causal: expected rows 1, 2, 3.
Q = [1, 0, 0, 1, 1, 1, -1, 2]
K = [1, 0, 0, 1, 1, -1, 2, 1]
V = [1, 0, 0, 1, 2, 2, -1, 3]
EXPECTED = {
    "softmax": [.330238, .669762, .796664, .796664, -.046660, 1.284099],
    "entmax15": [.257939, .742061, .650799, .650799, -.066987, 1.133975],
    "sparsemax": [.146447, .853553, .5, .5, 0, 1],
}


def case_bytes(normalizer, backend="dense"):
    attention = json.dumps({"backend": backend, "normalizer": normalizer})
    shape = [1, 4, 2]
    return safetensors({"q": (shape, Q), "k": (shape, K), "v": (shape, V)},
                       {"attention": attention, "causal": "true"})


class Command(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="sparsed-command-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name, data=None):
        path = os.path.join(self.folder, name)
        if data is not None:
            with open(path, "wb") as file:
                file.write(data)
        return path

    def assert_exit(self, code, result, words=""):
        self.assertEqual(code, result.returncode, result.stderr.decode())
        self.assertIn(words, result.stderr.decode())

    def test_output_that_takes_nothing(self):
        text = self.path("text", b"It was the best of times, it was the worst of times.")
        for command in (["tokenize"], ["inspect"], ["inspect", "--json"], ["generate", "--prompt", "a", "--max-tokens", "1", "--json"],
                        ["score", "--text", text], ["score", "--text", text, "--json"]):
            with open("/dev/full", "wb") as full:
                result = subprocess.run([PROGRAM, *command, "--model", MODEL], input=b'["a"]', stdout=full, stderr=subprocess.PIPE, timeout=300)
            self.assertEqual(70, result.returncode, command)
            said = [line for line in result.stderr.decode().splitlines() if "cannot write" in line]
            self.assertEqual(["sparsed: standard output: cannot write: No space left on device"], said, command)

    def test_help_and_version(self):
        self.assertEqual(b"sparsed 0.1.0\n", run("--version").stdout)
        overview = run("--help")
        self.assert_exit(0, overview)
        self.assert_exit(64, run())
        self.assert_exit(64, run("dance"), "dance")
        for command in COMMANDS:
            self.assertIn(command, overview.stdout.decode())
            result = run(command, "--help")
            self.assert_exit(0, result)
            for words in ("usage: sparsed " + command, "Examples:", "Exit codes:"):
                self.assertIn(words, result.stdout.decode())

    def test_health(self):
        self.assert_exit(69, run("health", "--port", "1"), "127.0.0.1:1")
        self.assert_exit(69, run("health", "--host", "no-such-host.invalid"), "no-such-host.invalid")
        self.assert_exit(64, run("health", "--model", MODEL), "--model")
        server = subprocess.Popen([PROGRAM, "serve", "--model", MODEL, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            port = server.stdout.readline().decode().rsplit(":", 1)[1].strip()
            result = run("health", "--port", port)
            self.assert_exit(0, result)
            self.assertEqual(b"ok\n", result.stdout)
        finally:
            server.terminate()
            server.communicate()
        self.assert_exit(69, run("health", "--port", port), port)

    def test_usage(self):
        self.assert_exit(64, run("serve", "--model", MODEL, "--max-queue", "0"), "--max-queue")
        self.assert_exit(64, run("serve", "--model", MODEL, "--cors-origin", "x"), "--cors-origin")
        self.assert_exit(66, run("serve", "--model", MODEL, "--api-key-file", "/nonexistent/keys"), "/nonexistent/keys")
        self.assert_exit(64, run("serve", "--model", MODEL, "--host", "0.0.0.0"), "--insecure")
        self.assert_exit(64, run("serve", "--port", "0", cwd=self.folder), "--model")
        self.assert_exit(64, run("serve", "--model", MODEL, "--port", "0", "--attention", "lazy"), "lazy")
        self.assert_exit(64, run("serve", "--model", MODEL, "--port", "0", "--normalizer", "lazy"), "lazy")
        self.assert_exit(64, run("generate", "--model", MODEL), "--prompt")
        self.assert_exit(64, run("generate", "--model", MODEL, "--prompt", "x", "--attention",
                                 '{"backend":"strided","params":{"stride":0}}'), "attention.params.stride")

    def test_model_files(self):
        self.assert_exit(66, run("generate", "--prompt", "x", "--model", self.path("nowhere")), "nowhere")
        self.assert_exit(66, run("serve", "--port", "0", "--config", self.path("nowhere")), "nowhere")
        shutil.copytree(MODEL, self.path("broken"))
        with open(self.path("broken/config.json"), "a") as file:
            file.write("}")
        self.assert_exit(65, run("generate", "--prompt", "x", "--model", self.path("broken")), "config.json")
        self.assert_exit(65, run("serve", "--port", "0", "--model", self.path("broken")), "config.json")

    def test_port_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.assert_exit(69, run("serve", "--model", MODEL, "--port", port), port)

    def test_serve_line_and_ceiling(self):
        server = subprocess.Popen([PROGRAM, "serve", "--model", MODEL, "--port", "0", "--kv-bytes", "16M"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        rest, log = server.communicate(timeout=60)
        self.assertRegex(line, r"^sparsed: serving austen on http://127\.0\.0\.1:[1-9]\d*\n$")
        self.assertEqual("", rest)
        self.assertEqual(0, server.returncode, log)
        self.assertRegex(log, r"memory ceiling: \d+ bytes \(weights \d+, KV \d+ = \d+ tokens, scratch \d+, ")

    def test_generate(self):
        arguments = ["generate", "--model", MODEL, "--prompt", "Emma was", "--max-tokens", "20", "--seed", "7"]
        first, again = run(*arguments), run(*arguments)
        self.assert_exit(0, first, "attention dense")
        self.assertEqual(first.stdout, again.stdout)
        self.assertGreater(len(first.stdout), 20)
        other = run(*arguments[:-1], "8")
        self.assertNotEqual(first.stdout, other.stdout)
        piped = run("generate", "--model", MODEL, "--prompt", "-", "--max-tokens", "20", "--seed", "7", stdin=b"Emma was")
        self.assertEqual(first.stdout, piped.stdout)

    def test_generate_takes_what_it_needs(self):
        """A model of long context does not make two tokens fill half of the machine's memory."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("tokenizer.json", "model.safetensors"):
                os.symlink(os.path.abspath(os.path.join(MODEL, name)), os.path.join(folder, name))
            with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
                config = dict(json.load(file), max_position_embeddings=1 << 40)
            with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
                json.dump(config, file)
            with open("/proc/meminfo") as file:
                total = 1024 * int(file.readline().split()[1])
            result = run("generate", "--model", folder, "--prompt", "Emma was", "--max-tokens", "2")
            self.assert_exit(0, result, "attention dense")
            # of all programs that were run so far the largest
            self.assertLess(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, total // 4)

    def test_generate_json(self):
        result = run("generate", "--model", MODEL, "--prompt", "Emma was", "--max-tokens", "9", "--temperature", "0",
                     "--attention", "strided", "--json")
        self.assert_exit(0, result, "attention strided")
        reply = json.loads(result.stdout)
        plain = run("generate", "--model", MODEL, "--prompt", "Emma was", "--max-tokens", "9", "--temperature", "0",
                    "--attention", "strided")
        self.assertEqual(reply["text"] + "\n", plain.stdout.decode())
        self.assertEqual(9, reply["usage"]["completion_tokens"])
        self.assertEqual("length", reply["finish_reason"])
        self.assertEqual("strided", reply["attention_report"]["backend"])
        self.assertGreater(reply["attention_report"]["decode"]["edges"], 0)

    def test_interrupt(self):
        # slow kernels: it does not end by itself before it is interrupted
        process = subprocess.Popen([PROGRAM, "generate", "--model", MODEL, "--prompt", "Emma was", "--max-tokens", "2000", "--ignore-eos"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, SPARSED_CPU="reference"))
        self.assertTrue(process.stdout.read(1))
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=120)
        self.assertEqual(0, process.returncode, log)
        self.assertIn(b"stopped", log)

    def test_attend(self):
        for normalizer, expected in EXPECTED.items():
            case, result = self.path("case", case_bytes(normalizer)), self.path("result")
            self.assert_exit(0, run("attend", "--in", case, "--out", result), "10 edges of 10 pairs")
            with open(result, "rb") as file:
                data = file.read()
            tensors, metadata = parse_safetensors(data)
            self.assertEqual([1, 4, 2], tensors["out"][0])
            for got, want in zip(tensors["out"][1][2:], expected):
                self.assertAlmostEqual(got, want, delta=2e-6)
            self.assertEqual([0, 1, 3, 6, 10], tensors["indptr"][1])
            self.assertEqual([0, 0, 1, 0, 1, 2, 0, 1, 2, 3], tensors["indices"][1])
            self.assertEqual(10, json.loads(metadata["report"])["prefill"]["edges"])
            piped = run("attend", "--in", case, "--out", "-")
            self.assertEqual(tensors, parse_safetensors(piped.stdout)[0])

    def test_attend_metrics(self):
        case, result = self.path("case", case_bytes("entmax15")), self.path("result")
        self.assert_exit(0, run("attend", "--in", case, "--out", result, "--metrics"), "edges_gold")
        with open(result, "rb") as file:
            metrics = json.loads(parse_safetensors(file.read())[1]["metrics"])
        self.assertEqual(1, len(metrics))
        self.assertEqual((8, 10, 8, 10, 4), tuple(metrics[0][name] for name in (
            "edges_gold", "edges_pred", "edges_both", "pairs_valid", "rows_exact")))
        self.assertEqual((1, .8), (metrics[0]["recall"], metrics[0]["precision"]))

    def test_attend_refusals(self):
        good, result = self.path("good", case_bytes("softmax")), self.path("result")
        self.assert_exit(65, run("attend", "--in", good, "--out", result, "--metrics"))
        self.assert_exit(66, run("attend", "--in", self.path("nowhere"), "--out", result), "nowhere")
        self.assert_exit(65, run("attend", "--in", self.path("cut", case_bytes("softmax")[:-1]), "--out", result), "cut")
        self.assert_exit(65, run("attend", "--in", self.path("odd", case_bytes("softmax", "lazy")), "--out", result), "lazy")
        self.assert_exit(64, run("attend", "--in", good), "--out")
        self.assertFalse(os.path.exists(result))

    def test_bench(self):
        with open(os.path.join(BUILD, "CMakeCache.txt")) as file:
            if "SPARSED_SANITIZE:STRING=\n" not in file.read():
                self.skipTest("measuring under a sanitizer says nothing")
        result = run("bench", "--json", "--threads", "1", timeout=800)
        self.assert_exit(0, result)
        report = json.loads(result.stdout)
        self.assertEqual({"cpu", "threads", "fp32_gflops", "bf16_gflops", "int8_gops", "memory_gbps"}, set(report["machine"]))
        self.assertEqual(BENCH_NAMES, [entry["name"] for entry in report["results"]])
        for entry in report["results"]:
            self.assertEqual({"name", "value", "unit", "share"}, set(entry))
            if "bf16" not in entry["name"]:
                self.assertGreater(entry["value"], 0)
            has_share = entry["value"] is not None and entry["name"].split(".")[0] in ("linear", "attention")
            self.assertEqual(has_share, entry["share"] is not None, entry)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=1)
