#!/usr/bin/python3
"""`sparsed tokenize` on the reference encodings of tests/golden/tokenizers (models and cases as there): ids, spelling and
offsets, added tokens with --special, special tokens as text with --plain, and the way back."""
import json
import os
import subprocess
import sys

ROOT, BUILD = sys.argv[1], sys.argv[2]
FOLDER = os.path.join(ROOT, "tests/golden/tokenizers")


def run(model, value, *options, code=0):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    command = [os.path.join(BUILD, "sparsed"), "tokenize", "--model", model, *options]
    result = subprocess.run(command, input=text, capture_output=True, timeout=120)
    assert result.returncode == code, (options, result.stderr.decode())
    return json.loads(result.stdout) if code == 0 else result.stderr.decode()


def rounded(text, offsets):
    """Byte ranges rounded out to whole characters."""
    raw = text.encode()
    inside = [byte & 0xC0 == 0x80 for byte in raw] + [False]
    out = []
    for begin, end in offsets:
        while begin > 0 and inside[begin]:
            begin -= 1
        while inside[end]:
            end += 1
        out.append([begin, end])
    return out


def check(name, model, cases, gguf=False):
    cases = [case for case in cases if not gguf or case.get("gguf", True)]
    texts = [case["text"] for case in cases]
    whole, special, plain = (run(model, texts, *options) for options in ((), ("--special",), ("--plain",)))
    ids = [case["ids"] for case in cases]
    decoded, skipped = run(model, ids, "--decode"), run(model, ids, "--decode", "--plain")
    for i, case in enumerate(cases):
        where = (name, case["name"])
        assert whole[i]["ids"] == case["ids"], where
        assert special[i]["ids"] == case.get("ids_with_special", case["ids"]), where
        assert plain[i]["ids"] == case.get("ids_plain", case["ids"]), where
        if not gguf:
            for token, expected in zip(whole[i]["tokens"], case["tokens"]):
                # the reference spells unknown words, and the white space that lstrip and rstrip tokens swallowed
                assert token in (expected, expected.strip(), "<unk>", "[UNK]"), (where, token, expected)
        if "offsets" in case and name not in ("llama2", "mistral", "unigram"):  # these have more than one right answer
            assert rounded(case["text"], whole[i]["offsets"]) == case["offsets"], where
        text = case.get("decoded", case["text"])
        if not gguf:
            assert decoded[i] == text, (where, decoded[i])
            assert skipped[i] == case.get("decoded_skip_special", text), (where, skipped[i])


count = 0
for name in sorted(os.listdir(FOLDER)):
    path = os.path.join(FOLDER, name, "cases.json")
    if not os.path.exists(path):
        continue
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    model = os.path.join(ROOT, "models/austen") if name == "austen" else os.path.join(FOLDER, name)
    check(name, model, cases)
    if os.path.exists(os.path.join(model, "vocab.gguf")):
        check(name, os.path.join(model, "vocab.gguf"), cases, gguf=True)
    count += 1
assert count >= 2, count

austen = os.path.join(ROOT, "models/austen")
alone = run(os.path.join(austen, "tokenizer.json"), ["Emma was"])
assert alone == run(austen, ["Emma was"])
assert run(austen, []) == [] and run(austen, [], "--decode") == []
assert "item 1" in run(austen, ["a", 1], code=65)
assert "item 0" in run(austen, [[1, 4096]], "--decode", code=65)
assert "item 1" in run(austen, [[1], "a"], "--decode", code=65)
assert "array" in run(austen, {"a": 1}, code=65)
run(austen, b'["a"', code=65)
run(austen, b'["\xff"]', code=65)
assert "nowhere" in run(os.path.join(FOLDER, "nowhere"), ["a"], code=66)
print("%d tokenizers" % count)
