"""The end of a connection, as the application sees it."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable

import pytest
from harness.marks import differs
from harness.server import Server
from harness.waiting import PATIENCE, eventually

Serve = Callable[..., Server]


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("lab:app")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_disconnect_is_reported_at_once(server: Server, how: str) -> None:
    connection = server.connect()
    connection.request(f"/wait-for-disconnect?{how}")
    assert server.get(f"/notes?{how}-started").text == "http.request"
    connection.close() if how == "close" else connection.reset()
    began = time.monotonic()
    assert ast.literal_eval(server.get(f"/notes?{how}").text)["type"] == "http.disconnect"
    # No timer looks at a connection with a request so early: the first that does is
    # --client-timeout, after 60 s.
    assert time.monotonic() - began < 2 * PATIENCE


def test_disconnect_in_the_middle_of_a_body(server: Server) -> None:
    connection = server.connect()
    connection.request(
        "/upload-until-disconnect?middle", method="POST", headers=[("Content-Length", "10")]
    )
    assert server.get("/notes?middle-started").text == "started"
    connection.send(b"12345")
    connection.close()
    assert server.get("/notes?middle").text == "disconnect after 5"


def test_disconnect_in_the_middle_of_a_chunked_body(server: Server) -> None:
    connection = server.connect()
    connection.request(
        "/upload-until-disconnect?chunked",
        method="POST",
        headers=[("Transfer-Encoding", "chunked")],
    )
    assert server.get("/notes?chunked-started").text == "started"
    connection.send(b"5\r\n12345\r\n")
    connection.close()
    assert server.get("/notes?chunked").text == "disconnect after 5"


@differs("uvicorn", "takes the end of the request stream for the end of the connection")
def test_half_closed_client_gets_its_answer(server: Server) -> None:
    with server.connect() as connection:
        connection.request("/half-closed?half")
        assert server.get("/notes?half").text == "started"
        connection.finish_sending()
        assert connection.silent()
        server.get("/release?half")
        assert connection.response().body == b"still here"
        assert connection.ended()


@differs("uvicorn", "takes the end of the request stream for the end of the connection")
def test_request_and_end_of_stream_at_once(server: Server) -> None:
    """What `printf ... | nc` does."""
    with server.connect() as connection:
        connection.request("/slow?50")
        connection.finish_sending()
        assert connection.response().body == b"slept 50"
        assert connection.ended()


@differs("uvicorn", "takes the end of the request stream for the end of the connection")
def test_pipelined_requests_and_end_of_stream(server: Server) -> None:
    with server.connect() as connection:
        for number in (30, 20, 10):
            connection.request(f"/slow?{number}")
        connection.finish_sending()
        assert [connection.response().text for _ in range(3)] == [
            "slept 30",
            "slept 20",
            "slept 10",
        ]
        assert connection.ended()


@differs("uvicorn", "takes the end of the request stream for the end of the connection")
def test_half_closed_client_gets_a_streamed_answer(server: Server) -> None:
    with server.connect() as connection:
        connection.request("/first-part-then-wait?halfstream")
        response = connection.head()
        connection.finish_sending()
        server.get("/release?halfstream")
        connection.body(response)
        assert response.body == b"firstsecond"


def test_receive_after_the_response_is_a_disconnect(server: Server) -> None:
    with server.connect() as connection:
        assert connection.get("/receive-after-response?after").body == b"done"
        notes = eventually(
            lambda: (
                (found := server.get("/notes?after").text.splitlines())
                and len(found) == 2
                and found
            ),
            "two notes",
        )
        assert [ast.literal_eval(line)["type"] for line in notes] == ["http.disconnect"] * 2
        assert connection.get("/ping").body == b"pong"


def test_pending_receive_ends_when_the_response_is_complete(server: Server) -> None:
    """A task that watches for the disconnect must not outlive its request."""
    with server.connect() as connection:
        assert connection.get("/receive-before-response?before").body == b"done"
        notes = eventually(
            lambda: (
                (found := server.get("/notes?before").text.splitlines())
                and len(found) == 2
                and found
            ),
            "two notes",
        )
        assert notes[0] == "done=False"
        assert ast.literal_eval(notes[1])["type"] == "http.disconnect"


@differs("uvicorn", "send() does nothing after a disconnect")
@pytest.mark.parametrize("how", ["close", "reset"])
def test_send_after_a_disconnect_raises_oserror(server: Server, how: str) -> None:
    connection = server.connect()
    connection.request(f"/send-after-disconnect?send-{how}")
    server.get(f"/notes?send-{how}-started")
    connection.close() if how == "close" else connection.reset()
    assert "OSError" in server.get(f"/notes?send-{how}").text.split(",")


@differs("uvicorn", "send() does nothing after a disconnect")
def test_stream_to_a_client_that_left_ends_with_oserror(server: Server) -> None:
    connection = server.connect()
    connection.request("/stream-until-error?stream-gone")
    connection.head()
    connection.reset()
    assert "OSError" in server.get("/notes?stream-gone").text.split(",")


def test_client_that_leaves_is_not_an_error_in_the_log(serve: Serve) -> None:
    server = serve("lab:app")
    for how in ("close", "reset"):
        connection = server.connect()
        connection.request(f"/wait-for-disconnect?quiet-{how}")
        server.get(f"/notes?quiet-{how}-started")
        connection.close() if how == "close" else connection.reset()
        server.get(f"/notes?quiet-{how}")
    assert server.stop() == 0
    assert not [line for line in server.lines("stderr") if line.startswith(("ERROR", "CRITICAL"))]


def test_connections_that_send_nothing_do_no_harm(server: Server) -> None:
    for _ in range(20):
        server.connect().close()
        server.connect().reset()
    assert server.get("/ping").body == b"pong"


def test_work_goes_on_after_the_answer(server: Server) -> None:
    assert server.get("/hint?background").body == b"answered"
    assert server.get("/notes?background").text == "went on"
