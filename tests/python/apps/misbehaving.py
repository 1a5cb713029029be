"""Raw ASGI applications that break the rules, one at each path."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from lab import Receive, Scope, Send, lifespan

CASES: dict[str, Any] = {}


class Mistake(Exception):
    """What the applications here raise; the tests look for it in the log."""


def case(function: Any) -> Any:
    """Registers a function at the path of its name."""
    CASES["/" + function.__name__] = function
    return function


def start(status: Any = 200, headers: Any = ()) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def not_a_coroutine(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that is no coroutine function, as a WSGI one."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"] == "/ping":
        await send(start(headers=[(b"content-length", b"4")]))
        await send(body(b"pong"))
    else:
        await CASES[scope["path"]](scope, receive, send)


@case
async def raises_before_start(scope: Scope, receive: Receive, send: Send) -> None:
    raise Mistake("before the start")


@case
async def raises_after_reading(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await asyncio.sleep(0)
    raise Mistake("after reading")


@case
async def raises_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    raise Mistake("after the start")


@case
async def raises_in_a_stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    await send(body(b"some", more=True))
    await asyncio.sleep(0.02)
    raise Mistake("in the stream")


@case
async def raises_in_a_stream_with_length(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"100")]))
    await send(body(b"some", more=True))
    raise Mistake("in the stream")


@case
async def raises_after_the_response(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"4")]))
    await send(body(b"done"))
    raise Mistake("after the response")


@case
async def raises_a_group(scope: Scope, receive: Receive, send: Send) -> None:
    raise ExceptionGroup("several", [Mistake("one"), ValueError("two")])


@case
async def raises_an_exception_that_cannot_be_printed(
    scope: Scope, receive: Receive, send: Send
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    raise Mute


@case
async def returns_without_response(scope: Scope, receive: Receive, send: Send) -> None:
    return


@case
async def returns_without_completing(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    await send(body(b"some", more=True))


@case
async def returns_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())


@case
async def status_99(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(99))
    await send(body())


@case
async def status_1000(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(1000))
    await send(body())


@case
async def status_negative(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(-200))
    await send(body())


@case
async def status_huge(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(10**30))
    await send(body())


@case
async def status_text(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start("200"))
    await send(body())


@case
async def status_none(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(None))
    await send(body())


@case
async def status_missing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "headers": []})
    await send(body())


@case
async def header_value_with_crlf(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"x-a", b"1\r\nInjected: yes")]))
    await send(body())


@case
async def header_value_with_lf(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"x-a", b"1\nInjected: yes")]))
    await send(body())


@case
async def header_value_with_nul(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"x-a", b"Injected\0")]))
    await send(body())


@case
async def header_name_with_crlf(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"x-a: 1\r\nInjected", b"yes")]))
    await send(body())


@case
async def header_name_with_blank(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"Injected name", b"yes")]))
    await send(body())


@case
async def header_name_empty(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"", b"Injected")]))
    await send(body())


@case
async def header_is_text(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[("x-a", "Injected")]))
    await send(body())


@case
async def header_is_a_number(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"x-a", 5)]))
    await send(body())


@case
async def header_is_no_pair(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"x-a",)]))
    await send(body())


@case
async def headers_are_a_number(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=5))
    await send(body())


@case
async def length_is_not_a_number(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"abc")]))
    await send(body(b"abc"))


@case
async def two_lengths(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"3"), (b"content-length", b"4")]))
    await send(body(b"abc"))


@case
async def body_too_short(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"10")]))
    await send(body(b"short"))


@case
async def body_too_long(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"4")]))
    await send(body(b"longer than four"))


@case
async def second_part_too_long(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"4")]))
    await send(body(b"done", more=True))
    await asyncio.sleep(0.02)
    await send(body(b"more than that"))


@case
async def body_is_text(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    await send(body("text"))


@case
async def body_is_none(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    await send(body(None))


@case
async def two_lengths_on_204(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(204, [(b"content-length", b"3"), (b"content-length", b"0")]))
    await send(body(b""))


@case
async def two_lengths_on_304(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(304, [(b"content-length", b"3"), (b"content-length", b"0")]))
    await send(body(b""))


@case
async def body_on_204(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(204, [(b"content-length", b"5")]))
    await send(body(b"stray"))


@case
async def body_on_304(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(304))
    await send(body(b"stray"))


@case
async def body_before_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send(body(b"early"))


@case
async def second_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(200))
    await send(start(201))


@case
async def second_start_after_a_part(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(200))
    await send(body(b"some", more=True))
    await asyncio.sleep(0.02)
    await send(start(201))


@case
async def message_after_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(headers=[(b"content-length", b"4")]))
    await send(body(b"done"))
    await send(body(b"more"))


@case
async def unknown_message(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.nonsense"})


@case
async def message_without_type(scope: Scope, receive: Receive, send: Send) -> None:
    await send({})


@case
async def message_type_is_a_number(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": 7})


@case
async def message_is_a_list(scope: Scope, receive: Receive, send: Send) -> None:
    await send([1, 2, 3])  # type: ignore[arg-type]


@case
async def message_is_none(scope: Scope, receive: Receive, send: Send) -> None:
    await send(None)  # type: ignore[arg-type]


@case
async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    sys.exit(3)


@case
async def exits_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    await send(body(b"some", more=True))
    await asyncio.sleep(0.02)
    sys.exit(0)


@case
async def keyboard_interrupt(scope: Scope, receive: Receive, send: Send) -> None:
    raise KeyboardInterrupt


@case
async def generator_exit(scope: Scope, receive: Receive, send: Send) -> None:
    raise GeneratorExit


@case
async def cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    task = asyncio.current_task()
    assert task
    task.cancel()
    await asyncio.sleep(1)


@case
async def raises_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


@case
async def raises_stop_iteration_like(scope: Scope, receive: Receive, send: Send) -> None:
    raise StopAsyncIteration


@case
async def recursion(scope: Scope, receive: Receive, send: Send) -> None:
    await recursion(scope, receive, send)


@case
async def blocks(scope: Scope, receive: Receive, send: Send) -> None:
    """Blocks the event loop, as synchronous code in an async function does."""
    time.sleep(0.5)
    await send(start(headers=[(b"content-length", b"7")]))
    await send(body(b"blocked"))


@case
async def forgets_to_await(scope: Scope, receive: Receive, send: Send) -> None:
    import warnings

    warnings.simplefilter("ignore")
    send(start())
