"""WebSocket on the wire: what RFC 6455 and RFC 7692 demand, frame by frame.

The groups follow the families of Autobahn's fuzzing client (1 to 7, 9, 10, 12, and 13),
and so stand in for it where there is no CPython 2.7 to run it (test_autobahn.py).
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable

import pytest
from harness.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Frame,
    Socket,
    closing,
    frame,
)
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = rsgun_only

Serve = Callable[..., Server]
Case = tuple[list[bytes], list[Frame | int]]

NORMAL = 1000
PROTOCOL_ERROR = 1002
INVALID = 1007
TOO_BIG = 1009


def said(text: str | bytes) -> Frame:
    return Frame(TEXT, text.encode() if isinstance(text, str) else text)


def sent(data: bytes) -> Frame:
    return Frame(BINARY, data)


def parts(opcode: int, *payloads: bytes) -> list[bytes]:
    """A message in fragments."""
    last = len(payloads) - 1
    return [
        frame(opcode if index == 0 else CONTINUATION, payload, final=index == last)
        for index, payload in enumerate(payloads)
    ]


GREEN = "Hello-µ@ßöäüàá-UTF-8!!"

CASES: dict[str, Case] = {
    # 1: framing
    **{
        f"1-text-{length}": ([frame(TEXT, b"*" * length)], [said(b"*" * length)])
        for length in (0, 125, 126, 127, 128, 65535, 65536)
    },
    **{
        f"1-binary-{length}": ([frame(BINARY, b"\xfe" * length)], [sent(b"\xfe" * length)])
        for length in (0, 125, 126, 65535, 65536)
    },
    # 2: pings and pongs
    "2-ping": ([frame(PING)], [Frame(PONG, b"")]),
    "2-ping-125": ([frame(PING, b"\xfe" * 125)], [Frame(PONG, b"\xfe" * 125)]),
    "2-ping-126": ([frame(PING, b"\xfe" * 126)], [PROTOCOL_ERROR]),
    "2-unsolicited-pong": ([frame(PONG, b"x"), frame(PING, b"y")], [Frame(PONG, b"y")]),
    "2-ten-pings": (
        [frame(PING, b"%d" % number) for number in range(10)],
        [Frame(PONG, b"%d" % number) for number in range(10)],
    ),
    # 3: reserved bits; what came before is answered first
    **{
        f"3-reserved-{bits}": (
            [frame(TEXT, b"first"), frame(TEXT, b"second", reserved=bits), frame(PING)],
            [said("first"), PROTOCOL_ERROR],
        )
        for bits in range(1, 8)
    },
    "3-reserved-ping": ([frame(PING, reserved=4)], [PROTOCOL_ERROR]),
    "3-reserved-close": ([frame(CLOSE, reserved=1)], [PROTOCOL_ERROR]),
    # 4: opcodes
    **{
        f"4-opcode-{opcode}": (
            [frame(TEXT, b"first"), frame(opcode, b"x"), frame(PING)],
            [said("first"), PROTOCOL_ERROR],
        )
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    # 5: fragments
    "5-fragmented-ping": ([frame(PING, b"x", final=False)], [PROTOCOL_ERROR]),
    "5-fragmented-pong": ([frame(PONG, b"x", final=False)], [PROTOCOL_ERROR]),
    "5-text": (parts(TEXT, b"frag", b"ment"), [said("fragment")]),
    "5-ping-between": (
        [frame(TEXT, b"frag", final=False), frame(PING, b"p"), frame(CONTINUATION, b"ment")],
        [Frame(PONG, b"p"), said("fragment")],
    ),
    "5-continuation-of-nothing": ([frame(CONTINUATION, b"x")], [PROTOCOL_ERROR]),
    "5-unfinished-continuation": ([frame(CONTINUATION, b"x", final=False)], [PROTOCOL_ERROR]),
    "5-continuation-after-the-end": (
        [*parts(TEXT, b"a", b"b"), frame(CONTINUATION, b"c")],
        [said("ab"), PROTOCOL_ERROR],
    ),
    "5-message-inside": ([frame(TEXT, b"a", final=False), frame(TEXT, b"b")], [PROTOCOL_ERROR]),
    "5-many": (
        parts(BINARY, *[bytes([number]) for number in range(200)]),
        [sent(bytes(range(200)))],
    ),
    "5-empty-fragments": (parts(TEXT, b"", b"", b""), [said("")]),
    "5-pings-between-many": (
        [
            frame(TEXT, b"1", final=False),
            frame(CONTINUATION, b"2", final=False),
            frame(PING, b"first"),
            frame(CONTINUATION, b"3", final=False),
            frame(CONTINUATION, b"4", final=False),
            frame(PING, b"second"),
            frame(CONTINUATION, b"5"),
        ],
        [Frame(PONG, b"first"), Frame(PONG, b"second"), said("12345")],
    ),
    "5-continuations-of-nothing": (
        [frame(CONTINUATION, b"x", final=False), *parts(TEXT, b"a", b"b")] * 2,
        [PROTOCOL_ERROR],
    ),
    # 6: UTF-8
    "6-text": ([frame(TEXT, GREEN.encode())], [said(GREEN)]),
    "6-cut-everywhere": (
        parts(TEXT, *[bytes([byte]) for byte in "κόσμε 🦀".encode()]),
        [said("κόσμε 🦀")],
    ),
    "6-not-characters": (
        [frame(TEXT, "\ufffe\uffff\U0010ffff\0".encode())],
        [said("\ufffe\uffff\U0010ffff\0")],
    ),
    **{
        f"6-{name}": ([frame(TEXT, b"ok"), frame(TEXT, data)], [said("ok"), INVALID])
        for name, data in {
            "surrogate": b"\xce\xba\xed\xa0\x80",
            "lone-continuation": b"\x80",
            "cut": b"\xf0\x9f\xa6",
            "overlong": b"\xc0\xaf",
            "overlong-3": b"\xe0\x80\xaf",
            "overlong-4": b"\xf0\x80\x80\x80",
            "beyond": b"\xf4\x90\x80\x80",
            "five-bytes": b"\xf8\x88\x80\x80\x80",
            "ff": b"\xff",
            "after-text": b"hello \xfe there",
        }.items()
    },
    "6-fails-before-the-end": (
        [frame(TEXT, b"caf\xe9 ", final=False)],
        [INVALID],
    ),
    # 7: closing
    "7-message-before": ([frame(TEXT, b"last"), closing(1000)], [said("last"), NORMAL]),
    "7-nothing-after": ([closing(1000), frame(TEXT, b"late"), frame(PING)], [NORMAL]),
    "7-twice": ([closing(1000), closing(1000)], [NORMAL]),
    "7-inside-a-message": ([frame(TEXT, b"a", final=False), closing(1001)], [1001]),
    "7-empty": ([frame(CLOSE)], [Frame(CLOSE, b"")]),
    "7-half-a-code": ([frame(CLOSE, b"\x03")], [PROTOCOL_ERROR]),
    "7-reason": ([closing(1000, "x" * 123)], [NORMAL]),
    "7-reason-too-long": ([closing(1000, "x" * 124)], [PROTOCOL_ERROR]),
    "7-reason-not-utf8": ([frame(CLOSE, b"\x03\xe8\xce\xba\xe1\xbd")], [INVALID]),
    "7-fragmented": ([frame(CLOSE, final=False)], [PROTOCOL_ERROR]),
    **{
        f"7-code-{code}": ([closing(code)], [code])
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 3000, 4999)
    },
    **{
        f"7-illegal-{code}": ([closing(code)], [PROTOCOL_ERROR])
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    # Not in Autobahn: masks and lengths
    "8-unmasked": ([frame(TEXT, b"x", mask=None)], [PROTOCOL_ERROR]),
    "8-mask-of-zeros": ([frame(TEXT, b"x", mask=bytes(4))], [said("x")]),
    "8-long-length-2": ([frame(TEXT, b"x" * 125, length_bytes=2)], [PROTOCOL_ERROR]),
    "8-long-length-8": ([frame(TEXT, b"x" * 200, length_bytes=8)], [PROTOCOL_ERROR]),
    "8-negative-length": ([b"\x82\xff" + b"\xff" * 8 + bytes(4)], [PROTOCOL_ERROR]),
    # 9: limits; that of this server is 1000000 bytes
    **{
        f"9-{'text' if opcode == TEXT else 'binary'}-{length}-in-{size}": (
            parts(opcode, *[b"*" * size] * (length // size)),
            [Frame(opcode, b"*" * length)],
        )
        for opcode in (TEXT, BINARY)
        for length, size in ((65536, 64), (262144, 4096), (524288, 524288))
    },
    **{
        f"9-{count}-messages-of-{length}": (
            [frame(TEXT, b"*" * length)] * count,
            [said(b"*" * length)] * count,
        )
        for count, length in ((1000, 0), (1000, 64), (200, 1024))
    },
    "9-just-fits": ([frame(BINARY, bytes(1_000_000))], [sent(bytes(1_000_000))]),
    "9-too-big": ([frame(BINARY, bytes(1_000_001))], [TOO_BIG]),
    "9-too-big-in-parts": (parts(BINARY, *[bytes(100_000)] * 11), [TOO_BIG]),
    "9-announced-only": ([b"\x82\xff\x00\x00\x7f" + b"\xff" * 5 + bytes(4)], [TOO_BIG]),
    # 10: a message that the client cuts by itself
    "10-in-1300": (
        parts(TEXT, *[b"*" * 1300] * 50, b"*" * 536),
        [said(b"*" * 65536)],
    ),
}


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("sockets:app", "--ws-max-size", "1000000")


def check(socket: Socket, expected: list[Frame | int]) -> None:
    """Reads exactly these frames; a number is the code of the last one, a close frame."""
    for wanted in expected:
        found = socket.receive()
        if isinstance(wanted, Frame):
            assert found == wanted
        else:
            assert (found.opcode, found.code) == (CLOSE, wanted)
    last = expected[-1]
    if isinstance(last, Frame) and last.opcode != CLOSE:
        assert socket.close().code == NORMAL
    else:
        assert socket.ends()


@pytest.mark.parametrize("name", CASES)
def test_frames_in_one_piece(server: Server, name: str) -> None:
    frames, expected = CASES[name]
    with Socket.open(server.address) as socket:
        try:
            socket.send(*frames)
        except ConnectionError:
            assert name.startswith("9-too-big"), "the server gave up early"
        check(socket, expected)


@pytest.mark.parametrize("name", [name for name in CASES if sum(map(len, CASES[name][0])) < 2000])
def test_frames_byte_by_byte(server: Server, name: str) -> None:
    frames, expected = CASES[name]
    with Socket.open(server.address) as socket:
        try:
            for byte in b"".join(frames):
                socket.send(bytes([byte]))
        except ConnectionError:
            # Nothing is read any more after a violation.
            pass
        # Single bytes arrive one after the other, or in pieces of any size: whether what
        # came before a violation is answered is the same.
        check(socket, expected)


def test_early_frames_are_not_lost(server: Server) -> None:
    early = frame(TEXT, b"before 101") + frame(TEXT, b"half")[:5]
    with Socket.open(server.address, early=early) as socket:
        assert socket.receive() == said("before 101")
        socket.send(frame(TEXT, b"half")[5:])
        assert socket.receive() == said("half")
        socket.close()


# --- 12 and 13: compression -------------------------------------------------------

OFFER = ("Sec-WebSocket-Extensions", "permessage-deflate")


class Compressor:
    """A client's side of permessage-deflate."""

    def __init__(self, bits: int = 15, server_bits: int = 15, *, keeps: bool = True) -> None:
        self.bits = bits
        self.server_bits = server_bits
        self.keeps = keeps
        self.reset()

    def reset(self) -> None:
        """Begins anew, as without context takeover."""
        self.deflate = zlib.compressobj(6, zlib.DEFLATED, -self.bits)
        self.inflate = zlib.decompressobj(-self.server_bits)

    def pack(self, data: bytes) -> bytes:
        """The payload of a message."""
        packed = self.deflate.compress(data) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        return packed.removesuffix(b"\0\0\xff\xff")

    def unpack(self, found: Frame) -> bytes:
        """What a frame of the server says."""
        if not found.reserved:
            return found.payload
        assert found.reserved == 4
        return self.inflate.decompress(found.payload + b"\0\0\xff\xff")


