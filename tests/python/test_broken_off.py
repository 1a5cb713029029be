"""Applications that fail in the middle of an answer.

What they have sent until then arrives, and the connection ends in a way that nobody takes for
the end of the answer.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE
from harness.wire import Connection, Truncated

Serve = Callable[..., Server]

APPS = [
    "broken_off:asgi",
    *(
        pytest.param(f"broken_off:{name}", marks=rsgun_only)
        for name in ("rsgi", "wsgi", "wsgi_write")
    ),
]
SIZES = [(1, 10), (10, 1000), (20, 10_000), (300, 10_000)]


@pytest.fixture(params=APPS)
def server(request: pytest.FixtureRequest, shared: Serve) -> Server:
    server = shared(request.param)
    server.tolerates_tracebacks = True
    return server


def take_all(connection: Connection) -> None:
    """Reads to the end of the stream."""
    while connection.receive():
        pass


@pytest.mark.parametrize("length", ["", "/5000000"], ids=["chunked", "length"])
@pytest.mark.parametrize(("count", "size"), SIZES)
def test_all_that_was_sent_arrives(server: Server, count: int, size: int, length: str) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        connection.request(f"/{count}/{size}{length}")
        response = connection.head()
        with pytest.raises(Truncated):
            connection.body(response)
        assert response.status == 200
        assert response.body == b"x" * count * size
    server.wait_for_line("Mistake", since=since)


def test_a_request_body_that_is_not_read_changes_nothing(server: Server) -> None:
    """A close with unread bytes would be a reset, and the client lose what it has not read."""
    size = 100_000
    with server.connect() as connection:
        connection.request("/10/1000", method="POST", headers=[("Content-Length", str(size))])
        connection.send(bytes(size))
        response = connection.head()
        with pytest.raises(Truncated):
            connection.body(response)
        assert len(response.body) == 10_000


@rsgun_only
def test_an_answer_without_framing_ends_with_a_reset(server: Server) -> None:
    """Under HTTP/1.0 the end of the connection would look like the end of the answer."""
    with server.connect() as connection:
        connection.request("/10/1000", version="1.0")
        with pytest.raises(ConnectionResetError):
            take_all(connection)
        _, _, body = connection.received.partition(b"\r\n\r\n")
        assert body == b"x" * 10_000


@rsgun_only
@pytest.mark.parametrize("app", ["broken_off:wsgi", "broken_off:wsgi_write"])
class TestSlowClients:
    """The application has failed long before its client has taken what came before."""

    def begin(self, server: Server) -> Connection:
        server.tolerates_tracebacks = True
        connection = Connection.open(server.address, receive_buffer=65536)
        connection.request("/200/100000")
        server.wait_for_line("Mistake")
        return connection

    def test_one_that_is_slow_gets_all_of_it(self, serve: Serve, app: str) -> None:
        with self.begin(serve(app)) as connection:
            response = connection.head()
            with pytest.raises(Truncated):
                connection.body(response)
            assert len(response.body) == 20_000_000

    def test_one_that_takes_nothing_is_given_up_on(self, serve: Serve, app: str) -> None:
        server = serve(app, "--client-timeout", "1")
        with self.begin(server) as connection:
            poll = select.poll()
            # An error is always reported.
            poll.register(connection.socket, 0)
            assert poll.poll(DEADLINE * 1000), "it is not reset"
