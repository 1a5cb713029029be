"""Clients that send what they must not, from tests/requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.marks import differs
from harness.requests import RawRequest, load
from harness.server import Server
from harness.wire import Connection, Truncated

Serve = Callable[..., Server]


def parameters(folder: str) -> list[object]:
    return [
        pytest.param(
            case, id=case.name, marks=differs("uvicorn", case.uvicorn) if case.uvicorn else ()
        )
        for case in load(folder)
    ]


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("lab:app")


def exchange(connection: Connection, case: RawRequest) -> list[int]:
    """Sends the bytes and reads every answer up to the end or the expected number."""
    try:
        connection.send(case.data)
        if case.ends:
            connection.finish_sending()
    except (BrokenPipeError, ConnectionResetError):
        # The server has answered and closed before it had read everything.
        pass
    statuses = []
    while case.closes or len(statuses) < len(case.statuses):
        try:
            statuses.append(connection.response().status)
        except (Truncated, ConnectionResetError):
            break
    return statuses


@pytest.mark.parametrize("case", parameters("invalid"))
def test_refused(server: Server, case: RawRequest) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        assert exchange(connection, case) == list(case.statuses)
    assert b"smuggled" not in connection.received
    assert server.get("/ping").body == b"pong"
    assert "EXECUTED WHAT MUST NOT BE" not in server.lines("stdout", since)


@pytest.mark.parametrize("case", parameters("valid"))
def test_answered(server: Server, case: RawRequest) -> None:
    with server.connect() as connection:
        assert exchange(connection, case) == list(case.statuses)
        if not case.closes:
            assert connection.get("/ping").body == b"pong"


@pytest.mark.parametrize("case", load("invalid"), ids=lambda case: case.name)
def test_refused_when_it_comes_in_small_pieces(server: Server, case: RawRequest) -> None:
    """However the bytes are cut, nothing hidden in them is executed."""
    since = server.output.mark()
    with server.connect() as connection:
        try:
            for start in range(0, min(len(case.data), 2000), 7):
                connection.send(case.data[start : start + 7])
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert server.get("/ping").body == b"pong"
    assert "EXECUTED WHAT MUST NOT BE" not in server.lines("stdout", since)


@pytest.mark.parametrize("case", [*load("invalid"), *load("valid")], ids=lambda case: case.name)
def test_client_that_leaves_at_once(server: Server, case: RawRequest) -> None:
    connection = server.connect()
    try:
        connection.send(case.data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    connection.reset()
    assert server.get("/ping").body == b"pong"
