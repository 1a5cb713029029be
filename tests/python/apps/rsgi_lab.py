"""An RSGI application of which each path shows one thing that applications do."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

NAMES = [
    "proto",
    "rsgi_version",
    "http_version",
    "server",
    "client",
    "scheme",
    "method",
    "path",
    "query_string",
    "authority",
]
TEXT = [("content-type", "text/plain")]
HERE = Path(__file__).parent

notes: dict[str, asyncio.Future[str]] = {}
tasks: set[asyncio.Task[None]] = set()


def note(key: str) -> asyncio.Future[str]:
    """What one request tells another."""
    return notes.setdefault(key, asyncio.get_running_loop().create_future())


def described(scope) -> dict[str, object]:
    """All that the scope tells."""
    headers = scope.headers
    return {
        **{name: getattr(scope, name) for name in NAMES},
        "items": headers.items(),
        "keys": headers.keys(),
        "values": headers.values(),
        "iterated": list(headers),
        "length": len(headers),
        "get": [headers.get("x-one"), headers.get("X-ONE")],
        "get_missing": [headers.get("no"), headers.get("no", 5)],
        "get_all": [headers.get_all("X-One"), headers.get_all("no")],
        "in": ["x-one" in headers, "X-One" in headers, "no" in headers],
        "item": headers["X-One"] if "x-one" in headers else None,
        "missing": _raised(lambda: headers["no"]),
    }


def _raised(function) -> str:
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return "nothing"


class Lab:
    """The application."""

    def __init__(self) -> None:
        self.began = False

    def __rsgi_init__(self, loop) -> None:
        loop.run_until_complete(asyncio.sleep(0))
        self.began = True
        print("init: the loop runs:", loop.is_running(), flush=True)

    def __rsgi_del__(self, loop) -> None:
        loop.run_until_complete(asyncio.sleep(0))
        print("del: the loop runs:", loop.is_running(), flush=True)

    async def __rsgi__(self, scope, protocol) -> None:
        assert self.began
        name = scope.path.strip("/").replace("-", "_") or "root"
        if scope.proto == "http":
            await getattr(self, name)(scope, protocol)
        else:
            await getattr(self, f"ws_{name}")(scope, protocol)

    # --- requests -----------------------------------------------------------------

    async def root(self, scope, protocol) -> None:
        protocol.response_str(200, TEXT, "hello")

    async def scope(self, scope, protocol) -> None:
        protocol.response_str(200, TEXT, json.dumps(described(scope)))

    async def empty(self, scope, protocol) -> None:
        protocol.response_empty(int(scope.query_string or 200), [("x-a", "1"), ("x-a", "2")])

    async def defaults(self, scope, protocol) -> None:
        protocol.response_empty()

    async def text(self, scope, protocol) -> None:
        protocol.response_str(int(scope.query_string or 200), TEXT, "grüße")

    async def bytes(self, scope, protocol) -> None:
        protocol.response_bytes(200, [("x-bytes", "ü")], bytes(range(256)) * 400)

    async def buffer(self, scope, protocol) -> None:
        protocol.response_bytes(200, (pair for pair in TEXT), memoryview(b"a view"))

    async def file(self, scope, protocol) -> None:
        protocol.response_file(200, TEXT, str(HERE / (scope.query_string or "rsgi_lab.py")))

    async def file_range(self, scope, protocol) -> None:
        start, end = map(int, scope.query_string.split("-"))
        protocol.response_file_range(206, [], HERE / "rsgi_lab.py", start, end)

    async def large(self, scope, protocol) -> None:
        protocol.response_file(200, [], scope.query_string)

    async def stream(self, scope, protocol) -> None:
        transport = protocol.response_stream(200, TEXT)
        for number in range(50):
            await (
                transport.send_str(f"{number};")
                if number % 2
                else transport.send_bytes(b"%d;" % number)
            )
            await asyncio.sleep(0)

    async def head_first(self, scope, protocol) -> None:
        transport = protocol.response_stream(200, [])
        await note("release")
        await transport.send_str("rest")

    async def release(self, scope, protocol) -> None:
        note("release").set_result("")
        protocol.response_empty(204)

    async def outlived(self, scope, protocol) -> None:
        async def go_on(transport) -> None:
            await asyncio.sleep(0.05)
            await transport.send_str("late")

        task = asyncio.create_task(go_on(protocol.response_stream(200, [])))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def two_lengths(self, scope, protocol) -> None:
        protocol.response_empty(200, [("content-length", "9"), ("content-length", "0")])

    async def short(self, scope, protocol) -> None:
        transport = protocol.response_stream(200, [("content-length", "10")])
        await transport.send_str("short")

    async def endless(self, scope, protocol) -> None:
        transport = protocol.response_stream(200, [])
        sent = 0
        try:
            while True:
                await transport.send_bytes(b"x" * 65536)
                sent += 65536
                self.sent = sent
        except RuntimeError as error:
            note(scope.query_string).set_result(f"{type(error).__module__}.{type(error).__name__}")

    async def sent_so_far(self, scope, protocol) -> None:
        protocol.response_str(200, [], str(self.sent))

    async def thread(self, scope, protocol) -> None:
        await asyncio.to_thread(protocol.response_str, 200, TEXT, "from a thread")

    async def thread_stream(self, scope, protocol) -> None:
        transport = await asyncio.to_thread(protocol.response_stream, 200, TEXT)
        await (await asyncio.to_thread(transport.send_str, "put off"))

    async def after(self, scope, protocol) -> None:
        protocol.response_str(200, TEXT, "first")
        await note(scope.query_string)
        print("went on", flush=True)

    # --- bodies -------------------------------------------------------------------

    async def echo(self, scope, protocol) -> None:
        protocol.response_bytes(200, [], await protocol())

    async def echo_parts(self, scope, protocol) -> None:
        transport = protocol.response_stream(200, [])
        async for part in protocol:
            await transport.send_bytes(part)

    async def count(self, scope, protocol) -> None:
        parts = [len(part) async for part in protocol]
        protocol.response_str(200, [], json.dumps([sum(parts), 0 in parts]))

    async def slow_count(self, scope, protocol) -> None:
        await note(scope.query_string)
        protocol.response_str(200, [], str(len(await protocol())))

    async def twice(self, scope, protocol) -> None:
        await protocol()
        seen = []
        for take in (protocol, protocol.__aiter__, protocol.__anext__):
            try:
                await take()
            except RuntimeError as error:
                seen.append(type(error).__name__)
        protocol.response_str(200, [], " ".join(seen))

    async def patient(self, scope, protocol) -> None:
        """A call that was cancelled while it waited has lost nothing."""
        try:
            await asyncio.wait_for(protocol(), 0.1)
        except TimeoutError:
            note(scope.query_string).set_result("timed out")
        protocol.response_bytes(200, [], await protocol())

    async def truncated(self, scope, protocol) -> None:
        note(f"{scope.query_string}-started").set_result("started")
        try:
            await protocol()
        except RuntimeError as error:
            note(scope.query_string).set_result(type(error).__name__)
            if scope.query_string == "raising":
                raise

    # --- disconnects --------------------------------------------------------------

    async def leave(self, scope, protocol) -> None:
        note(f"{scope.query_string}-started").set_result("started")
        await protocol.client_disconnect()
        note(scope.query_string).set_result("left")

    async def leave_after_answer(self, scope, protocol) -> None:
        protocol.response_str(200, [], "answered")
        await protocol.client_disconnect()
        note("answered").set_result("over")

    async def wait_long(self, scope, protocol) -> None:
        note(f"{scope.query_string}-started").set_result("started")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note(scope.query_string).set_result("cancelled")
            raise

    async def notes(self, scope, protocol) -> None:
        protocol.response_str(200, [], await asyncio.wait_for(note(scope.query_string), 20))

    async def set_note(self, scope, protocol) -> None:
        note(scope.query_string).set_result("")
        protocol.response_empty()

    # --- what goes wrong ----------------------------------------------------------

    async def raises(self, scope, protocol) -> None:
        raise RuntimeError("on purpose")

    async def raises_late(self, scope, protocol) -> None:
        transport = protocol.response_stream(200, [])
        await transport.send_str("begun")
        await note(scope.query_string)
        raise RuntimeError("too late")

    async def exits(self, scope, protocol) -> None:
        sys.exit(1)

    async def nothing(self, scope, protocol) -> None:
        pass

    async def two_answers(self, scope, protocol) -> None:
        protocol.response_str(200, [], "first")
        protocol.response_str(500, [], "second")
        try:
            protocol.response_stream(200, [])
        except RuntimeError as error:
            print("a stream is a", type(error).__name__, flush=True)

    async def wrong(self, scope, protocol) -> None:
        kind = scope.query_string
        if kind == "status":
            protocol.response_empty(99)
        elif kind == "name":
            protocol.response_empty(200, [("a b", "c")])
        elif kind == "value":
            protocol.response_empty(200, [("a", "b\nc")])
        elif kind == "bytes":
            protocol.response_empty(200, [(b"a", b"b")])
        elif kind == "pair":
            protocol.response_empty(200, ["a"])
        elif kind == "body":
            protocol.response_bytes(200, [], "text")
        elif kind == "length":
            protocol.response_str(200, [("content-length", "3")], "longer")
        elif kind == "range":
            protocol.response_file_range(206, [], __file__, 5, 5)

    # --- WebSockets ---------------------------------------------------------------

    async def ws_scope(self, scope, protocol) -> None:
        transport = await protocol.accept()
        await transport.send_str(json.dumps(described(scope)))
        await transport.receive()

    async def ws_echo(self, scope, protocol) -> None:
        transport = await protocol.accept()
        while (message := await transport.receive()).kind:
            assert message.kind == (2 if isinstance(message.data, str) else 1)
            send = transport.send_str if message.kind == 2 else transport.send_bytes
            await send(message.data)
        assert message.data is None
        seen = []
        for call in (transport.receive, lambda: transport.send_str("late")):
            try:
                await call()
            except RuntimeError as error:
                seen.append(type(error).__name__)
        print("after the end:", *seen, flush=True)

    async def ws_close(self, scope, protocol) -> None:
        await protocol.accept()
        protocol.close(int(scope.query_string) if scope.query_string else None)
        protocol.close()

    async def ws_refuse(self, scope, protocol) -> None:
        protocol.close(int(scope.query_string) if scope.query_string else None)

    async def ws_nothing(self, scope, protocol) -> None:
        pass

    async def ws_return(self, scope, protocol) -> None:
        await protocol.accept()

    async def ws_raises(self, scope, protocol) -> None:
        if scope.query_string:
            await protocol.accept()
        raise RuntimeError("on purpose")

    async def ws_twice(self, scope, protocol) -> None:
        transport = await protocol.accept()
        try:
            await protocol.accept()
        except RuntimeError as error:
            await transport.send_str(type(error).__name__)
        protocol.close()
        try:
            await transport.send_str("late")
        except RuntimeError as error:
            print("a late message is a", type(error).__name__, flush=True)

    async def ws_thread(self, scope, protocol) -> None:
        transport = await (await asyncio.to_thread(protocol.accept))
        message = await (await asyncio.to_thread(transport.receive))
        await (await asyncio.to_thread(transport.send_str, message.data))

    async def ws_flood(self, scope, protocol) -> None:
        transport = await protocol.accept()
        self.sent = 0
        try:
            while True:
                await transport.send_bytes(b"x" * 65536)
                self.sent += 65536
        except RuntimeError:
            note("flooded").set_result(str(self.sent))


app = Lab()


async def plain(scope, protocol):
    """An application that is a function."""
    protocol.response_str(200, [], "plain")


def nameless(one, two):
    """One whose arguments say nothing."""
    return plain(one, two)


class Both(Lab):
    """An application of two interfaces."""

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("not supported")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"as ASGI"})


both = Both()
