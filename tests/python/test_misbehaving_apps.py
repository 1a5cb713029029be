"""Applications that break the rules.

Whatever they do, the worker serves the next request, the log names the reason with one
traceback, and the client learns of it: by a 500 where the head is not out yet, by a
connection that ends too early where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.frames import HANDSHAKE
from harness.marks import differs, rsgun_only
from harness.server import Server
from harness.target import TARGET
from harness.waiting import eventually
from harness.wire import Connection, Response, Truncated

Serve = Callable[..., Server]

NOT_STARTED = [
    "raises_before_start",
    "raises_after_reading",
    "raises_a_group",
    "returns_without_response",
    "status_99",
    "status_1000",
    "status_negative",
    "status_huge",
    "status_text",
    "status_none",
    "status_missing",
    "header_value_with_crlf",
    "header_value_with_lf",
    "header_value_with_nul",
    "header_name_with_crlf",
    "header_name_with_blank",
    "header_name_empty",
    "header_is_text",
    "header_is_a_number",
    "header_is_no_pair",
    "headers_are_a_number",
    "length_is_not_a_number",
    "two_lengths",
    "body_before_start",
    "unknown_message",
    "message_without_type",
    "message_type_is_a_number",
    "message_is_a_list",
    "message_is_none",
    "exits",
    "keyboard_interrupt",
    "generator_exit",
    "cancels_itself",
    "raises_cancelled",
    "raises_stop_iteration_like",
    "recursion",
    "forgets_to_await",
]
"""Cases whose mistake comes before the head: 500."""

STARTED = [
    "raises_in_a_stream",
    "raises_in_a_stream_with_length",
    "returns_without_completing",
    "second_start_after_a_part",
    "exits_after_start",
]
"""Cases whose mistake comes when the head is out: closed before the end."""

EITHER = [
    "raises_after_start",
    "returns_after_start",
    "second_start",
    "body_too_short",
    "body_too_long",
    "body_is_text",
    "body_is_none",
]
"""Cases where the head may or may not be out yet: 500, or closed before the end."""

WITHOUT_TRACEBACK = {
    "returns_without_response",
    "returns_without_completing",
    "returns_after_start",
    "forgets_to_await",
    "body_too_short",
}
"""Cases in which nothing is raised: the log line alone names the mistake."""

UVICORN_ANSWERS = {
    "status_99", "status_1000", "status_negative", "status_huge", "status_text", "status_none",
    "header_value_with_crlf", "header_value_with_lf", "header_value_with_nul",
    "header_name_with_crlf", "header_name_with_blank", "header_name_empty",
    "length_is_not_a_number", "two_lengths", "status_missing", "header_is_text",
    "header_is_a_number", "header_is_no_pair", "headers_are_a_number",
}  # fmt: skip
"""uvicorn hands these through, or drops the connection."""


def cases(names: list[str], uvicorn_differs: set[str]) -> list[object]:
    return [
        pytest.param(
            name,
            marks=differs("uvicorn", "not checked") if name in uvicorn_differs else (),
        )
        for name in names
    ]


@pytest.fixture
def server(shared: Serve) -> Server:
    server = shared("misbehaving:app")
    server.tolerates_tracebacks = True
    return server


def outcome(connection: Connection, name: str) -> Response | None:
    """The answer, or None when the connection ended before its end."""
    connection.request(f"/{name}")
    try:
        return connection.response()
    except (Truncated, ConnectionResetError):
        return None


def still_serves(server: Server) -> None:
    assert server.get("/ping").body == b"pong"


def logged(server: Server, since: int) -> list[str]:
    """The lines about the mistake."""
    eventually(
        lambda: any(line.startswith("ERROR") for line in server.lines("stderr", since)),
        "an ERROR line in the log",
    )
    return server.lines("stderr", since)


@pytest.mark.parametrize(
    "name",
    cases(
        NOT_STARTED,
        UVICORN_ANSWERS,
    ),
)
def test_mistake_before_the_head_is_a_500(server: Server, name: str) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        response = outcome(connection, name)
    assert response is not None, "closed without an answer"
    assert response.status == 500
    assert b"Injected" not in connection.received
    assert b"Mistake" not in response.body, "the traceback is not for the client"
    lines = logged(server, since)
    if name not in WITHOUT_TRACEBACK and TARGET == "rsgun":
        eventually(lambda: server.tracebacks(since) >= 1, f"a traceback after {lines}")
    still_serves(server)


@pytest.mark.parametrize("name", cases(STARTED, set()))
def test_mistake_after_the_head_ends_the_connection_early(server: Server, name: str) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        assert outcome(connection, name) is None, "the client took it for a complete answer"
    logged(server, since)
    still_serves(server)


@pytest.mark.parametrize("name", ["raises_in_a_stream", "raises_in_a_stream_with_length"])
def test_connection_ends_at_once_after_a_mistake(server: Server, name: str) -> None:
    """The client does not wait for a time-out to learn that there is no more."""

    def takes() -> float:
        with server.connect() as connection:
            began = time.monotonic()
            assert outcome(connection, name) is None
            return time.monotonic() - began

    # Whatever else the machine does, one of several is fast.
    assert min(takes() for _ in range(5)) < 0.7


@pytest.mark.parametrize("name", cases(EITHER, {"body_is_none"}))
def test_mistake_around_the_head(server: Server, name: str) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        response = outcome(connection, name)
    assert response is None or response.status == 500
    logged(server, since)
    still_serves(server)


@pytest.mark.parametrize("name", ["body_too_long", "second_part_too_long"])
def test_never_more_body_than_announced(server: Server, name: str) -> None:
    with server.connect() as connection:
        connection.request(f"/{name}", close=True)
        everything = connection.rest()
    head, _, body = everything.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 500"))
    if head.startswith(b"HTTP/1.1 200"):
        assert len(body) <= 4


@pytest.mark.parametrize(
    "name", ["raises_after_the_response", "message_after_the_end", "second_part_too_long"]
)
def test_mistake_after_the_response_leaves_it_whole(server: Server, name: str) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        response = outcome(connection, name)
        assert response is not None
        assert (response.status, response.body) == (200, b"done")
        logged(server, since)
    still_serves(server)


@pytest.mark.parametrize("name", cases(["body_on_204", "body_on_304"], {"body_on_204"}))
def test_body_where_none_is_allowed_is_not_sent(server: Server, name: str) -> None:
    with server.connect() as connection:
        connection.request(f"/{name}", close=True)
        head, _, body = connection.rest().partition(b"\r\n\r\n")
    assert head
    assert body == b""
    still_serves(server)


@rsgun_only
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raises_before_start", "Mistake: before the start"),
        ("raises_after_start", "Mistake: after the start"),
        ("raises_in_a_stream", "Mistake: in the stream"),
        ("raises_after_the_response", "Mistake: after the response"),
        ("raises_a_group", "Mistake: one"),
        ("exits", "SystemExit: 3"),
        ("keyboard_interrupt", "KeyboardInterrupt"),
        ("status_99", "99"),
        ("header_value_with_crlf", "x-a"),
        ("unknown_message", "http.response.nonsense"),
    ],
)
def test_log_names_the_mistake_once(serve: Serve, name: str, text: str) -> None:
    """One traceback of the application, which names the thing and shows its file."""
    # A server of its own: what a test before has caused may be logged late.
    server = serve("misbehaving:app")
    server.tolerates_tracebacks = True
    since = server.output.mark()
    with server.connect() as connection:
        outcome(connection, name)
    logged(server, since)
    still_serves(server)

    def is_complete() -> str:
        found = "\n".join(server.lines("stderr", since))
        return found if text in found and "misbehaving.py" in found else ""

    found = eventually(is_complete, f"{text} and its file in the log")
    count = server.tracebacks(since)
    assert count == 1 or (name == "raises_a_group" and count <= 2), found


@rsgun_only
@pytest.mark.parametrize("name", sorted(WITHOUT_TRACEBACK))
def test_log_line_names_the_mistake_where_nothing_is_raised(server: Server, name: str) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        outcome(connection, name)
    lines = logged(server, since)
    assert any(f"/{name}" in line or "response" in line for line in lines), lines


def test_exception_that_cannot_be_printed(server: Server) -> None:
    with server.connect() as connection:
        response = outcome(connection, "raises_an_exception_that_cannot_be_printed")
        assert response is not None
        assert response.status == 500
    still_serves(server)


def test_pipelined_request_behind_a_mistake_is_not_lost_silently(server: Server) -> None:
    """After a 500 the connection goes on in step, or says that it closes."""
    with server.connect() as connection:
        connection.request("/raises_before_start")
        connection.request("/ping")
        first = connection.response()
        assert first.status == 500
        if first.closes:
            assert connection.ended()
        else:
            assert connection.response().body == b"pong"


def test_application_that_blocks_the_loop(server: Server) -> None:
    """Others wait for it, and are served then."""
    with server.connect() as blocking, server.connect() as waiting:
        blocking.request("/blocks")
        waiting.request("/ping")
        assert blocking.response().body == b"blocked"
        assert waiting.response().body == b"pong"


def test_application_that_is_no_coroutine_function(serve: Serve) -> None:
    server = serve("misbehaving:not_a_coroutine")
    server.tolerates_tracebacks = True
    since = server.output.mark()
    for _ in range(2):
        assert server.get("/").status == 500
    logged(server, since)


def test_same_worker_after_all_mistakes(serve: Serve) -> None:
    """None of them costs the process."""
    if TARGET != "rsgun":
        pytest.skip("uvicorn ends on some of them")
    server = serve("misbehaving:app")
    server.tolerates_tracebacks = True
    before = [process.pid for process in server.wait_for_workers(1)]
    for name in NOT_STARTED + STARTED + EITHER:
        with server.connect() as connection:
            outcome(connection, name)
    still_serves(server)
    assert [process.pid for process in server.workers()] == before


@rsgun_only
@pytest.mark.parametrize("root", ["", "/api"])
def test_log_names_the_request(
    serve: Serve, module: Callable[[str, str], Path], tmp_path: Path, root: str
) -> None:
    """As the client has asked for it, on the line above the traceback."""
    module("main", "async def app(scope, receive, send):\n    raise RuntimeError('on purpose')\n")
    server = serve("main:app", "--app-dir", str(tmp_path), "--root-path", root)
    server.tolerates_tracebacks = True
    long = "/" + "x" * 1000
    for method, target, headers in [
        ("GET", "/boom?q=%201", None),
        ("POST", "/%0a", None),
        ("DELETE", long, None),
        ("GET", "/socket?a=b", HANDSHAKE),
    ]:
        with server.connect() as connection:
            assert connection.get(target, method=method, headers=headers).status == 500
    named = [
        line.partition("exception in the application, ")[2]
        for line in server.lines("stderr")
        if "exception in" in line
    ]
    assert named == [
        "GET /boom?q=%201",
        "POST /%0a",
        f"DELETE {long}"[:200] + "...",
        "WebSocket /socket?a=b",
    ]


@rsgun_only
@pytest.mark.parametrize(
    ("method", "name", "status", "length"),
    [
        ("HEAD", "two_lengths", 200, ["3"]),
        ("GET", "two_lengths_on_304", 304, []),
        ("GET", "two_lengths_on_204", 204, []),
    ],
)
def test_two_lengths_of_no_body(
    serve: Serve, method: str, name: str, status: int, length: list[str]
) -> None:
    """Such as those of BlackSheep's files for HEAD: the first one counts."""
    server = serve("misbehaving:app", "--log-level", "debug")
    with server.connect() as connection:
        answer = connection.get(f"/{name}", method=method)
        assert (answer.status, answer.all("content-length"), answer.body) == (status, length, b"")
        assert connection.get("/ping").body == b"pong"
    server.wait_for_line("^DEBUG: .*content-length 3 stays, [04] is ignored")
