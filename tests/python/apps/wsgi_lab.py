"""A WSGI application with one path for each thing that tests want to see.

``app`` is wrapped in ``wsgiref.validate``, which checks both the server and the paths;
``bare`` is not, for the paths that break the rules on purpose.
"""

import io
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from wsgiref.validate import validator

TEXT = [("Content-Type", "text/plain")]
BIG = bytes(range(256)) * 4096 * 8
"""8 MiB."""

events = []
gates = {}
lock = threading.Lock()


def gate(name):
    """Something that one request waits for and another one opens."""
    with lock:
        return gates.setdefault(name, threading.Event())


class Parts:
    """An iterable that tells when it is closed."""

    def __init__(self, name, parts):
        self.name = name
        self.parts = iter(parts)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.parts)

    def close(self):
        events.append(f"closed {self.name}")


def answer(start_response, body, status="200 OK", headers=()):
    body = body.encode() if isinstance(body, str) else body
    start_response(status, [*TEXT, ("Content-Length", str(len(body))), *headers])
    return [body]


def ping(environ, start_response):
    return answer(start_response, "pong")


def env(environ, start_response):
    shown = {
        key: value if isinstance(value, str | bool | int | tuple) else f"<{type(value).__name__}>"
        for key, value in environ.items()
    }
    return answer(start_response, json.dumps(shown))


def echo(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read(1 << 30))


def digest(environ, start_response):
    body = environ["wsgi.input"]
    size, total = 0, 0
    while part := body.read(65536):
        size += len(part)
        total = (total + sum(part[::4096])) % 65536
    length = environ.get("CONTENT_LENGTH")
    return answer(start_response, json.dumps([size, total, length, type(body).__name__]))


def reading(environ, start_response):
    """Evaluates expressions about ``wsgi.input``, given by the query, in order."""
    source = environ["wsgi.input"]
    found = [eval(text, {"body": source}) for text in json.loads(environ["HTTP_X_READS"])]
    return answer(start_response, repr(found))


def writes(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"one ")
    write(b"two ")
    return Parts("writes", [b"three"])


def generated(environ, start_response):
    start_response("200 OK", TEXT)
    if environ["REQUEST_METHOD"] == "HEAD":
        # As Werkzeug does.
        return []
    return Parts("generated", [b"", b"a", b"", b"b", b"c"])


def late(environ, start_response):
    """Calls start_response when it is iterated over."""

    def parts():
        start_response("201 Made", TEXT)
        yield b"late"

    return parts()


def nothing(environ, start_response):
    start_response("200 OK", TEXT)
    return Parts("nothing", [])


def several(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"one", b"", b"two"]


def status(environ, start_response):
    start_response(environ["QUERY_STRING"].replace("+", " "), [])
    return []


def not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"')])
    return [b"ignored"]


def empty_204(environ, start_response):
    start_response("204 No Content", [("Content-Length", "3")])
    return [b"abc"]


def replaced(environ, start_response):
    """Fails before anything was sent, and answers that."""
    start_response("200 OK", [*TEXT, ("X-First", "1")])
    try:
        raise ValueError("replaced")
    except ValueError:
        start_response("503 Busy", TEXT, sys.exc_info())
    return [b"instead"]


def too_late(environ, start_response):
    """Fails after something was sent: the server must raise the error again."""
    write = start_response("200 OK", TEXT)
    write(b"begun")
    try:
        raise ValueError("too late")
    except ValueError:
        start_response("500 Oh", TEXT, sys.exc_info())
    return []


def twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b"never"]


def raises(environ, start_response):
    raise ValueError("on purpose")


def exits(environ, start_response):
    sys.exit(7)


def raises_while_closing(environ, start_response):
    start_response("200 OK", TEXT)

    class Bad(Parts):
        def close(self):
            super().close()
            raise ValueError("while closing")

    return Bad("bad", [b"fine"])


def breaks_off(environ, start_response):
    def parts():
        yield b"begun"
        raise ValueError("in the middle")

    start_response("200 OK", TEXT)
    return Parts("broken", parts())


def breaks_at_once(environ, start_response):
    def parts():
        raise ValueError("at once")
        yield b""

    start_response("200 OK", TEXT)
    return Parts("broken at once", parts())


def silent(environ, start_response):
    return [b"without start_response"]


def short(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    return Parts("short", [b"abc"])


def long(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "3")])
    return Parts("long", [b"abc", b"def"])


