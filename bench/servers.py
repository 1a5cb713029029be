"""How each server is started: one entry for each, all logs of requests off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cases import Case

APPS = Path(__file__).resolve().parent / "apps"


@dataclass(frozen=True)
class Environment:
    """Where the servers are installed."""

    directory: Path
    rsgun: Path

    def command(self, name: str) -> str:
        """Return the path of an installed command."""
        return str(self.directory / "bin" / name)


@dataclass(frozen=True)
class Candidate:
    """A server with one set of options; the best candidate of a server takes part."""

    server: str
    variant: str
    interfaces: frozenset[str]
    command: Callable[[Environment, Case, int], list[str]]

    @property
    def label(self) -> str:
        """The name in the table."""
        return f"{self.server} ({self.variant})"


def _rsgun(environment: Environment, case: Case, port: int) -> list[str]:
    return [
        str(environment.rsgun),
        *("--python", environment.command("python")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--workers", str(case.workers)),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning"),
        *("--app-dir", str(APPS)),
        case.app,
    ]


def _uvicorn(websocket: str) -> Callable[[Environment, Case, int], list[str]]:
    def command(environment: Environment, case: Case, port: int) -> list[str]:
        return [
            environment.command("uvicorn"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--workers", str(case.workers)),
            *("--loop", "uvloop", "--http", "httptools", "--ws", websocket),
            *("--no-access-log", "--log-level", "warning"),
            *("--app-dir", str(APPS)),
            case.app,
        ]

    return command


def _granian(loop: str) -> Callable[[Environment, Case, int], list[str]]:
    def command(environment: Environment, case: Case, port: int) -> list[str]:
        return [
            environment.command("granian"),
            *("--interface", "asgi" if case.interface == "websocket" else case.interface),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--workers", str(case.workers)),
            *("--loop", loop, "--no-access-log", "--log-level", "warning"),
            *("--working-dir", str(APPS)),
            case.app,
        ]

    return command


def _rsgun_wsgi(environment: Environment, case: Case, port: int) -> list[str]:
    return [
        str(environment.rsgun),
        *("--python", environment.command("python")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--workers", str(case.workers), "--threads", "1"),
        *("--no-access-log", "--log-level", "warning"),
        *("--app-dir", str(APPS)),
        case.app,
    ]


def _granian_wsgi(*threads: str) -> Callable[[Environment, Case, int], list[str]]:
    def command(environment: Environment, case: Case, port: int) -> list[str]:
        return [
            environment.command("granian"),
            *("--interface", "wsgi", *threads),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--workers", str(case.workers)),
            *("--no-access-log", "--log-level", "warning"),
            *("--working-dir", str(APPS)),
            case.app,
        ]

    return command


def _gunicorn(environment: Environment, case: Case, port: int) -> list[str]:
    return [
        environment.command("gunicorn"),
        *("--worker-class", "gthread", "--threads", "1"),
        *("--bind", f"127.0.0.1:{port}"),
        *("--workers", str(case.workers)),
        *("--log-level", "warning"),
        *("--chdir", str(APPS)),
        case.app,
    ]


ASGI = frozenset({"asgi"})
WEBSOCKET = frozenset({"websocket"})
RSGI = frozenset({"rsgi"})
WSGI = frozenset({"wsgi"})

CANDIDATES = [
    Candidate("rsgun", "uvloop", ASGI | RSGI | WEBSOCKET, _rsgun),
    Candidate("uvicorn", "uvloop, httptools", ASGI, _uvicorn("auto")),
    Candidate("uvicorn", "uvloop, websockets", WEBSOCKET, _uvicorn("websockets-sansio")),
    Candidate("uvicorn", "uvloop, wsproto", WEBSOCKET, _uvicorn("wsproto")),
    Candidate("granian", "uvloop", ASGI | RSGI | WEBSOCKET, _granian("uvloop")),
    Candidate("granian", "rloop", ASGI | RSGI | WEBSOCKET, _granian("rloop")),
    Candidate("rsgun", "1 thread", WSGI, _rsgun_wsgi),
    Candidate("granian", "1 blocking thread", WSGI, _granian_wsgi("--blocking-threads", "1")),
    Candidate("granian-defaults", "up to 512 threads", WSGI, _granian_wsgi()),
    Candidate("gunicorn", "gthread, 1 thread", WSGI, _gunicorn),
]

SERVERS = list(dict.fromkeys(candidate.server for candidate in CANDIDATES))
