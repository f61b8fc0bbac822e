"""Drives the real binary over loopback sockets, with the standard library only.

A test file: `import harness` (after putting tests/support on the path), functions test_*(...) and, at its end,
harness.main(globals()). Arguments of the script: repository root, build folder. Server(...) starts
`BUILD/sparsed serve` on a free port with the bundled model; raw() speaks bytes, post() and get() speak JSON.
"""
import atexit
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else os.getcwd()
BUILD = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else os.path.join(ROOT, "build", "release")
MODEL = os.path.join(ROOT, "models", "austen")
ENDLESS = 16000  # tokens that lasting() goes on with for as long as a test needs: cancelled, never awaited
LATE_SECONDS = 0.3  # from connecting to the last byte sent: more, and this process stood still


class Reply:
    """One HTTP response: status, headers (lower-case names), body, and whether chunked framing ended properly."""

    def __init__(self, status, headers, body, whole):
        self.status, self.headers, self.body, self.whole = status, headers, body, whole

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.json()["error"]

    def __repr__(self):
        return "%d %r" % (self.status, self.body[:200])


def parse_replies(data, head=False):
    """All responses in a byte string; interim 1xx ones are left out."""
    replies = []
    while data:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            replies.append(Reply(0, {}, data, False))
            return replies
        lines = data[:end].decode("latin-1").split("\r\n")
        data = data[end + 4:]
        match = re.match(r"HTTP/1\.[01] (\d{3})", lines[0])
        assert match, "not a status line: %r" % lines[0]
        status = int(match.group(1))
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if status < 200:
            continue
        body, whole = b"", True
        if headers.get("transfer-encoding", "").lower() == "chunked":
            whole = False
            while True:
                line, sep, rest = data.partition(b"\r\n")
                if not sep:
                    break
                size = int(line, 16)
                if size == 0:
                    whole, data = True, rest[2:]
                    break
                if len(rest) < size + 2:
                    body, data = body + rest[:size], b""
                    break
                body, data = body + rest[:size], rest[size + 2:]
            if not whole:
                data = b""
        elif not head:
            size = int(headers.get("content-length", len(data)))
            whole, body, data = len(data) >= size, data[:size], data[size:]
        replies.append(Reply(status, headers, body, whole))
    return replies


class Server:
    def __init__(self, *options, environment=None, model=MODEL, wait=True, log=subprocess.PIPE):
        command = [os.path.join(BUILD, "sparsed"), "serve", "--port", "0", "--model", model]
        self.process = subprocess.Popen(command + [str(o) for o in options], stdout=subprocess.PIPE,
                                        stderr=log, env=dict(os.environ, **(environment or {})))
        self.log, self.port, self.late = [], None, False  # late: whether the last request was, to be sent
        self.seen = threading.Condition()
        streams = filter(None, (self.process.stdout, self.process.stderr))
        self.readers = [threading.Thread(target=self._read, args=(stream,), daemon=True) for stream in streams]
        for reader in self.readers:
            reader.start()
        deadline = time.time() + 120
        wanted = "serving" if wait else "listening"
        with self.seen:
            while not any(wanted in line and "http://" in line for line in self.log):
                if self.process.poll() is not None or time.time() > deadline:
                    self.process.kill()
                    raise AssertionError("no server, exit code %s:\n%s" % (self.process.wait(), "\n".join(self.log)))
                self.seen.wait(0.1)
            for line in self.log:
                match = re.search(r"http://[^ ]*:(\d+)", line)
                if match:
                    self.port = int(match.group(1))

    def _read(self, stream):
        for line in stream:
            with self.seen:
                self.log.append(line.decode("utf-8", "replace").rstrip("\n"))
                self.seen.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server does not stop:\n" + "\n".join(self.log[-30:]))
        if kind is None or kind is SystemExit:
            assert code == 0, "exit code %d:\n%s" % (code, "\n".join(self.log[-60:]))
        elif code:
            print("\n".join(self.log[-60:]))

    def wait(self, seconds=120):
        """-> the exit code; then everything that was logged is in `log`."""
        code = self.process.wait(seconds)
        for reader in self.readers:
            reader.join(10)
        return code

    def connect(self, timeout=60.0, source=None):
        link = socket.create_connection(("127.0.0.1", self.port), timeout, source and (source, 0))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link

    def raw(self, data, timeout=60.0, half_close=False, head=False, wanted=0):
        """Sends bytes, reads until the server closes or `timeout` passes in silence, which counts from `wanted` whole replies on:
        a busy machine may be slow to give them, to connect, or to take what is sent. -> (replies, closed)"""
        begin, link = time.time(), self.connect(max(timeout, 60.0))
        closed, got = False, b""
        try:
            try:
                link.sendall(data)
                if half_close:
                    link.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            self.late = time.time() - begin > LATE_SECONDS
            if not wanted:
                link.settimeout(timeout)
            while True:
                try:
                    piece = link.recv(65536)
                except socket.timeout:
                    break
                except OSError:
                    closed = True
                    break
                if not piece:
                    closed = True
                    break
                got += piece
                if wanted and sum(reply.whole for reply in parse_replies(got, head)) >= wanted:
                    link.settimeout(timeout)
        finally:
            link.close()
        return parse_replies(got, head), closed

    def request(self, method, path, body=b"", headers=None, timeout=120.0):
        """One request on a connection of its own. A 408 is only taken for an answer to a process that stood still before it
        had sent all; that asks again."""
        head = {"Host": "localhost", "Connection": "close"}
        if body or method == "POST":
            head["Content-Length"] = str(len(body))
        head.update(headers or {})
        lines = ["%s %s HTTP/1.1" % (method, path)] + ["%s: %s" % item for item in head.items() if item[1] is not None]
        for _ in range(5):
            replies, closed = self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body, timeout, head=method == "HEAD")
            assert len(replies) == 1 and closed, (replies, closed)
            if replies[0].status != 408 or not self.late:
                break
        return replies[0]

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, value, headers=None, **more):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = {"Content-Type": "application/json"}
        head.update(headers or {})
        return self.request("POST", path, body, head, **more)

    def complete(self, **fields):
        return self.post("/v1/completions", fields)

    def open_stream(self, **fields):
        """Begins a streamed completion and returns its socket, nothing read. Where more is made than the buffers on its way
        hold, it pauses until somebody reads, and gives its place to others."""
        return self.open_plain(stream=True, **fields)

    def open_plain(self, **fields):
        """The same of a completion that is not streamed: it keeps its place to its end."""
        body = json.dumps(fields).encode()
        link = self.connect(60.0)
        link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return link

    def metrics(self):
        """{name with labels: value} and the text."""
        reply = self.get("/metrics")
        assert reply.status == 200, reply
        text = reply.body.decode()
        values = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                values[name] = float(value)
        return values, text

    def gauge(self, name):
        values, _ = self.metrics()
        found = [v for k, v in values.items() if k.split("{")[0] == name]
        assert found, "no metric " + name
        return sum(found)

    def until_idle(self, seconds=60.0):
        """Waits until nothing runs or waits; -> how long that took."""
        begin = time.time()
        while True:
            values, _ = self.metrics()
            busy = sum(v for k, v in values.items() if k.startswith(("sparsed_num_requests_", "sparsed_kv_pages_used")))
            if busy == 0:
                return time.time() - begin
            assert time.time() - begin < seconds, "still busy after %g s" % seconds
            time.sleep(0.02)


