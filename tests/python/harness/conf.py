"""Servers with a gunicorn.conf.py, whatever is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.server import Server
from harness.sources import versioned
from harness.target import command

Conf = Callable[[str], Path]
Start = Callable[..., Server]


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    """Writes the configuration file beside the application, and returns its path."""
    (tmp_path / "main.py").write_text(versioned("first"))

    def write(text: str) -> Path:
        path = tmp_path / "gunicorn.conf.py"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def rsgun(launch: Callable[..., Server]) -> Start:
    """Starts rsgun with exactly these arguments."""

    def begin(
        *arguments: str | Path, wait: bool = True, python: str | None = None, **more: object
    ) -> Server:
        server = launch(command(None, *map(str, arguments), python=python), **more)
        return server.wait_until_running() if wait else server

    return begin


def failing(server: Server) -> str:
    """What a server says that does not start, because of its configuration."""
    server.tolerates_tracebacks = True
    assert server.wait() == 1, server.report()
    assert not server.leftovers()
    return "\n".join(server.lines("stderr"))
