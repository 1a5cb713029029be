"""Large answers, as ASGI and as WSGI: ``/SIZE`` in one piece, ``/stream/SIZE`` in many."""

from __future__ import annotations

PIECE = bytes(range(256)) * 256


def body(size: int) -> bytes:
    """Returns the bytes that an answer of this size has."""
    return (PIECE * (size // len(PIECE) + 1))[:size]


async def asgi(scope, receive, send):
    """Answers with as many bytes as the path says; ``/echo`` with the request's body."""
    if scope["type"] == "lifespan":
        return
    kind, _, number = scope["path"].strip("/").rpartition("/")
    if number == "echo":
        data, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                print("the client has left", flush=True)
                return
            data += message["body"]
            more = message["more_body"]
    else:
        data = body(int(number))
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if kind != "stream":
        start["headers"].append((b"content-length", str(len(data)).encode()))
        await send(start)
        await send({"type": "http.response.body", "body": data})
        return
    await send(start)
    for begin in range(0, len(data), len(PIECE)):
        piece = data[begin : begin + len(PIECE)]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


def wsgi(environ, start_response):
    """Does the same."""
    kind, _, number = environ["PATH_INFO"].strip("/").rpartition("/")
    data = environ["wsgi.input"].read() if number == "echo" else body(int(number))
    if kind == "stream":
        start_response("200 OK", [])
        return (data[begin : begin + len(PIECE)] for begin in range(0, len(data), len(PIECE)))
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return [data]
