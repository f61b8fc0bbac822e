"""Writes unicode_tables.h: the class of every code point, from Python's own copy of the Unicode database.

usage: make_unicode.py OUTPUT

Two steps of lookup: sp_unicode_blocks[c >> 8] names a row of 256 classes, equal rows are stored once. Classes:
0 other, 1 letter (category L*), 2 number (N*), 3 white space (the White_Space property). Run by CMake at build.
"""

import sys
import unicodedata

# White_Space is Z* and these controls.
CONTROLS = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}


def classify(code):
    category = unicodedata.category(chr(code))
    if category[0] == "Z" or code in CONTROLS:
        return 3
    return {"L": 1, "N": 2}.get(category[0], 0)


def main(path):
    rows, index = {}, []
    for block in range(0x110000 >> 8):
        row = tuple(classify(block << 8 | low) for low in range(256))
        index.append(rows.setdefault(row, len(rows)))
    lines = [f"/* Made by models/make_unicode.py from Unicode {unicodedata.unidata_version}. */"]
    lines.append(f"static const unsigned char sp_unicode_blocks[{len(index)}] = {{")
    lines += [",".join(map(str, index[i : i + 32])) + "," for i in range(0, len(index), 32)]
    lines.append(f"}};\nstatic const unsigned char sp_unicode_classes[{len(rows)}][256] = {{")
    lines += ["{" + ",".join(map(str, row)) + "}," for row in rows]
    lines.append("};")
    with open(path, "w", encoding="ascii") as out:
        out.write("\n".join(lines) + "\n")


main(sys.argv[1])
