"""Raw ASGI: one small behaviour for each path, for the tests of the protocol."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Behaviour = Callable[[Scope, Receive, Send], Awaitable[None]]

BEHAVIOURS: dict[str, Behaviour] = {}
EVENTS: dict[str, asyncio.Event] = {}
NOTES: dict[str, list[str]] = {}
MEGABYTE = 1 << 20


def at(path: str) -> Callable[[Behaviour], Behaviour]:
    """Registers what happens at a path."""

    def register(behaviour: Behaviour) -> Behaviour:
        BEHAVIOURS[path] = behaviour
        return behaviour

    return register


def note(key: str, text: object) -> None:
    """Remembers something that a later request reads at ``/notes?key``."""
    NOTES.setdefault(key, []).append(str(text))
    EVENTS.setdefault(key, asyncio.Event()).set()


async def answer(
    send: Send,
    body: bytes = b"",
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
    length: bool = True,
) -> None:
    """A whole answer in two messages."""
    fields = list(headers or [])
    if length:
        fields.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read(receive: Receive) -> bytes:
    """The whole request body."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client went away")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    behaviour = BEHAVIOURS.get(scope["path"])
    if behaviour is None:
        await answer(send, b"no such behaviour", 404)
        return
    await behaviour(scope, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    """Starts and stops without anything to do."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


@at("/ping")
async def ping(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"pong", headers=[(b"content-type", b"text/plain")])


@at("/pid")
async def pid(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, str(os.getpid()).encode())


@at("/notes")
async def notes(scope: Scope, receive: Receive, send: Send) -> None:
    """What was noted under the key in the query string, as soon as there is some."""
    key = scope["query_string"].decode()
    await asyncio.wait_for(EVENTS.setdefault(key, asyncio.Event()).wait(), 30)
    await answer(send, "\n".join(NOTES[key]).encode())


@at("/release")
async def release(scope: Scope, receive: Receive, send: Send) -> None:
    """Lets the request go on that waits for the key in the query string."""
    EVENTS.setdefault("go " + scope["query_string"].decode(), asyncio.Event()).set()
    await answer(send, b"released")


async def permission(key: str) -> None:
    """Waits until ``/release?key`` is requested."""
    await EVENTS.setdefault("go " + key, asyncio.Event()).wait()


# --- request bodies -----------------------------------------------------------------


@at("/echo")
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body; with nothing, where the body never came to its end."""
    try:
        body = await read(receive)
    except ConnectionError:
        return
    await answer(send, body)


@at("/messages")
async def messages(scope: Scope, receive: Receive, send: Send) -> None:
    """The shape of each message: keys, types and length of the body."""
    seen = []
    while True:
        message = await receive()
        shape = {key: type(value).__name__ for key, value in message.items()}
        seen.append(
            {
                "type": message["type"],
                "shape": shape,
                "size": len(message.get("body", b"")),
                "more": message.get("more_body", False),
            }
        )
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            break
    await answer(send, repr(seen).encode())


@at("/count")
async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and keeps nothing of it."""
    size = 0
    largest = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        largest = max(largest, len(message.get("body", b"")))
        if not message.get("more_body", False):
            break
    await answer(send, repr((size, largest, os.getpid())).encode())


@at("/upload-when-released")
async def upload_when_released(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not read a byte of the body before it is released."""
    key = scope["query_string"].decode()
    note(key, os.getpid())
    await permission(key)
    await count(scope, receive, send)


@at("/ignore")
async def ignore(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading the body."""
    await answer(send, b"ignored")


@at("/read-one")
async def read_one(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers after the first message of the body."""
    message = await receive()
    await answer(send, repr((message["type"], message.get("more_body", False))).encode())


@at("/read-when-released")
async def read_when_released(scope: Scope, receive: Receive, send: Send) -> None:
    key = scope["query_string"].decode()
    note(key, "started")
    await permission(key)
    await answer(send, await read(receive))


@at("/upload-until-disconnect")
async def upload_until_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Notes that it has begun, and how the body ends."""
    size = 0
    note(scope["query_string"].decode() + "-started", "started")
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            note(scope["query_string"].decode(), f"disconnect after {size}")
            return
        size += len(message["body"])
        if not message["more_body"]:
            note(scope["query_string"].decode(), f"complete after {size}")
            await answer(send, b"complete")
            return


@at("/answer-then-read")
async def answer_then_read(scope: Scope, receive: Receive, send: Send) -> None:
    """Begins its answer, and counts the body then."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun;", "more_body": True})
    size = len(await read(receive))
    await send({"type": "http.response.body", "body": str(size).encode()})


# --- disconnects --------------------------------------------------------------------


