"""Writes files as torch.save does, without torch: tests/golden/import and tests/fuzz/corpus/fuzz_import.

usage: make_import_corpus.py ROOT

Run by hand after a change; its output is kept in the tree. The pickles are spelled opcode by opcode: valid ones as
torch writes them, and one for every rule that can be broken. Values are n / 64 for small n, exact in every type. The same
bytes at every run.
"""

import os
import struct
import sys
import zlib

H, D, R, LAYERS, RUNS, C, B = 2, 4, 2, 2, 1, 3, 2


class Pickle:
    """Protocol 2 as torch.save writes it, with every value remembered; storages are collected beside it."""

    def __init__(self, code=b"\x80\x02"):
        self.code, self.storages, self.n_memo = code, [], 0

    def add(self, code):
        self.code += code
        return self

    def put(self):
        self.code += b"q" + bytes([self.n_memo]) if self.n_memo < 256 else b"r" + struct.pack("<I", self.n_memo)
        self.n_memo += 1
        return self

    def text(self, text):
        raw = text.encode()
        return self.add(b"X" + struct.pack("<I", len(raw)) + raw).put()

    def integer(self, n):
        if 0 <= n < 256:
            return self.add(b"K" + bytes([n]))
        if 0 <= n < 65536:
            return self.add(b"M" + struct.pack("<H", n))
        return self.add(b"J" + struct.pack("<i", n)) if abs(n) < 1 << 31 else self.add(b"\x8a\x08" + struct.pack("<q", n))

    def name(self, module, name):
        return self.add(b"c" + module.encode() + b"\n" + name.encode() + b"\n").put()

    def integers(self, numbers):
        self.add(b"(")
        for n in numbers:
            self.integer(n)
        return self.add(b"t").put()

    def ordered(self):
        return self.name("collections", "OrderedDict").add(b")R").put()

    def storage(self, kind, data, n):
        self.storages.append(data)
        self.add(b"(").text("storage").name("torch", kind).text(str(len(self.storages) - 1)).text("cpu")
        return self.integer(n).add(b"t").put().add(b"Q")

    def tensor(self, values, shape, kind="FloatStorage", code="f", n=None, offset=0, strides=None):
        data = struct.pack("<%d%s" % (len(values), code), *values)
        if strides is None:
            strides = [1] * len(shape)
            for i in range(len(shape) - 2, -1, -1):
                strides[i] = strides[i + 1] * shape[i + 1]
        self.name("torch._utils", "_rebuild_tensor_v2").add(b"(")
        self.storage(kind, data, len(values) if n is None else n)
        self.integer(offset).integers(shape).integers(strides).add(b"\x89").ordered()
        return self.add(b"t").put().add(b"R").put()

    def state_dict(self, entries):
        """entries: [(name, function that writes the value)]; with the _metadata that torch hangs on it."""
        self.ordered().add(b"(")
        for name, write in entries:
            self.text(name)
            write(self)
        self.add(b"u}").put().text("_metadata").ordered().add(b"(").text("").add(b"}").put()
        return self.text("version").integer(1).add(b"su").add(b"sb")


def archive(pickle, storages, folder="archive", flags=0x0808, method=0, local_name=None, directory=None):
    """The zip of torch: stored, sizes only in the directory, data on multiples of 64, zip64 records at the end."""
    entries = [("data.pkl", pickle), ("byteorder", b"little")]
    entries += [("data/%d" % i, data) for i, data in enumerate(storages)] + [("version", b"3\n")]
    out, central = b"", b""
    for name, data in entries:
        path = ("%s/%s" % (folder, name)).encode()
        n_pad = -(len(out) + 30 + len(path) + 4) % 64
        pad = b"FB" + struct.pack("<H", n_pad) + b"Z" * n_pad
        sums = struct.pack("<III", zlib.crc32(data), len(data), len(data))
        place = len(out)
        path_here = local_name.encode() if local_name else path
        out += struct.pack("<IHHHHH", 0x04034b50, 0, flags, method, 0, 0) + bytes(12)
        out += struct.pack("<HH", len(path_here), len(pad)) + path_here + pad + data
        out += struct.pack("<I", 0x08074b50) + sums
        central += struct.pack("<IHHHHHH", 0x02014b50, 0, 0, flags, method, 0, 0) + sums
        central += struct.pack("<HHHHHII", len(path), 0, 0, 0, 0, 0, place) + path
    place, n = len(out), len(entries)
    end64 = len(out) + len(central)
    out += central + struct.pack("<IQHHIIQQQQ", 0x06064b50, 44, 45, 45, 0, 0, n, n, len(central), place)
    out += struct.pack("<IIQI", 0x07064b50, 0, end64, 1)
    size = len(central) if directory is None else directory
    return out + struct.pack("<IHHHHIIH", 0x06054b50, 0, 0, n, n, size, place, 0)


