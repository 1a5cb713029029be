"""An HTTP/1 client that hides nothing: raw bytes out, and every byte that comes back.

It follows the framing strictly and fails when an answer breaks it, so that each test
that reads an answer also tests that it is well-formed.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from dataclasses import dataclass, field

from .waiting import DEADLINE, QUIET, DeadlineMissed

Address = tuple[str, int] | str

STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9][0-9] [\t\x20-\x7e\x80-\xff]*\Z")
HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\Z")


class Malformed(AssertionError):
    """The server broke the protocol."""


class Truncated(AssertionError):
    """The server closed the connection in the middle of an answer."""


@dataclass
class Response:
    """An answer as it was on the wire."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    framing: str = "none"
    """``length``, ``chunked``, ``close``, or ``none`` where no body is allowed."""
    complete: bool = True
    interim: list[Response] = field(default_factory=list)
    """The 1xx answers before it."""

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The only value of a header, None when it is missing."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Whether it announces the end of the connection."""
        return "close" in (self.header("connection") or "").lower()

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class Connection:
    """One connection to a server."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = b""
        self.received = b""
        """Every byte that came back, for tests of what must not be on the wire."""

    @classmethod
    def open(cls, address: Address, *, receive_buffer: int | None = None) -> Connection:
        """Connects; a text is the path of a UNIX socket, or ``@name`` of an abstract one."""
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX)
            target: str | tuple[str, int] = address.replace("@", "\0", 1)
            if not address.startswith("@"):
                target = address
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            target = address
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(DEADLINE)
        try:
            sock.connect(target)
        except OSError:
            sock.close()
            raise
        return cls(sock)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def own_address(self) -> tuple[str, int]:
        """What the server should see as the client."""
        host, port = self.socket.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Closes it."""
        self.socket.close()

    def reset(self) -> None:
        """Closes it with a reset instead of an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def finish_sending(self) -> None:
        """Says that no more bytes will come, and goes on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    # --- out --------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Sends raw bytes."""
        self.socket.sendall(data)

    def request(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
        version: str = "1.1",
        close: bool = False,
        after: bytes = b"",
    ) -> None:
        """Sends a request, in one piece with what comes ``after`` it."""
        lines = [f"{method} {path} HTTP/{version}"]
        given = headers or []
        if not any(name.lower() == "host" for name, _ in given):
            lines.append("Host: testserver")
        lines += [f"{name}: {value}" for name, value in given]
        if body is not None and not any(
            name.lower() in ("content-length", "transfer-encoding") for name, _ in given
        ):
            lines.append(f"Content-Length: {len(body)}")
        if close:
            lines.append("Connection: close")
        head = "\r\n".join(lines) + "\r\n\r\n"
        self.send(head.encode("latin-1") + (body or b"") + after)

    def get(self, path: str = "/", *, close: bool = False, **more: object) -> Response:
        """Sends a request and reads the answer."""
        method = str(more.get("method", "GET"))
        self.request(path, close=close, **more)  # type: ignore[arg-type]
        return self.response(method)

    # --- in ---------------------------------------------------------------------

    def receive(self, deadline: float = DEADLINE) -> bytes:
        """Some more bytes, beginning with those behind a head; empty at the end of the stream."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self._receive(deadline)

    def _receive(self, deadline: float = DEADLINE) -> bytes:
        self.socket.settimeout(deadline)
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            raise DeadlineMissed(
                f"no more bytes within {deadline:.0f} s after {self.received[-300:]!r}"
            ) from None
        self.received += data if len(self.received) < 1 << 20 else b""
        return data

    def _fill(self, what: str) -> None:
        data = self._receive()
        if not data:
            raise Truncated(f"closed in {what}, after {self.received[-300:]!r}")
        self._buffer += data

    def _line(self, what: str) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill(what)
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _exactly(self, count: int, into: bytearray, what: str) -> None:
        """Adds so many bytes; those that came if the connection ends before."""
        missing = count
        while missing:
            if not self._buffer:
                self._fill(what)
            part, self._buffer = self._buffer[:missing], self._buffer[missing:]
            missing -= len(part)
            into += part

    def head(self) -> Response:
        """The next status line and headers, also of a 1xx."""
        start = self._line("the status line")
        if not STATUS_LINE.match(start):
            raise Malformed(f"status line {start!r}")
        version, status, reason = start.split(b" ", 2)
        headers = []
        while line := self._line("the headers"):
            found = HEADER_LINE.match(line)
            if not found:
                raise Malformed(f"header line {line!r}")
            headers.append((found[1].decode(), found[2].decode("latin-1")))
        return Response(version[5:].decode(), int(status), reason.decode("latin-1"), headers)

    def response(self, method: str = "GET") -> Response:
        """The next final answer with its whole body.

        Raises :class:`Truncated` when the connection ends before it.
        """
        response = self.head()
        interim = []
        while response.status < 200 and response.status != 101:
            interim.append(response)
            response = self.head()
        response.interim = interim
        self.body(response, method)
        return response

    def body(self, response: Response, method: str = "GET") -> None:
        """Reads the body that belongs to a head."""
        lengths = response.all("content-length")
        coding = response.header("transfer-encoding")
        if len(lengths) > 1 or (lengths and coding):
            raise Malformed(f"ambiguous length: {response.headers}")
        if method == "HEAD" or response.status in (204, 304):
            return
        body = bytearray()
        try:
            if coding:
                if coding.lower() != "chunked" or response.version == "1.0":
                    raise Malformed(f"transfer-encoding {coding} in HTTP/{response.version}")
                response.framing = "chunked"
                self._chunks(body)
            elif lengths:
                response.framing = "length"
                self._exactly(int(lengths[0]), body, "the body")
            else:
                response.framing = "close"
                body += self.rest()
        finally:
            response.body = bytes(body)

    def _chunks(self, body: bytearray) -> None:
        while True:
            size = self._line("a chunk size")
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", size):
                raise Malformed(f"chunk size {size!r}")
            if not int(size, 16):
                break
            self._exactly(int(size, 16), body, "a chunk")
            if self._line("the end of a chunk"):
                raise Malformed("a chunk is longer than it says")
        while self._line("the trailers"):
            continue

    def rest(self, deadline: float = DEADLINE) -> bytes:
        """Everything up to the end of the stream; a reset counts as one."""
        parts = []
        try:
            while data := self.receive(deadline):
                parts.append(data)
        except ConnectionResetError:
            pass
        return b"".join(parts)

    def ended(self, deadline: float = DEADLINE) -> bool:
        """Whether the server closes the connection without another byte."""
        assert not self._buffer, f"more bytes: {self._buffer[:200]!r}"
        return self.rest(deadline) == b""

    def silent(self, seconds: float = QUIET) -> bool:
        """Whether nothing comes for a while, neither bytes nor the end."""
        if self._buffer:
            return False
        readable, _, _ = select.select([self.socket], [], [], seconds)
        return not readable

    def stalls(self, chunk: bytes, limit: int, seconds: float = 1.0) -> int:
        """Sends until the other side stops taking, at most ``limit`` bytes.

        Returns how many bytes were taken.
        """
        self.socket.setblocking(False)
        sent = 0
        last = time.monotonic()
        try:
            while sent < limit and time.monotonic() - last < seconds:
                _, writable, _ = select.select([], [self.socket], [], 0.05)
                if writable:
                    try:
                        sent += self.socket.send(chunk)
                    except BlockingIOError:
                        continue
                    last = time.monotonic()
        finally:
            self.socket.settimeout(DEADLINE)
        return sent