OFFERS = {
    "plain": ("permessage-deflate", 15, 12),
    "client-window": ("permessage-deflate; client_max_window_bits", 12, 12),
    "client-window-9": ("permessage-deflate; client_max_window_bits=9", 9, 12),
    "server-window-9": ("permessage-deflate; server_max_window_bits=9", 15, 9),
    "no-takeover": (
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        15,
        12,
    ),
}


@pytest.mark.parametrize("name", OFFERS)
@pytest.mark.parametrize("fragments", [1, 5])
def test_compressed_messages(server: Server, name: str, fragments: int) -> None:
    offer, bits, server_bits = OFFERS[name]
    keeps = name != "no-takeover"
    client = Compressor(bits, server_bits, keeps=keeps)
    dice = random.Random(7)
    with Socket.open(server.address, headers=[(OFFER[0], offer)]) as socket:
        answer = socket.response.header("sec-websocket-extensions") or ""
        assert answer.startswith("permessage-deflate")
        assert f"server_max_window_bits={server_bits}" in answer
        assert ("client_max_window_bits=" in answer) == name.startswith("client-window")
        assert ("no_context_takeover" in answer) == (not keeps)
        for length in (0, 1, 64, 1000, 70_000, 300_000):
            data = bytes(dice.choice(b"abcdefgh") for _ in range(length))
            if not keeps:
                client.reset()
            packed = client.pack(data)
            step = len(packed) // fragments + 1
            pieces = [packed[start : start + step] for start in range(0, len(packed), step)]
            for index, piece in enumerate(pieces or [b""]):
                is_last = index >= len(pieces) - 1
                opcode = TEXT if index == 0 else CONTINUATION
                reserved = 4 if index == 0 else 0
                socket.send(frame(opcode, piece, final=is_last, reserved=reserved))
            found = socket.receive()
            assert client.unpack(found) == data
            if length >= 1000:
                assert found.reserved == 4
                assert len(found.payload) < length
        # Messages that are not compressed may be mixed in.
        socket.text("plain")
        assert client.unpack(socket.receive()) == b"plain"
        socket.close()


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-bzip2",
    ],
)
def test_impossible_offers_are_declined(server: Server, offer: str) -> None:
    with Socket.open(server.address, headers=[(OFFER[0], offer)]) as socket:
        assert socket.response.header("sec-websocket-extensions") is None
        socket.send(frame(TEXT, b"x", reserved=4))
        check(socket, [PROTOCOL_ERROR])


