"""Requests that take long: what they do when they are cancelled, or want more time."""

import asyncio
import os


async def answer(send, text):
    """Answers with a text."""
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


async def pid(scope, send):
    """Takes no time."""
    await answer(send, str(os.getpid()))


async def slow(scope, send):
    """Waits."""
    await asyncio.sleep(1000)


async def stream(scope, send):
    """Answers, and does not end."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"some", "more_body": True})
    await asyncio.sleep(1000)


async def stubborn(scope, send):
    """Goes on when it is cancelled."""
    for _ in range(3):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            print("swallowed", flush=True)
    await answer(send, "too late")
    print("stubborn ends", flush=True)


async def cleans_up(scope, send):
    """Says that it was cancelled."""
    try:
        await asyncio.sleep(1000)
    finally:
        print("cleaned up", flush=True)


async def raises(scope, send):
    """Raises when it is cancelled."""
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError as error:
        raise RuntimeError("in the clean-up") from error


async def afterwards(scope, send):
    """Goes on after its answer."""
    await answer(send, "answered")
    await asyncio.sleep(1.5)
    print("background work done", flush=True)


async def extended(scope, send):
    """Asks for more time."""
    scope["extensions"]["rsgun.timeout"]["extend"](30)
    await asyncio.sleep(2.5)
    await answer(send, "extended")


async def extended_in_a_thread(scope, send):
    """The same on another thread."""
    extend = scope["extensions"]["rsgun.timeout"]["extend"]
    await asyncio.to_thread(extend, 30.5)
    await asyncio.sleep(2.5)
    await answer(send, "extended")


async def extended_wrongly(scope, send):
    """Asks for as much as the query says."""
    try:
        scope["extensions"]["rsgun.timeout"]["extend"](float(scope["query_string"]))
    except ValueError as error:
        await answer(send, f"refused: {error}")


async def extensions(scope, send):
    """Tells what the scope offers."""
    await answer(send, ",".join(scope["extensions"]))


async def app(scope, receive, send):
    """Calls the function that the path names."""
    if scope["type"] != "http":
        raise RuntimeError("only http")
    await globals()[scope["path"][1:].replace("-", "_")](scope, send)
