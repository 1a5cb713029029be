"""Answers that break off: ``/COUNT/SIZE`` sends so many parts of this size and fails then.

With ``/COUNT/SIZE/LENGTH`` that length is announced before.
"""

from __future__ import annotations


class Mistake(Exception):
    """What the applications fail with."""


def plan(path):
    """Returns the number of the parts, one of them, and the announced length or ``""``."""
    count, size, *length = path.strip("/").split("/")
    return int(count), b"x" * int(size), "".join(length)


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    count, part, length = plan(scope["path"])
    headers = [(b"content-length", length.encode())] if length else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(count):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    raise Mistake


def wsgi(environ, start_response):
    count, part, length = plan(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", length)] if length else [])
    for _ in range(count):
        yield part
    raise Mistake


def wsgi_write(environ, start_response):
    count, part, length = plan(environ["PATH_INFO"])
    write = start_response("200 OK", [("Content-Length", length)] if length else [])
    for _ in range(count):
        write(part)
    raise Mistake


class Rsgi:
    async def __rsgi__(self, scope, protocol):
        count, part, length = plan(scope.path)
        headers = [("content-length", length)] if length else []
        transport = protocol.response_stream(200, headers)
        for _ in range(count):
            await transport.send_bytes(part)
        raise Mistake


rsgi = Rsgi()
