"""Writes unicode_tables.h: what the tokenizers need to know of code points, from Python's copy of the Unicode database.

usage: make_unicode.py OUTPUT

Properties take two steps: sp_unicode_blocks[c >> 8] names a row of 256 bytes, equal rows are stored once. A byte is
  bits 0-1  class: 0 other, 1 letter (category L*), 2 number (N*), 3 white space (the White_Space property)
  bits 2-4  kind: 0 other, 1 punctuation (P*), 2 symbol (S*), 3 mark (Mc, Me), 4 mark without width (Mn), 5 control
            (Cc, Cf, Co)
  bit 5     has a canonical or compatibility decomposition (Hangul syllables too)
  bit 6     has another lower case
  bit 7     may join what stands before it: a combining class, or the second of a composition
Behind the bits stand sorted lists: full decompositions, lower case, combining classes, and pairs with what they
compose to. Hangul is arithmetic (unicode.c). Run by CMake at build.
"""

import sys
import unicodedata

CONTROLS = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}  # White_Space is Z* and these
KINDS = {"P": 1, "S": 2, "Mc": 3, "Me": 3, "Mn": 4, "Cc": 5, "Cf": 5, "Co": 5}
HANGUL = range(0xAC00, 0xAC00 + 11172)
JAMO = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def decompose(form, code):
    """Full decomposition as a tuple of code points; () when there is none."""
    text = unicodedata.normalize(form, chr(code))
    return () if text == chr(code) or code in HANGUL else tuple(map(ord, text))


def compositions():
    """{(first, second): composed}: exactly those that NFC makes."""
    pairs = {}
    for code in CODES:
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            pair = tuple(int(part, 16) for part in parts)
            if unicodedata.normalize("NFC", "".join(map(chr, pair))) == chr(code):
                pairs[pair] = code
    return pairs


def properties(code, joins):
    category = unicodedata.category(chr(code))
    if category[0] == "Z" or code in CONTROLS:
        value = 3
    else:
        value = {"L": 1, "N": 2}.get(category[0], 0)
    value |= KINDS.get(category, KINDS.get(category[0], 0)) << 2
    if 0xD800 <= code < 0xE000:
        return value
    value |= (unicodedata.normalize("NFKD", chr(code)) != chr(code)) << 5
    value |= (chr(code).lower() != chr(code)) << 6
    return value | (code in joins) << 7


def array(kind, name, values, width=12):
    lines = [f"static const {kind} {name}[{len(values)}] = {{"]
    lines += [",".join(values[i : i + width]) + "," for i in range(0, len(values), width)]
    return lines + ["};"]


def mapping(name, changes, points):
    """A sorted list of {code, place in sp_unicode_points, count}."""
    entries = []
    for code, change in sorted(changes.items()):
        place = points.setdefault(change, sum(map(len, points)))
        entries.append(f"{{{code},{place},{len(change)}}}")
    return array("sp_mapping", name, entries, 8)


def main(path):
    pairs = compositions()
    classes = {c: unicodedata.combining(chr(c)) for c in CODES if unicodedata.combining(chr(c))}
    joins = set(classes) | {second for _, second in pairs} | JAMO
    rows, index = {}, []
    for block in range(0x110000 >> 8):
        row = tuple(properties(block << 8 | low, joins) for low in range(256))
        index.append(str(rows.setdefault(row, len(rows))))
    canonical = {c: decompose("NFD", c) for c in CODES if decompose("NFD", c)}
    compatible = {c: decompose("NFKD", c) for c in CODES if decompose("NFKD", c) != decompose("NFD", c)}
    lower = {c: tuple(map(ord, chr(c).lower())) for c in CODES if chr(c).lower() != chr(c)}
    points = {}
    lines = [f"/* Made by models/make_unicode.py from Unicode {unicodedata.unidata_version}. */"]
    lines += array("unsigned char", "sp_unicode_blocks", index, 32)
    lines.append(f"static const unsigned char sp_unicode_rows[{len(rows)}][256] = {{")
    lines += ["{" + ",".join(map(str, row)) + "}," for row in rows] + ["};"]
    lines.append("typedef struct sp_mapping { uint32_t code; uint16_t place, count; } sp_mapping;")
    lines += mapping("sp_unicode_canonical", canonical, points)
    lines += mapping("sp_unicode_compatible", compatible, points)
    lines += mapping("sp_unicode_lower_case", lower, points)
    flat = [str(code) for change in points for code in change]
    assert len(flat) < 65536
    lines += array("uint32_t", "sp_unicode_points", flat)
    lines += array("uint32_t", "sp_unicode_combining_classes", [f"{c << 8 | k}" for c, k in sorted(classes.items())])
    lines.append("typedef struct sp_composition { uint32_t first, second, composed; } sp_composition;")
    made = [f"{{{first},{second},{code}}}" for (first, second), code in sorted(pairs.items())]
    lines += array("sp_composition", "sp_unicode_compositions", made, 6)
    with open(path, "w", encoding="ascii") as out:
        out.write("\n".join(lines) + "\n")


main(sys.argv[1])
