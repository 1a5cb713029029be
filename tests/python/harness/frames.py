"""A WebSocket client that does what it is told, right or wrong: raw frames."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

from .waiting import DEADLINE
from .wire import Address, Connection, Response

KEY = base64.b64encode(b"sixteen bytes ok").decode()
ACCEPT = base64.b64encode(
    hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
).decode()

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

HANDSHAKE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
]


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x11\x22\x33\x44",
    length_bytes: int | None = None,
) -> bytes:
    """A frame; ``length_bytes`` (0, 2 or 8) writes the length longer than needed."""
    first = opcode | (0x80 if final else 0) | reserved << 4
    masked = 0x80 if mask else 0
    length = len(payload)
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    if length_bytes == 0:
        head = struct.pack("!BB", first, masked | length)
    elif length_bytes == 2:
        head = struct.pack("!BBH", first, masked | 126, length)
    else:
        head = struct.pack("!BBQ", first, masked | 127, length)
    if mask is None:
        return head + payload
    repeated = (mask * (length // 4 + 1))[:length]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + mixed.to_bytes(length, "big")


def closing(code: int, reason: str = "") -> bytes:
    """A close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


@dataclass(frozen=True)
class Frame:
    """A frame from the server."""

    opcode: int
    payload: bytes
    final: bool = True
    reserved: int = 0

    @property
    def code(self) -> int | None:
        """The code of a close frame."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None

    @property
    def reason(self) -> str:
        """The reason of a close frame."""
        return self.payload[2:].decode()


class Socket:
    """A WebSocket after its handshake."""

    def __init__(self, connection: Connection, response: Response) -> None:
        self.connection = connection
        self.response = response

    @classmethod
    def open(
        cls,
        address: Address,
        path: str = "/",
        *,
        headers: list[tuple[str, str]] | None = None,
        early: bytes = b"",
        receive_buffer: int | None = None,
    ) -> Socket:
        """Connects and shakes hands; ``early`` is sent in one piece with the request."""
        connection = Connection.open(address, receive_buffer=receive_buffer)
        connection.request(path, headers=HANDSHAKE + (headers or []), after=early)
        response = connection.head()
        assert response.status == 101, response
        assert response.header("sec-websocket-accept") == ACCEPT
        assert (response.header("upgrade") or "").lower() == "websocket"
        assert (response.header("connection") or "").lower() == "upgrade"
        return cls(connection, response)

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, *frames: bytes) -> None:
        """Sends frames in one piece."""
        self.connection.send(b"".join(frames))

    def text(self, text: str) -> None:
        """Sends a text message."""
        self.send(frame(TEXT, text.encode()))

    def receive(self) -> Frame:
        """The next frame; fails if the connection ends."""
        first, second = self._exactly(2)
        assert not second & 0x80, "a frame of the server is masked"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
            assert length > 125
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
            assert length > 65535
        payload = self._exactly(length)
        return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7)

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        self.connection._exactly(count, found, "a frame")
        return bytes(found)

    def ends(self, deadline: float = DEADLINE) -> bool:
        """Whether the server closes the connection without another byte."""
        return self.connection.ended(deadline)

    def close(self, code: int = 1000) -> Frame:
        """Closes in order; returns the close frame of the server."""
        self.send(closing(code))
        answer = self.receive()
        assert answer.opcode == CLOSE, answer
        assert self.ends()
        return answer
