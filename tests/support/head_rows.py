"""Request heads: those that mean two requests to two programs, and what may be odd about one. A second request follows
every one; whoever answers it was smuggled past. Read by http/test_gate.py and checks/hostile.py."""

SECOND = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
JSON = b"Content-Type: application/json\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
TAIL = b"\r\n5\r\nhello\r\n0\r\n\r\n" + SECOND

# One 400 and a closed connection.
SMUGGLED = {
    "length and chunked": POST + HOST + JSON + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n" + TAIL,
    "chunked and length": POST + HOST + JSON + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n" + TAIL,
    "identity": POST + HOST + JSON + b"Transfer-Encoding: identity\r\n" + TAIL,
    "xchunked": POST + HOST + JSON + b"Transfer-Encoding: xchunked\r\n" + TAIL,
    "gzip, chunked": POST + HOST + JSON + b"Transfer-Encoding: gzip, chunked\r\n" + TAIL,
    "two codings": POST + HOST + JSON + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n" + TAIL,
    "two lengths": POST + HOST + JSON + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}" + SECOND,
    "two equal lengths": POST + HOST + JSON + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + SECOND,
    "space before colon": POST + HOST + JSON + b"Content-Length : 5\r\n\r\nhello" + SECOND,
    "no host": POST + JSON + b"Content-Length: 2\r\n\r\n{}" + SECOND,
    "two hosts": POST + HOST + HOST + JSON + b"Content-Length: 2\r\n\r\n{}" + SECOND,
    "control in value": POST + HOST + b"X-A: a\x01b\r\nContent-Length: 0\r\n\r\n" + SECOND,
    "delete in value": POST + HOST + b"X-A: a\x7fb\r\nContent-Length: 0\r\n\r\n" + SECOND,
    "name no token": POST + HOST + b"X(A): b\r\nContent-Length: 0\r\n\r\n" + SECOND,
    "get with xchunked": b"GET /health HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n" + TAIL,
    "get without host": b"GET /health HTTP/1.1\r\n\r\n" + SECOND,
    "coding on 1.0": POST.replace(b"1.1", b"1.0") + HOST + JSON + b"Transfer-Encoding: chunked\r\n" + TAIL,
}

# What libmicrohttpd 0.9.75 lets through before our gate can see it: SECURITY.md names each by the phrase that comes first. The
# answers that a program which takes these bytes gives, and those of one that refuses them (a later library).
GOOD = b'{"prompt":"a","max_tokens":1,"temperature":0}'
SIZED = b"Content-Length: %d\r\n" % len(GOOD)
LENIENT = {
    "bare line feed": ("bare line feed", POST + b"Host: localhost\n" + JSON + SIZED + b"\r\n" + GOOD + SECOND, [200, 200]),
    "bare line feeds everywhere": ("bare line feed", (POST + HOST + JSON + SIZED + b"\r\n").replace(b"\r\n", b"\n") + GOOD + SECOND, [200, 200]),
    "folded header line": ("folded header lines", POST + HOST + JSON + b"X-A: a\r\n b\r\n" + SIZED + b"\r\n" + GOOD + SECOND, [200, 200]),
    "NUL byte in a value": ("NUL byte", POST + HOST + JSON + b"X-A: a\x00b\r\n" + SIZED + b"\r\n" + GOOD + SECOND, [200, 200]),
    "NUL byte in a path": ("NUL byte", b"GET /health\x00/../x HTTP/1.1\r\n" + HOST + b"\r\n" + SECOND, [200, 200]),
    "chunk size ended by a bare line feed": ("chunk size ended by a bare line feed", POST + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n%x\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n" + SECOND, [200, 200]),
}  # fmt: skip

# Refused by the library before our first look: its own page, twice at times, or a close; never a second request served.
EARLY = {"content-length " + repr(value): POST + HOST + JSON + b"Content-Length: " + value + b"\r\n\r\n{}" + SECOND
         for value in (b"-1", b"+2", b"0x2", b"2 2", b"2,2", b"2;3", b"18446744073709551616", b"9" * 40, b"", b"\xb2")}  # fmt: skip
EARLY.update({
    "no version": b"GET /health\r\n" + HOST + b"\r\n" + SECOND,
    "version 2.0": b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n" + SECOND,
    "version 1.2": b"GET /health HTTP/1.22\r\n" + HOST + b"\r\n" + SECOND,
    "no protocol": b"GET /health XTTP/1.1\r\n" + HOST + b"\r\n" + SECOND,
    "header without colon": b"GET /health HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n" + SECOND,
    "one word": b"GET\r\n\r\n" + SECOND,
    "binary": bytes(range(128, 256)) + b"\r\n\r\n" + SECOND,
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n" + SECOND,
    "chunk size no hex": POST + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + TAIL,
    "chunk size negative": POST + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n" + SECOND,
    "chunk size 2^64": POST + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nhello\r\n0\r\n\r\n" + SECOND,
    "chunk size 0x5": POST + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + SECOND,
    "chunk longer than it says": POST + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n" + SECOND,
    "40 KB of header": b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 40000 + b"\r\n\r\n" + SECOND,
    "2,000 header lines": b"GET /health HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 2000 + b"\r\n" + SECOND,
    "a path of 40 KB": b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\n" + HOST + b"\r\n" + SECOND,
})  # fmt: skip