def test_compression_can_be_switched_off(shared: Serve) -> None:
    server = shared("sockets:app", "--no-ws-per-message-deflate")
    with Socket.open(server.address, headers=[OFFER]) as socket:
        assert socket.response.header("sec-websocket-extensions") is None


def test_bomb_is_stopped_after_inflation(server: Server) -> None:
    packed = Compressor().pack(bytes(50_000_000))
    assert len(packed) < 60_000
    with Socket.open(server.address, headers=[OFFER]) as socket:
        socket.send(frame(BINARY, packed, reserved=4))
        check(socket, [TOO_BIG])


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\xff" * 20, INVALID), (Compressor().pack(b"\xff\xfe"), INVALID)]
)
def test_broken_compressed_text(server: Server, payload: bytes, code: int) -> None:
    with Socket.open(server.address, headers=[OFFER]) as socket:
        socket.send(frame(TEXT, payload, reserved=4))
        check(socket, [code])


def test_compressed_control_and_continuation_frames_are_refused(server: Server) -> None:
    for frames in (
        [frame(PING, b"x", reserved=4)],
        [frame(TEXT, b"", final=False), frame(CONTINUATION, b"", reserved=4)],
    ):
        with Socket.open(server.address, headers=[OFFER]) as socket:
            socket.send(*frames)
            check(socket, [PROTOCOL_ERROR])