@at("/wait-for-disconnect")
async def wait_for_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    key = scope["query_string"].decode()
    first = await receive()
    note(key + "-started", first["type"])
    second = await receive()
    note(key, second)


@at("/half-closed")
async def half_closed(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers only once it is released."""
    key = scope["query_string"].decode()
    await receive()
    note(key, "started")
    await permission(key)
    await answer(send, b"still here")


@at("/receive-after-response")
async def receive_after_response(scope: Scope, receive: Receive, send: Send) -> None:
    key = scope["query_string"].decode()
    await receive()
    await answer(send, b"done")
    for _ in range(2):
        note(key, await receive())


@at("/receive-before-response")
async def receive_before_response(scope: Scope, receive: Receive, send: Send) -> None:
    """A second receive() is pending while the answer is sent."""
    key = scope["query_string"].decode()
    await receive()
    pending = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    note(key, f"done={pending.done()}")
    await answer(send, b"done")
    note(key, await pending)


@at("/send-after-disconnect")
async def send_after_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    key = scope["query_string"].decode()
    await receive()
    note(key + "-started", "started")
    await receive()
    try:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    except Exception as error:
        note(key, ",".join(kind.__name__ for kind in type(error).__mro__))
    else:
        note(key, "no error")


@at("/stream-until-error")
async def stream_until_error(scope: Scope, receive: Receive, send: Send) -> None:
    key = scope["query_string"].decode()
    try:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
    except Exception as error:
        note(key, ",".join(kind.__name__ for kind in type(error).__mro__))


# --- responses ----------------------------------------------------------------------


@at("/no-length")
async def no_length(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"whole", length=False)


@at("/stream")
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(5):
        await send({"type": "http.response.body", "body": b"part%d;" % number, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body"})


@at("/stream-with-length")
async def stream_with_length(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"Content-Length", b"10")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    await send({"type": "http.response.body", "body": b"67890"})


@at("/first-part-then-wait")
async def first_part_then_wait(scope: Scope, receive: Receive, send: Send) -> None:
    """The first part has to arrive although the second is not there yet."""
    key = scope["query_string"].decode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await permission(key)
    await send({"type": "http.response.body", "body": b"second"})


@at("/big")
async def big(scope: Scope, receive: Receive, send: Send) -> None:
    """64 MB in parts of 64 KB; notes how far it got."""
    key = scope["query_string"].decode()
    note(key + "-pid", os.getpid())
    headers = [(b"content-length", str(64 * MEGABYTE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    part = b"0123456789abcdef" * 4096
    for number in range(1, 1025):
        await send({"type": "http.response.body", "body": part, "more_body": number < 1024})
        NOTES[key] = [str(number * 65536)]
        EVENTS.setdefault(key, asyncio.Event()).set()


@at("/one-big-message")
async def one_big_message(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"0123456789abcdef" * (16 * MEGABYTE // 16))


@at("/not-modified")
async def not_modified(scope: Scope, receive: Receive, send: Send) -> None:
    """304 with a body, which must not go out."""
    await send({"type": "http.response.start", "status": 304, "headers": []})
    await send({"type": "http.response.body", "body": b"not to be sent"})


@at("/goodbye")
async def goodbye(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that wants the connection to be closed."""
    await answer(send, b"bye", headers=[(b"connection", b"close")])


@at("/status")
async def status(scope: Scope, receive: Receive, send: Send) -> None:
    """The status of the query string, without a body or any header."""
    code = int(scope["query_string"])
    await send({"type": "http.response.start", "status": code, "headers": []})
    await send({"type": "http.response.body"})


@at("/headers")
async def headers(scope: Scope, receive: Receive, send: Send) -> None:
    fields = [
        (b"Set-Cookie", b"a=1"),
        (b"x-first", b"1"),
        (b"set-cookie", b"b=2"),
        (b"X-Latin", b"caf\xe9"),
        (b"x-empty", b""),
        (b"Set-Cookie", b"c=3"),
    ]
    await answer(send, b"", headers=fields)


@at("/many-headers")
async def many_headers(scope: Scope, receive: Receive, send: Send) -> None:
    fields = [(b"x-number-%d" % number, b"v" * 30) for number in range(200)]
    await answer(send, b"many", headers=fields)


@at("/big-header")
async def big_header(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"big", headers=[(b"x-big", b"v" * 60_000)])


@at("/request-headers")
async def request_headers(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, repr(scope["headers"]).encode())


@at("/unusual-types")
async def unusual_types(scope: Scope, receive: Receive, send: Send) -> None:
    """Headers as a tuple of lists, a body as bytearray and as memoryview."""
    headers = ([b"content-length", b"9"], [b"x-kind", b"list"])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytearray(b"abc"), "more_body": True})
    await send({"type": "http.response.body", "body": memoryview(b"defghi")})


