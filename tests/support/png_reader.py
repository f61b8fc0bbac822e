"""Reads 8-bit PNG files with zlib alone, to hold those that libpng wrote against the format's text (RFC 2083)."""
import struct
import zlib

import numpy


def chunks(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG signature"
    found, at = [], 8
    while at < len(data):
        size, = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + size]
        crc, = struct.unpack_from(">I", data, at + 8 + size)
        assert crc == zlib.crc32(kind + body), "checksum of %r" % kind
        found.append((kind.decode("ascii"), body))
        at += 12 + size
    assert found[0][0] == "IHDR" and found[-1] == ("IEND", b"")
    return found


def unfilter(raw, height, stride, bpp):
    out = numpy.zeros((height, stride), numpy.uint8)
    for y in range(height):
        line = bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        kind, above = raw[y * (stride + 1)], out[y - 1] if y else numpy.zeros(stride, numpy.uint8)
        if kind == 2:
            line = (numpy.frombuffer(bytes(line), numpy.uint8) + above).astype(numpy.uint8)
        elif kind:
            up = above.tolist()
            for x in range(stride):
                a, b = line[x - bpp] if x >= bpp else 0, up[x]
                c = up[x - bpp] if x >= bpp else 0
                if kind == 1:
                    guess = a
                elif kind == 3:
                    guess = (a + b) // 2
                else:
                    p = a + b - c
                    guess = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                line[x] = (line[x] + guess) & 255
        out[y] = numpy.frombuffer(bytes(line), numpy.uint8)
    return out


def describe(data):
    """(width, height, texts of iTXt by key), every checksum held; pixels are not looked at."""
    parts, texts = chunks(data), {}
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", parts[0][1])
    assert depth == 8 and color in (2, 3) and interlace == 0
    for kind, body in parts:
        if kind == "iTXt":
            key, rest = body.split(b"\0", 1)
            assert rest[:2] == b"\0\0", "compressed"
            texts[key.decode("latin-1")] = rest[2:].split(b"\0", 2)[2].decode("utf-8")
    return width, height, texts


def read(data):
    """(pixels, texts): (height, width, 3) for RGB, (height, width) indices for a palette; texts of iTXt by key."""
    width, height, texts = describe(data)
    parts = chunks(data)
    raw = zlib.decompress(b"".join(body for kind, body in parts if kind == "IDAT"))
    bpp = 3 if parts[0][1][9] == 2 else 1
    pixels = unfilter(raw, height, width * bpp, bpp)
    return pixels.reshape(height, width, 3) if bpp == 3 else pixels, texts
