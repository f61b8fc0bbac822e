"""`sparsed attend` as a command, on the cases of tests/golden/attend, its files read by numpy.

    test_attend.py ROOT BUILD

Edges equal, `out` within 2e-5 of its largest value, metrics with the slack of float32; exit codes of what is refused."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy

ROOT, BUILD = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sys.path.insert(0, str(ROOT / "tests" / "support"))
import llama_numpy  # noqa: E402

CASES = ROOT / "tests/golden/attend"
TYPES = {"F32": "<f4", "U32": "<u4"}
SLACK = {"edges_gold": 2, "edges_both": 2, "rows_exact": 2}


def read(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = numpy.frombuffer(data[8 + size + begin:8 + size + end], TYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors, metadata


def write(path, tensors, metadata):
    path.write_bytes(llama_numpy.write_safetensors({n: values.astype("<f4") for n, values in tensors.items()}, metadata))


def attend(*options):
    return subprocess.run([BUILD / "sparsed", "attend", *map(str, options)], capture_output=True, text=True, timeout=60)


def check_case(path, folder):
    out = folder / "out.safetensors"
    softmax = "softmax" in read(path)[1]["attention"]
    fit = pathlib.Path(str(path).replace(".in.", ".fit."))
    done = attend("--in", path, "--out", out, *([] if softmax else ["--metrics"]), *(["--fit", fit] if fit.exists() else []))
    assert done.returncode == 0, done.stderr
    expected, expected_meta = read(pathlib.Path(str(path).replace(".in.", ".out.")))
    got, meta = read(out)
    for name in ("indptr", "edge_base", "indices"):
        assert numpy.array_equal(expected[name], got[name]), name
    error = numpy.abs(expected["out"] - got["out"]).max() / max(numpy.abs(expected["out"]).max(), 1e-30)
    assert error <= 2e-5, error
    report = json.loads(meta["report"])
    assert report["prefill"]["edges"] == len(got["indices"]) and report["device"] == "cpu", report
    if not softmax:
        for want, have in zip(json.loads(expected_meta["metrics"]), json.loads(meta["metrics"]), strict=True):
            for key, value in want.items():
                if isinstance(value, int):
                    assert abs(have[key] - value) <= SLACK.get(key, 0), (key, value, have[key])


def test_cases(folder):
    cases = sorted(CASES.glob("*.in.safetensors"))
    assert len(cases) >= 50
    for path in cases:
        check_case(path, folder)


def test_refusals(folder):
    out, case = folder / "never.safetensors", folder / "case.safetensors"
    assert attend("--in", folder / "absent.safetensors", "--out", out).returncode == 66
    assert attend("--in", CASES / "002-fixed.in.safetensors").returncode == 64
    softmax = attend("--in", CASES / "017-dense.in.safetensors", "--out", out, "--metrics")
    assert softmax.returncode == 65 and "entmax" in softmax.stderr, softmax
    ones = numpy.ones((2, 3, 4), "f4")
    for metadata, word in (({"attention": '"lsh"'}, "lsh"), ({"attention": '"routing"'}, "--fit"), ({"causal": "yes"}, "causal"),
                           ({"attention": '{"backend":"window","params":{"window":2}}'}, "attention.params.window")):
        write(case, {"q": ones, "k": ones, "v": ones}, metadata)
        bad = attend("--in", case, "--out", out)
        assert bad.returncode == 65 and word in bad.stderr, bad
    write(case, {"q": ones, "k": ones, "v": ones[:, :2]}, {})
    bad = attend("--in", case, "--out", out)
    assert bad.returncode == 65 and "'v'" in bad.stderr, bad
    case.write_bytes(case.read_bytes()[:50])
    assert attend("--in", case, "--out", out).returncode == 65
    assert not out.exists()


def test_special_files(folder):
    """A pipe (or /dev/null) named by --out is written to, not replaced by a file."""
    pipe, case = folder / "pipe", CASES / "017-dense.in.safetensors"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        done = attend("--in", case, "--out", pipe)
        if not pipe.is_fifo():
            reader.kill()
        got = reader.communicate(timeout=60)[0]
    assert done.returncode == 0 and pipe.is_fifo(), done
    assert attend("--in", case, "--out", folder / "file").returncode == 0
    assert len(got) > 8 and got[:8] == (folder / "file").read_bytes()[:8]
    missing = attend("--in", case, "--out", folder / "no/such")
    assert missing.returncode == 66 and "no/such" in missing.stderr, missing


failed = 0
for test in (test_cases, test_refusals, test_special_files):
    with tempfile.TemporaryDirectory() as temporary:
        try:
            test(pathlib.Path(temporary))
            print("ok   ", test.__name__)
        except AssertionError as error:
            failed += 1
            print("FAIL ", test.__name__, repr(error))
sys.exit(failed != 0)