def lasting(*options):
    """A server of the bundled model with room for ENDLESS tokens."""
    folder = tempfile.mkdtemp(prefix="sparsed-lasting-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model = os.path.join(folder, os.path.basename(MODEL))
    os.mkdir(model)
    for name in os.listdir(MODEL):
        if name != "config.json":
            os.symlink(os.path.join(MODEL, name), os.path.join(model, name))
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
        config = dict(json.load(file), max_position_embeddings=ENDLESS + 384)
    with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    return Server("--kv-bytes", "256M", *options, model=model)


def until(condition, seconds=60.0):
    """Asks until what it says is true. -> what it said"""
    deadline = time.time() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.time() < deadline, "it does not come"
        time.sleep(0.005)


def finished(server, reply, seconds=60.0):
    """What a sweep has to show once it no longer runs. reply: the one to its start."""
    assert reply.status == 202, reply

    def ended():
        found = server.get(reply.headers["location"]).json()
        assert found["done"] <= found["total"], found
        return found["state"] != "running" and found

    return until(ended, seconds)


def frames(body):
    """The data of every server-sent event; comments are left out."""
    out = []
    for block in body.decode("utf-8").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        assert all(line.startswith("data: ") for line in lines), block
        assert len(lines) <= 1, block
        out += [line[6:] for line in lines]
    return out


def read_some(link, wanted=1, seconds=120.0):
    """Reads until at least `wanted` bytes have come."""
    got, deadline = b"", time.time() + seconds
    while len(got) < wanted:
        ready, _, _ = select.select([link], [], [], max(0.0, deadline - time.time()))
        assert ready, "nothing came; so far %r" % got
        piece = link.recv(65536)
        if not piece:
            break
        got += piece
    return got


def vanish(link):
    """From now on the kernel drops what comes for this socket before it is acknowledged: a client whose machine is gone."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # return 0
    link.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(program)))  # SO_ATTACH_FILTER


def read_all(link, seconds=120.0):
    link.settimeout(seconds)
    got = b""
    while True:
        piece = link.recv(65536)
        if not piece:
            return got
        got += piece


def main(names):
    tests = [(n, f) for n, f in names.items() if n.startswith("test_") and callable(f)]
    failed = 0
    for name, function in tests:
        begin = time.time()
        try:
            function()
            print("ok    %-44s %.2f s" % (name, time.time() - begin), flush=True)
        except Exception:
            failed += 1
            print("FAIL  %s\n%s" % (name, traceback.format_exc()), flush=True)
    print("%d passed, %d failed" % (len(tests) - failed, failed))
    sys.exit(1 if failed else 0)