@at("/generator-headers")
async def generator_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Headers as an iterable that can be read only once."""
    fields = ((name, b"1") for name in (b"x-one", b"x-two"))
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"ok"})


@at("/no-headers-key")
async def no_headers_key(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"bare"})


@at("/own-date-and-server")
async def own_date_and_server(scope: Scope, receive: Receive, send: Send) -> None:
    fields = [(b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"Server", b"mine")]
    await answer(send, b"", headers=fields)


@at("/close")
async def close(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"bye", headers=[(b"connection", b"close")])


@at("/slow")
async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes as many milliseconds as the query string says."""
    await asyncio.sleep(int(scope["query_string"]) / 1000)
    await answer(send, b"slept " + scope["query_string"])


@at("/hold")
async def hold(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers once it is released."""
    key = scope["query_string"].decode()
    note(key, os.getpid())
    await permission(key)
    await answer(send, b"held")


@at("/hint")
async def hint(scope: Scope, receive: Receive, send: Send) -> None:
    """A task that goes on after the answer."""
    key = scope["query_string"].decode()
    await answer(send, b"answered")
    await asyncio.sleep(0.05)
    note(key, "went on")


@at("/never")
async def never(scope: Scope, receive: Receive, send: Send) -> None:
    """What lies hidden behind a bad request; executing it is a smuggled request."""
    print("EXECUTED WHAT MUST NOT BE", flush=True)
    await answer(send, b"smuggled")


@at("/announced")
async def announced(scope: Scope, receive: Receive, send: Send) -> None:
    """As ``/slow``, and prints a line once it has begun, for tests with several workers."""
    print("serving /announced in", os.getpid(), flush=True)
    await slow(scope, receive, send)


async def in_a_group(function: Any, *arguments: Any) -> Any:
    """Awaits it in a child task of anyio's."""
    import anyio

    results = []

    async def child() -> None:
        results.append(await function(*arguments))

    async with anyio.create_task_group() as group:
        group.start_soon(child)
    return results[0]


async def started_in_a_group(function: Any, *arguments: Any) -> None:
    import anyio

    async with anyio.create_task_group() as group:
        group.start_soon(function, *arguments)


async def first_of(function: Any, *arguments: Any) -> Any:
    done, _ = await asyncio.wait({asyncio.ensure_future(function(*arguments))})
    return done.pop().result()


async def one_of_several(function: Any, *arguments: Any) -> Any:
    return (await asyncio.gather(function(*arguments), asyncio.sleep(0)))[0]


async def under_timeout(function: Any, *arguments: Any) -> Any:
    async with asyncio.timeout(30):
        return await function(*arguments)


async def driven_by_hand(function: Any, *arguments: Any) -> Any:
    """As ``await`` does it."""

    class Once:
        def __await__(self) -> Any:
            return (yield from function(*arguments).__await__())

    return await Once()


WAYS: dict[str, Any] = {
    "await": lambda function, *arguments: function(*arguments),
    "ensure_future": lambda function, *arguments: asyncio.ensure_future(function(*arguments)),
    "create_task": lambda function, *arguments: asyncio.create_task(function(*arguments)),
    "loop.create_task": lambda function, *arguments: asyncio.get_running_loop().create_task(
        function(*arguments)
    ),
    "wait_for": lambda function, *arguments: asyncio.wait_for(function(*arguments), 30),
    "shield": lambda function, *arguments: asyncio.shield(function(*arguments)),
    "gather": one_of_several,
    "wait": first_of,
    "timeout": under_timeout,
    "anyio": in_a_group,
    "yield from": driven_by_hand,
}


@at("/ways-to-await")
async def ways_to_await(scope: Scope, receive: Receive, send: Send) -> None:
    """receive() and send() awaited in the way that the query string names."""
    way = WAYS[scope["query_string"].decode().replace("%20", " ")]
    message = await way(receive)
    body = message["type"].encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await way(send, {"type": "http.response.start", "status": 200, "headers": headers})
    await way(send, {"type": "http.response.body", "body": body[:4], "more_body": True})
    await way(send, {"type": "http.response.body", "body": body[4:]})


@at("/receive-cancelled")
async def receive_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    """A receive() that is given up loses nothing."""
    attempts = 0
    body = b""
    while True:
        try:
            message = await asyncio.wait_for(receive(), 0.02)
        except TimeoutError:
            attempts += 1
            if attempts == 3:
                note(scope["query_string"].decode(), "gave up three times")
            continue
        body += message["body"]
        if not message["more_body"]:
            break
    await answer(send, body)