# --- the handshake ----------------------------------------------------------------


def without(name: str) -> list[tuple[str, str]]:
    return [field for field in HANDSHAKE if field[0] != name]


def changed(name: str, value: str) -> list[tuple[str, str]]:
    return [*without(name), (name, value)]


REFUSED = {
    "key-missing": (without("Sec-WebSocket-Key"), 400),
    "key-short": (changed("Sec-WebSocket-Key", "dGhl"), 400),
    "key-garbage": (changed("Sec-WebSocket-Key", "not base64 at all!!!!!!!"), 400),
    "key-twice": ([*HANDSHAKE, HANDSHAKE[3]], 400),
    "version-missing": (without("Sec-WebSocket-Version"), 426),
    "version-8": (changed("Sec-WebSocket-Version", "8"), 426),
    "version-list": (changed("Sec-WebSocket-Version", "13, 8"), 426),
    "no-connection": (without("Connection"), 400),
    "connection-close": (changed("Connection", "keep-alive"), 400),
    "no-upgrade": (without("Upgrade"), 400),
    "subprotocol-8-bit": ([*HANDSHAKE, ("Sec-WebSocket-Protocol", "caf\xe9")], 400),
    "subprotocol-no-token": ([*HANDSHAKE, ("Sec-WebSocket-Protocol", "a,b/c")], 400),
    "extensions-garbage": ([*HANDSHAKE, ("Sec-WebSocket-Extensions", "; ;")], 400),
    "body": ([*HANDSHAKE, ("Content-Length", "3")], 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_handshakes_are_refused(server: Server, name: str) -> None:
    headers, status = REFUSED[name]
    since = server.output.mark()
    with server.connect() as connection:
        response = connection.get("/", headers=headers)
        assert response.status == status
        assert response.closes
        assert connection.ended()
        if status == 426:
            assert response.header("sec-websocket-version") == "13"
            assert "upgrade" in (response.header("connection") or "")
        client = "{}:{}".format(*connection.own_address)
    server.wait_for_line(f"invalid WebSocket handshake from {client}: ", since=since)


def test_handshake_must_be_a_get(server: Server) -> None:
    with server.connect() as connection:
        response = connection.get("/", method="POST", headers=HANDSHAKE)
        assert (response.status, response.header("allow")) == (405, "GET")


def test_handshake_in_http_1_0_is_an_ordinary_request(server: Server) -> None:
    since = server.output.mark()
    for headers in (HANDSHAKE, [("Upgrade", "websocket")], HANDSHAKE[2:]):
        with server.connect() as connection:
            assert connection.get("/", version="1.0", headers=headers).text == "plain"
            client = "{}:{}".format(*connection.own_address)
        server.wait_for_line(
            f"WebSocket handshake from {client} in HTTP/1.0 .*proxy_http_version 1.1", since=since
        )


def test_other_upgrades_are_ordinary_requests(server: Server) -> None:
    with server.connect() as connection:
        headers = [("Connection", "Upgrade, keep-alive"), ("Upgrade", "h2c")]
        assert connection.get("/", headers=headers).text == "plain"
        assert connection.get("/").text == "plain"
        assert connection.get("/", headers=headers, close=True).text == "plain"
        assert connection.ended()


def test_words_of_the_handshake_have_any_case(server: Server) -> None:
    headers = [("upgrade", "WebSocket"), ("CONNECTION", "keep-alive, UPGRADE"), *HANDSHAKE[2:]]
    with server.connect() as connection:
        connection.request("/", headers=headers)
        assert connection.head().status == 101


def test_a_socket_after_ordinary_requests(server: Server) -> None:
    with server.connect() as connection:
        assert connection.get("/").text == "plain"
        connection.request("/", headers=HANDSHAKE)
        assert connection.head().status == 101
        connection.send(frame(TEXT, b"x"))
        assert connection.receive() == b"\x81\x01x"


def test_requests_go_on_after_a_rejection(server: Server) -> None:
    with server.connect() as connection:
        assert connection.get("/reject", headers=HANDSHAKE).status == 403
        assert connection.get("/").text == "plain"
        connection.request("/", headers=HANDSHAKE)
        assert connection.head().status == 101


def test_random_input_never_breaks_the_server(server: Server) -> None:
    seed = int(os.environ.get("RSGUN_TEST_SEED", random.randrange(1 << 32)))
    dice = random.Random(seed)
    frames = [piece for case in CASES.values() for piece in case[0] if len(piece) < 300]
    for _ in range(150):
        pieces = bytearray(b"".join(dice.choices(frames, k=dice.randrange(1, 6))))
        for _ in range(dice.randrange(4)):
            pieces[dice.randrange(len(pieces))] = dice.randrange(256)
        with Socket.open(server.address, headers=[OFFER]) as socket:
            socket.send(bytes(pieces))
            socket.connection.finish_sending()
            socket.connection.rest()
    with Socket.open(server.address) as socket:
        socket.text(f"alive after seed {seed}")
        assert socket.receive().opcode == TEXT
