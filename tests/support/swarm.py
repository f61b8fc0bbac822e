"""Many clients in one thread: requests over non-blocking sockets, each with a connection of its own.

    swarm = Swarm(port); call = swarm.send("/v1/completions", {...}); swarm.run(seconds) ... swarm.calls
A call is over when its reply is whole, its connection has ended, or it couldn't connect; `outcome()` says how.
"""
import errno
import json
import selectors
import socket
import time


class Call:
    """One request. Times are of time.monotonic(); data is all that came."""

    def __init__(self, path, fields):
        self.path, self.fields = path, fields
        self.stream = bool(fields and fields.get("stream"))
        self.began, self.first, self.ended = time.monotonic(), None, None
        self.data, self.unsent, self.connected, self.error = bytearray(), b"", False, None
        self.link = None
        self.left = False  # we closed it

    def status(self):
        return int(self.data[9:12]) if len(self.data) >= 12 else 0

    def headers(self):
        head = bytes(self.data[:max(self.data.find(b"\r\n\r\n"), 0)]).decode("latin-1")
        lines = [line.partition(":") for line in head.split("\r\n")[1:]]
        return {name.lower(): value.strip() for name, _, value in lines}

    def seconds(self):
        return self.ended - self.began

    def body(self):
        """What follows the head; chunks are joined."""
        start = self.data.find(b"\r\n\r\n") + 4
        if "chunked" not in self.headers().get("transfer-encoding", ""):
            return bytes(self.data[start:])
        out = b""
        while True:
            end = self.data.find(b"\r\n", start)
            if end < 0:
                return out
            size = int(self.data[start:end], 16)
            if size == 0:
                return out
            out += self.data[end + 2:end + 2 + size]
            start = end + 4 + size

    def is_whole(self):
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        if b"transfer-encoding: chunked" in self.data[:end].lower():
            return self.data.endswith(b"\r\n0\r\n\r\n")
        size = self.headers().get("content-length")
        return size is not None and len(self.data) >= end + 4 + int(size)

    def outcome(self):
        """full: a whole result; told: an error in the envelope, in or before the reply; refused: the port was closed;
        anything else is a loss and says what it was."""
        status = self.status()
        if not self.connected and self.error == errno.ECONNREFUSED:
            return "refused"
        if not self.is_whole():
            return "lost (%s after %d bytes)" % (errno.errorcode.get(self.error, "end"), len(self.data))
        if status != 200:
            try:
                kind = json.loads(self.body())["error"]["type"]
            except (ValueError, KeyError):
                return "lost (%d without an envelope)" % status
            return "told" if kind in ("unavailable_error", "rate_limit_error") else "lost (%d)" % status
        if not self.stream:
            return "full" if "choices" in json.loads(self.body()) else "lost (no choices)"
        frames = [line[6:] for line in self.body().split(b"\n") if line.startswith(b"data: ")]
        if len(frames) < 2 or frames[-1] != b"[DONE]":
            return "lost (no [DONE])"
        last = json.loads(frames[-2])
        if "error" in last:
            return "told" if last["error"]["type"] == "unavailable_error" else "lost (error frame)"
        return "full" if last["choices"][0]["finish_reason"] else "lost (no finish_reason)"


class Swarm:
    def __init__(self, port, host="127.0.0.1"):
        self.address, self.calls, self.open = (host, port), [], 0
        self.selector = selectors.DefaultSelector()
        self.on_end = None  # called with every call that is over; with it, calls holds only those that are not

    def send(self, path, fields=None, headers=""):
        call = Call(path, fields)
        if fields is None:
            text = "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (path, headers)
        else:
            body = json.dumps(fields)
            text = ("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s"
                    "\r\n%s" % (path, len(body), headers, body))  # fmt: skip
        call.unsent = text.encode()
        call.link = socket.socket()
        call.link.setblocking(False)
        self.calls.append(call)
        self.open += 1
        code = call.link.connect_ex(self.address)
        if code not in (0, errno.EINPROGRESS):
            self._end(call, code)
        else:
            self.selector.register(call.link, selectors.EVENT_WRITE, call)
            if code == 0:
                self._write(call)
        return call

    def leave(self, call):
        """Closes the connection of a call that is not over."""
        call.left = True
        self._end(call, None)

    def _end(self, call, code):
        if call.ended is not None:
            return
        call.error, call.ended = code, time.monotonic()
        try:
            self.selector.unregister(call.link)
        except KeyError:
            pass
        call.link.close()
        call.link = None
        self.open -= 1
        if self.on_end:
            self.calls.remove(call)
            self.on_end(call)

    def _write(self, call):
        code = call.link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._end(call, code)
            return
        try:
            call.connected = True
            call.unsent = call.unsent[call.link.send(call.unsent):]
        except BlockingIOError:
            return
        except OSError:
            call.unsent = b""  # the reply, or the reset, is still to be read
        if not call.unsent:
            self.selector.modify(call.link, selectors.EVENT_READ, call)

    def _read(self, call):
        try:
            piece = call.link.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as problem:
            self._end(call, problem.errno)
            return
        if piece and call.first is None:
            call.first = time.monotonic()
        call.data += piece
        if not piece or call.is_whole():
            self._end(call, None)

    def poll(self, seconds):
        """Waits for at most so long, then does what can be done."""
        for key, events in self.selector.select(max(0.0, seconds)):
            if key.data.ended is None:
                (self._write if events & selectors.EVENT_WRITE else self._read)(key.data)

    def run(self, seconds, until=None):
        """Goes on until nothing is open, until() holds or the time is up."""
        end = time.monotonic() + seconds
        while self.open and time.monotonic() < end and not (until and until()):
            self.poll(min(0.02, end - time.monotonic()))

    def close(self):
        for call in list(self.calls):
            if call.ended is None:
                self.leave(call)
        self.selector.close()