def saved(p, **options):
    return archive(p.add(b".").code, p.storages, **options)


def values(n, begin):
    return [(begin + 7 * i) % 129 / 64 - 1 for i in range(n)]


def linear(begin, kind="FloatStorage", code="f", heads=H):
    w, b = values(heads * D * R, begin), values(heads * R, begin + 3)
    return [("w", lambda p: p.tensor(w, [heads, D, R], kind, code)), ("b", lambda p: p.tensor(b, [heads, 1, R], kind, code))]


def layers(write, n=LAYERS):
    p = Pickle().add(b"]").put().add(b"(")
    for layer in range(n):
        write(p, layer)
    return p.add(b"e")


def sides(q, k):
    def write(p, layer):
        p.add(b"}").put().add(b"(").text("q").state_dict(q(layer))
        return p.text("k").state_dict(k(layer)).add(b"u")
    return write


def projections(**options):
    return saved(layers(sides(lambda n: linear(10 * n), lambda n: linear(10 * n + 5))), **options)


def centroids(rank=R, code="d", kind="DoubleStorage"):
    return saved(layers(lambda p, n: p.tensor(values(H * RUNS * C * rank, 40 + n), [H, RUNS, C, rank], kind, code)))


def one_tensor(**options):
    return saved(Pickle().tensor([1.0, 2.0], [2], **options))


def mlp(n):
    return [(name, lambda p, shape=shape: p.tensor(values(H * shape[1] * shape[2], n), shape)) for name, shape in
            (("w1", [H, D, 3]), ("b1", [H, 1, 3]), ("w2", [H, 3, R]), ("b2", [H, 1, R]))]


def fixtures():
    yield "projections.pt", projections()
    yield "shared.pt", saved(layers(sides(lambda n: linear(n), lambda n: linear(n))))
    yield "half.pt", saved(layers(sides(lambda n: linear(n, "HalfStorage", "e"), lambda n: linear(n, "DoubleStorage", "d"))))
    yield "centroids.pickle", centroids()
    yield "blocks.pt", centroids(B * R)
    yield "mlp.pt", saved(layers(sides(mlp, mlp)))


def call(module, name, argument):
    return saved(Pickle().name(module, name).add(b"(").text(argument).add(b"tR"))


