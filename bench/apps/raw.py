"""Bare ASGI applications: all that is measured is the server."""

LARGE_BODY = b"x" * 65536

_HELLO_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
_HELLO_BODY = {"type": "http.response.body", "body": b"Hello, World!"}
_LARGE_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"65536")],
}
_LARGE_BODY = {"type": "http.response.body", "body": LARGE_BODY}


async def hello(scope, receive, send):
    """Answer every request with thirteen bytes."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send(_HELLO_START)
    await send(_HELLO_BODY)


async def large(scope, receive, send):
    """Answer every request with 64 KiB."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send(_LARGE_START)
    await send(_LARGE_BODY)


async def echo(scope, receive, send):
    """Send every WebSocket message back; answer requests as `hello` does."""
    if scope["type"] != "websocket":
        await hello(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
