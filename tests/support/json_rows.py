"""Bodies of a completion: those that are no JSON we take, and those that only look so. Read by http/test_json.py and
checks/hostile.py."""


def with_field(text):
    """A valid request with one more member, given as raw bytes."""
    return b'{"prompt":"a","max_tokens":1,' + text + b"}"


def nested(depth):
    """The outermost object is depth 1; `depth` counts it."""
    return with_field(b'"user":' + b"[" * (depth - 1) + b"]" * (depth - 1))


REFUSED = {
    "empty": b"",
    "space": b"  \n",
    "array": b"[]",
    "string": b'"a"',
    "number": b"1",
    "null": b"null",
    "cut": b'{"prompt":"a"',
    "cut string": b'{"prompt":"a',
    "cut escape": b'{"prompt":"a\\',
    "two documents": b'{"prompt":"a"}{"prompt":"a"}',
    "trailing bytes": b'{"prompt":"a"} x',
    "trailing nul": b'{"prompt":"a"}\x00',
    "bom": b'\xef\xbb\xbf{"prompt":"a"}',
    "utf-16": '{"prompt":"a"}'.encode("utf-16"),
    "depth 33": nested(33),
    "depth 100000": nested(100000),
    "open brackets": b"[" * 500000,
    "open braces": b'{"a":' * 100000,
    "duplicate key": with_field(b'"prompt":"b"'),
    "duplicate key, escaped": with_field(b'"\\u0070rompt":"b"'),
    "duplicate key inside": with_field(b'"user":{"a":1,"a":2}'),
    "lone high surrogate": with_field(b'"user":"\\ud800"'),
    "lone low surrogate": with_field(b'"user":"\\udc00"'),
    "swapped surrogates": with_field(b'"user":"\\udc00\\ud800"'),
    "high then text": with_field(b'"user":"\\ud800x"'),
    "overlong": with_field(b'"user":"\xc0\x80"'),
    "overlong slash": with_field(b'"user":"\xe0\x80\xaf"'),
    "surrogate in utf-8": with_field(b'"user":"\xed\xa0\x80"'),
    "beyond unicode": with_field(b'"user":"\xf4\x90\x80\x80"'),
    "bare continuation": with_field(b'"user":"\x80"'),
    "cut sequence": with_field(b'"user":"\xe2\x82"'),
    "bad byte": with_field(b'"user":"\xff"'),
    "raw control": with_field(b'"user":"a\x01b"'),
    "raw newline": with_field(b'"user":"a\nb"'),
    "raw nul": with_field(b'"user":"a\x00b"'),
    "bad escape": with_field(b'"user":"\\x41"'),
    "bad hex": with_field(b'"user":"\\u00zz"'),
    "nan": with_field(b'"temperature":NaN'),
    "infinity": with_field(b'"temperature":Infinity'),
    "minus infinity": with_field(b'"temperature":-Infinity'),
    "beyond a double": with_field(b'"temperature":1e999'),
    "beyond, unused": with_field(b'"user":1e999'),
    "309 digits": with_field(b'"user":' + b"9" * 310),
    "leading zero": with_field(b'"temperature":01'),
    "plus": with_field(b'"temperature":+1'),
    "bare point": with_field(b'"temperature":1.'),
    "no digit before": with_field(b'"temperature":.5'),
    "no exponent": with_field(b'"temperature":1e'),
    "hex number": with_field(b'"temperature":0x1'),
    "capital true": with_field(b'"stream":True'),
    "trailing comma": with_field(b'"user":1,'),
    "comma in array": with_field(b'"user":[1,]'),
    "two commas": with_field(b'"user":[1,,2]'),
    "no colon": with_field(b'"user" 1'),
    "unquoted key": with_field(b"user:1"),
    "single quotes": with_field(b"'user':1"),
    "comment": with_field(b'"user":1 /* c */'),
    "empty prompt list": b'{"prompt":[]}',
    "object prompt": b'{"prompt":{"a":1}}',
    "form": b"prompt=a&max_tokens=1",
    "huge id": b'{"prompt":[1e300]}',
    "2^53+1 tokens": with_field(b'"n":9007199254740993'),
    "seed 2^63": with_field(b'"seed":9223372036854775808'),
    "seed 1e400": with_field(b'"seed":1e400'),
    "a megabyte of digits": with_field(b'"user":' + b"1" * 1000000),
}

TAKEN = {
    "depth 32": nested(32),
    "escaped nul": with_field(b'"user":"\\u0000"'),
    "surrogate pair": with_field(b'"user":"\\ud83d\\ude00"'),
    "case-variant keys": with_field(b'"Prompt":"b","PROMPT":5'),
    "whitespace": b" \t\r\n{ \"prompt\" : \"a\" , \"max_tokens\" : 1 } \r\n",
    "1.0 is an integer": b'{"prompt":"a","max_tokens":1.0}',
    "1e0 is an integer": b'{"prompt":"a","max_tokens":1e0}',
    "minus zero": with_field(b'"temperature":-0'),
    "tiny": with_field(b'"temperature":1e-400'),
    "solidus": b'{"\\u0070rompt":"\\/","max_tokens":1}',
    "empty key": with_field(b'"":1'),
    "seed int64": with_field(b'"seed":-9223372036854775808'),
    "noncharacters": with_field(b'"user":"\\uffff\xef\xbf\xbe\\u0000\\ufdd0\xef\xb7\x91"'),
}