def short_list(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    return [b"abc"]


def returns_text(environ, start_response):
    start_response("200 OK", TEXT)
    return ["text"]


def returns_bytes(environ, start_response):
    start_response("200 OK", TEXT)
    return b"bytes"


def returns_none(environ, start_response):
    start_response("200 OK", TEXT)


def bad_status(environ, start_response):
    return answer(start_response, "x", status="OK")


def bad_header(environ, start_response):
    return answer(start_response, "x", headers=[("X-Bad", "a\r\nX-Smuggled: 1")])


def unencodable(environ, start_response):
    return answer(start_response, "x", headers=[("X-Bad", "\N{SNOWMAN}")])


def latin(environ, start_response):
    return answer(start_response, "x", headers=[("X-Name", "caf\xe9")])


def hoppish(environ, start_response):
    headers = [("Connection", "upgrade"), ("Transfer-Encoding", "chunked"), ("X-Kept", "1")]
    return answer(start_response, "x", headers=headers)


def seen(environ, start_response):
    return answer(start_response, json.dumps(events))


def threads(environ, start_response):
    names = [thread.name for thread in threading.enumerate()]
    return answer(start_response, json.dumps(names))


def whoami(environ, start_response):
    return answer(start_response, f"{os.getpid()} {threading.current_thread().name}")


def wait(environ, start_response):
    name = environ["QUERY_STRING"]
    events.append(f"waiting {name}")
    gate(name).wait(20)
    return answer(start_response, "waited")


def wait_in_body(environ, start_response):
    name = environ["QUERY_STRING"]
    start_response("200 OK", TEXT)

    def parts():
        yield b"begun "
        gate(name).wait(20)
        yield b"done"

    return Parts(name, parts())


def release(environ, start_response):
    gate(environ["QUERY_STRING"]).set()
    return answer(start_response, "released")


def sleep(environ, start_response):
    events.append("sleeping")
    time.sleep(float(environ["QUERY_STRING"]))
    return answer(start_response, "slept")


def extended(environ, start_response):
    environ["rsgun.timeout.extend"](30)
    time.sleep(float(environ["QUERY_STRING"]))
    return answer(start_response, "extended")


def big(environ, start_response):
    return answer(start_response, BIG)


def stream(environ, start_response):
    """As many pieces of 64 KiB as the query says, and a sign when all are handed over."""
    count = int(environ["QUERY_STRING"])
    start_response("200 OK", TEXT)
    piece = BIG[: 64 * 1024]

    def parts():
        for _ in range(count):
            yield piece
        events.append(f"streamed {count}")

    return Parts("stream", parts())


def endless(environ, start_response):
    start_response("200 OK", TEXT)

    def parts():
        while True:
            yield b"x" * 65536

    return Parts("endless", parts())


def wrapped(environ, file, start_response, length=None, size=8192):
    headers = [] if length is None else [("Content-Length", str(length))]
    start_response("200 OK", [*TEXT, *headers])
    return environ["wsgi.file_wrapper"](file, size)


class Watched(io.FileIO):
    """A file that counts how often Python reads from it."""

    reads = 0

    def read(self, size=-1):
        if size:
            Watched.reads += 1
        return super().read(size)

    def close(self):
        if not self.closed:
            events.append("file closed")
        super().close()


def file(environ, start_response):
    with tempfile.NamedTemporaryFile(delete=False) as made:
        made.write(BIG)
    source = Watched(made.name, "rb")
    Path(made.name).unlink()
    source.seek(int(environ["QUERY_STRING"] or 0))
    return wrapped(environ, source, start_response)


def file_reads(environ, start_response):
    return answer(start_response, str(Watched.reads))


def temporary(content):
    source = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    source.write(content)
    return source


def file_part(environ, start_response):
    source = temporary(BIG)
    source.seek(10)
    source.read(1)
    return wrapped(environ, source, start_response, length=1000)


def file_short(environ, start_response):
    source = temporary(b"abc")
    source.seek(0)
    return wrapped(environ, source, start_response, length=1000)


def file_in_memory(environ, start_response):
    return wrapped(environ, io.BytesIO(BIG[:100_000]), start_response, size=1000)


def hints(environ, start_response):
    hint = environ["wsgi.early_hints"]
    hint([("Link", "</a.css>; rel=preload"), ("Link", "</b.css>; rel=preload")])
    hint([("X-Other", "1"), ("Connection", "close")])
    return answer(start_response, "hinted")


def prints(environ, start_response):
    environ["wsgi.errors"].write("to wsgi.errors\n")
    environ["wsgi.errors"].flush()
    return answer(start_response, "x")


ROUTES = {
    f"/{name}": function
    for name, function in list(globals().items())
    if callable(function)
    and getattr(function, "__code__", None)
    and function.__code__.co_varnames[:2] == ("environ", "start_response")
}


def bare(environ, start_response):
    route = ROUTES.get(environ["PATH_INFO"])
    if route is None:
        return answer(start_response, "no such path", status="404 Not Found")
    return route(environ, start_response)


app = validator(bare)
