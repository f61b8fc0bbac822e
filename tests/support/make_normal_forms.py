"""Writes tests/golden/normal_forms.txt: texts and their normal forms, by Python's unicodedata.

usage: make_normal_forms.py OUTPUT
A line: four columns of UTF-8 in hexadecimal, "-" when empty: text, NFC, NFKC, NFD. Only characters of Unicode 9 and
older names of blocks are drawn from, so that another version of the database gives the same lines.
"""

import random
import sys
import unicodedata

BLOCKS = [
    range(0x20, 0x7F), range(0xA0, 0x250), range(0x300, 0x34F), range(0x1E00, 0x1F00), range(0x1F00, 0x1FFF),
    range(0x390, 0x3CF), range(0x900, 0x960), range(0x9BE, 0x9D8), range(0xB47, 0xB58), range(0xDCA, 0xDDF),
    range(0x1100, 0x1113), range(0x1161, 0x1176), range(0x11A8, 0x11C3), range(0xAC00, 0xAC40), range(0xD780, 0xD7A4),
    range(0x2100, 0x2140), range(0x2460, 0x2480), range(0x3041, 0x309C), range(0x3300, 0x3358), range(0xF900, 0xF920),
    range(0xFB00, 0xFB07), range(0xFB1D, 0xFB37), range(0xFDF0, 0xFDFC), range(0xFF01, 0xFF61), range(0x1D15E, 0x1D165),
    range(0x2F800, 0x2F810),
]  # fmt: skip
EDGES = ["", "e\u0301", "\u0301", "q\u0307\u0323", "\u1e9b\u0323", "a\u0315\u0300\u05ae\u0062", "\u0cc6\u0cc2\u0cd5",
         "\u1100\u1161\u11a8", "\uac00\u11a8", "\uac01\u11a8", "\u1100\u1161\u0301\u11a8", "\u0344", "\u212b", "\u2126",
         "\u0958", "\u09c7\u09be", "\U0001d15e\U0001d165", "\ufdfa", "a\u0300\u0300\u0300", "\u00e9\u0323", "\u0f71\u0f72"]  # fmt: skip


def column(text):
    return text.encode().hex() or "-"


def main(path):
    draw = random.Random(20)
    texts = list(EDGES)
    while len(texts) < 300:
        length = draw.randint(1, 8)
        text = "".join(chr(draw.choice(draw.choice(BLOCKS))) for _ in range(length))
        if all(unicodedata.category(c) != "Cn" for c in text):
            texts.append(text)
    with open(path, "w", encoding="ascii") as out:
        for text in texts:
            forms = [text] + [unicodedata.normalize(form, text) for form in ("NFC", "NFKC", "NFD")]
            out.write(" ".join(map(column, forms)) + "\n")


main(sys.argv[1])
