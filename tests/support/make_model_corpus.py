"""Writes the corpora of the fuzz targets for models/: tests/fuzz/corpus/fuzz_{safetensors,config,tokenizer,tokenize}.

usage: make_model_corpus.py ROOT

Run by hand after a change; its output is kept in the tree. One valid file of each kind and one for every rule that can
be broken. The same bytes at every run.
"""

import json
import os
import struct
import sys

import tiny_model


def safetensors_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors():
    two = {"a": entry("F32", [2], 0, 8), "b": entry("BF16", [2, 2], 8, 16)}
    yield "valid", safetensors_file(two, bytes(16))
    yield "metadata", safetensors_file({"__metadata__": {"format": "pt", "n": ""}, "a": entry("U8", [3], 0, 3)}, b"abc")
    for dtype, size in (("F16", 2), ("I64", 8), ("F64", 8), ("BOOL", 1), ("I8", 1)):
        yield "type-" + dtype, safetensors_file({"t": entry(dtype, [1], 0, size)}, bytes(size))
    yield "unaligned", safetensors_file({"a": entry("U8", [1], 0, 1), "b": entry("F32", [1], 1, 5)}, bytes(5))
    yield "empty", safetensors_file({})
    yield "rank-0", safetensors_file({"s": entry("F32", [], 0, 4), "e": entry("F32", [0, 9], 0, 0)}, bytes(4))
    yield "nan", safetensors_file({"t": entry("F32", [1], 0, 4)}, b"\0\0\xc0\x7f")
    yield "hole", safetensors_file({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, bytes(3))
    yield "overlap", safetensors_file({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3))
    yield "tail", safetensors_file(two, bytes(17))
    yield "short", safetensors_file(two, bytes(15))
    yield "overflow", safetensors_file({"a": entry("F64", [1 << 40, 1 << 40], 0, 8)}, bytes(8))
    yield "long-header", safetensors_file(two, bytes(16), length=1 << 40)
    yield "twice", safetensors_file(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}')
    yield "five-dimensions", safetensors_file({"a": entry("U8", [1, 1, 1, 1, 1], 0, 1)}, b"x")
    yield "unknown-type", safetensors_file({"a": entry("F8_E4M3", [1], 0, 1)}, b"x")


def config():
    yield "tiny", json.dumps(tiny_model.CONFIG).encode()
    nested = {"rope_scaling": {"type": "yarn", "factor": 4.0}, "attention_normalizer": {"alpha": 1.33}}
    yield "nested", json.dumps(dict(nested, eos_token_id=[1, 2], attention_pattern={"backend": "strided"})).encode()
    yield "types", json.dumps({"hidden_size": "32", "rope_theta": None, "eos_token_id": [-1], "a": True}).encode()
    yield "ranges", b'{"hidden_size":9007199254740993,"rope_theta":1e308,"factor":-0.0,"bos_token_id":2147483648}'
    yield "escapes", b'{"a":"\\u0000\\ud83d\\ude00\\\\u0000","model_type":"\\"\\/"}'
    yield "duplicate", b'{"a":1,"\\u0061":2}'
    yield "deep", b'{"a":' * 31 + b"1" + b"}" * 31
    yield "bom", b"\xef\xbb\xbf{}"
    yield "array", b"[1]"


def tokenizer():
    base = tiny_model.tokenizer()
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()  # noqa: E731
    yield "tiny", dump(base)
    names = b'{"bos_token":{"content":"<|endoftext|>"},"eos_token":"<|endoftext|>","add_bos_token":true}'
    yield "with-config", dump(base) + b"\0" + names
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "B"}}, {"Sequence": {"id": "A"}}],
        "special_tokens": {"B": {"ids": [0]}},
    }
    digits = {"type": "Digits", "individual_digits": True}
    level = base["pre_tokenizer"]
    sequence = {"type": "Sequence", "pretokenizers": [digits, level]}
    yield "template", dump(dict(base, post_processor={"type": "Sequence", "processors": [level, template]}))
    yield "digits", dump(dict(base, pre_tokenizer=sequence))
    added = base["added_tokens"] + [dict(base["added_tokens"][0], id=900, content="<x>", special=False, rstrip=True)]
    yield "added", dump(dict(base, added_tokens=added, model=dict(base["model"], ignore_merges=True)))
    small = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    frame = {"pre_tokenizer": level, "decoder": level}
    yield "small", dump(dict(frame, model=small))
    yield "merge-twice", dump(dict(frame, model=dict(small, merges=["a b", "a b"])))
    yield "merge-unknown", dump(dict(frame, model=dict(small, merges=["a c"])))
    yield "id-twice", dump(dict(frame, model=dict(small, vocab={"a": 0, "b": 0})))
    yield "id-far", dump(dict(frame, model=dict(small, vocab={"a": 0, "b": 1, "ab": 1 << 20})))
    yield "normalizer", dump(dict(frame, normalizer={"type": "NFC"}, model=small))
    yield "unigram", dump(dict(frame, model={"type": "Unigram", "vocab": [["a", 0.0]]}))


def tokenize():
    yield "prose", "The truth universally acknowledged, that it's 1 of 12345.\n\n  'Tis so!".encode()
    yield "scripts", "naïve café — 中文 ０１ ½ Ⅳ हिन्दी \u00a0\u3000\u2028x\U0001f600".encode()
    yield "special", b"a<|end|> <|end <x><x>|>"
    yield "spaces", b"  \t\n\r\n   a \n b  "
    yield "same", b"a" * 300
    yield "contractions", "I'll we'VE 'S 'ſ don't''t".encode()
    yield "ill-formed", b"ok \xc3\x28 \xed\xa0\x80 \xf0\x9f"
    yield "nul", b"a\0b\0\0"


def main(root):
    for target in (safetensors, config, tokenizer, tokenize):
        folder = os.path.join(root, "tests", "fuzz", "corpus", "fuzz_" + target.__name__)
        os.makedirs(folder, exist_ok=True)
        for name, data in target():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)


main(sys.argv[1])