def hostile():
    raw = projections()
    yield "os-system", call("os", "system", "touch /tmp/pwned")
    yield "posix-system", call("posix", "system", "true")
    yield "builtins-eval", call("builtins", "eval", "1")
    yield "torch-load", call("torch.serialization", "load", "x")
    yield "numpy", saved(Pickle().name("numpy.core.multiarray", "_reconstruct"))
    yield "dict-of-call", saved(Pickle().name("collections", "OrderedDict").add(b"(").integer(1).add(b"tR"))
    yield "storage-called", saved(Pickle().name("torch", "FloatStorage").add(b")R"))
    yield "build-on-list", saved(Pickle().add(b"]}b"))
    yield "instance", saved(Pickle().add(b"(i" b"os\nsystem\n"))
    yield "object", saved(Pickle().add(b"(" b"cos\nsystem\no"))
    yield "newobj", saved(Pickle().add(b")\x81"))
    yield "extension", saved(Pickle().add(b"\x82\x01"))
    yield "text-integer", saved(Pickle().add(b"I1\n"))
    yield "protocol-0", saved(Pickle(b"]"))
    yield "protocol-9", saved(Pickle(b"\x80\x09]"))
    yield "empty-stack", saved(Pickle())
    yield "two-values", saved(Pickle().add(b"]]"))
    yield "open-mark", saved(Pickle().add(b"]("))
    yield "no-mark", saved(Pickle().add(b"t"))
    yield "marks", saved(Pickle().add(b"(" * 1000))
    yield "deep", saved(Pickle().add(b"]" * 9000))
    yield "no-memo", saved(Pickle().add(b"h\x05"))
    yield "memo-beyond", saved(Pickle().add(b"]r" + struct.pack("<I", 1 << 20)))
    yield "itself", saved(Pickle().add(b"]q\x00h\x00a"))
    yield "odd-pairs", saved(Pickle().add(b"}(K\x01u"))
    yield "append-to-dict", saved(Pickle().add(b"}K\x01a"))
    yield "long-text", saved(Pickle().add(b"X\xff\xff\xff\x7fabc"))
    yield "not-utf8", saved(Pickle().add(b"X\x02\x00\x00\x00\xc3\x28"))
    yield "long-integer", saved(Pickle().add(b"\x8a\x09" + bytes(9)))
    yield "outside", one_tensor(offset=1)
    yield "negative-offset", one_tensor(offset=-1)
    yield "huge-stride", one_tensor(strides=[1 << 62])
    yield "repeats", saved(Pickle().tensor([1.0], [1 << 30, 1 << 30, 1 << 30], strides=[0, 0, 0]))
    yield "rank-5", saved(Pickle().tensor([1.0], [1] * 5))
    yield "storage-lies", one_tensor(n=1 << 40)
    yield "nan", saved(layers(sides(lambda n: [("w", lambda p: p.tensor([float("nan")] * 16, [H, D, R])), linear(0)[1]],
                                    lambda n: linear(n))))
    yield "compressed", projections(method=8)
    yield "encrypted", projections(flags=0x0809)
    yield "local-name", projections(local_name="archive/other")
    yield "no-folder", projections(folder="")
    yield "directory-beyond", projections(directory=1 << 20)
    yield "cut-half", raw[:len(raw) // 2]
    yield "cut-end", raw[:-1]
    yield "no-directory", raw[:64] + raw[-22:]
    yield "comment", raw[:-2] + b"\x04\x00abcd"
    place = raw.index(b"FloatStorage")
    yield "checksum", raw[:place] + b"f" + raw[place + 1:]
    yield "legacy", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
    yield "empty", b""
    yield "plain-pickle", b"\x80\x02]."


def more_forms():
    """Accepted pickles that the fixtures do not have: protocol 4, parameters, other types."""
    code = b"\x80\x04\x95" + struct.pack("<Q", 24) + b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94"
    yield "protocol-4", archive(code + b"(\x8c\x01a\x94G" + struct.pack(">d", 1.5) + b"\x8c\x01b\x94Nu.", [])
    p = Pickle().name("torch._utils", "_rebuild_parameter").add(b"(").tensor([1.0], [1]).add(b"\x88").ordered().add(b"tR")
    yield "parameter", saved(p)
    yield "bool", saved(Pickle().tensor([1], [1], "BoolStorage", "B"))
    yield "scalar", saved(Pickle().tensor([1.0], []))
    yield "tuples", saved(Pickle().add(b"K\x01\x85K\x02K\x03\x86\x86)\x86"))
    yield "transposed", one_tensor(strides=[1])


def bare():
    """Pickles without their archive, so that mutations reach the reader."""
    yield "pickle-projections", layers(sides(lambda n: linear(n), lambda n: linear(n + 5)), 1).add(b".").code
    yield "pickle-centroids", layers(lambda p, n: p.tensor([0.5] * 6, [1, 1, 3, 2], "DoubleStorage", "d")).add(b".").code


def write(folder, pairs):
    os.makedirs(folder, exist_ok=True)
    for name, data in pairs:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)


def main():
    root = sys.argv[1]
    write(os.path.join(root, "tests/golden/import"), fixtures())
    corpus = os.path.join(root, "tests/fuzz/corpus/fuzz_import")
    write(corpus, ((n.split(".")[0], d) for n, d in fixtures()))
    write(corpus, hostile())
    write(corpus, more_forms())
    write(corpus, bare())


if __name__ == "__main__":
    main()
