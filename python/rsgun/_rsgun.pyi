import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from os import PathLike
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar, final, overload

from ._config import Application
from ._server import Server

_T = TypeVar("_T")
_Headers = Iterable[tuple[str, str]]

__version__: str

def _main(mode: str, channel: int, extension: str) -> None:
    """Run this process as the fork server or as a worker; called by the bootstrap alone."""

def _is_served() -> bool:
    """Tell whether this process is a fork server or a worker."""

def _manage(command: list[str], variables: dict[str, str], relays: bool) -> int:
    """Run a command to its end and return its exit code; `relays` passes signals on."""

def _failure(error: BaseException) -> tuple[int, str] | None:
    """Return exit code and text of an error of the start, None for any other."""

def _loop_factory(arguments: _Arguments) -> Callable[[], Any]:
    """Return the factory of the event loop that the settings name."""

def _run_to_end(
    runner: asyncio.Runner,
    coroutine: Coroutine[Any, Any, None],
    serving: Callable[[], _Worker | None],
) -> None:
    """Run a coroutine to its end, whatever the application exits with meanwhile."""

def _rsgi_errors() -> ModuleType:
    """Return the module of what is raised to RSGI applications."""

def _last_words(text: str) -> None:
    """Tell why this process ends, whether or not logging was set up."""

@final
class _Arguments:
    """What a program says about the settings."""

    def __new__(cls, app: str, given: dict[str, object]) -> Self: ...
    def command_line(self) -> list[str]:
        """Return the command line that says the same."""

@final
class _ImmortalThread:
    """While it is entered, the end of the program stops this thread instead of ending it."""

    def __enter__(self) -> None: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

@final
class _Listening:
    """Open listeners, with the settings that they were opened for."""

    def __new__(cls, arguments: _Arguments, sockets: list[int] | None) -> Self: ...
    def urls(self) -> list[str]:
        """Return the addresses, as the start-up line shows them."""
    def descriptors(self) -> list[int]:
        """Return copies of the descriptors, which belong to the caller."""
    def set_up_loggers(self, package: str) -> None:
        """Make the loggers of servers write to the logs of this process.

        What `package` and what is below it say counts as the application's.
        """
    def load(self, app: Application | None) -> Application:
        """Return the application: `app`, or the one that the settings name."""
    def worker(
        self, app: Application, program: Server
    ) -> tuple[_Worker, Coroutine[Any, Any, None]]:
        """Return a worker of this process, and the coroutine that runs it."""
    def close(self) -> None:
        """Close the listeners and remove their files."""

@final
class _Worker:
    """The native side of a worker."""

    def log(self, level: str, text: str) -> None:
        """Write a log line."""
    def stop(self, quick: bool) -> None:
        """Stop serving; `quick` cancels what runs."""

@final
class RSGIHeaders:
    """The headers of a request; names are found in any case."""

    def __len__(self) -> int: ...
    def __contains__(self, name: object, /) -> bool: ...
    def __getitem__(self, name: str, /) -> str: ...
    def __iter__(self) -> Iterator[str]: ...
    def keys(self) -> list[str]:
        """Return the names, each once."""
    def values(self) -> list[str]:
        """Return the values of all headers."""
    def items(self) -> list[tuple[str, str]]:
        """Return name and value of each header, also where names are repeated."""
    @overload
    def get(self, name: str, default: None = None) -> str | None: ...
    @overload
    def get(self, name: str, default: _T) -> str | _T:
        """Return the first value of a header."""
    def get_all(self, name: str) -> list[str]:
        """Return all values of a header."""

@final
class RSGIScope:
    """What is asked for."""

    @property
    def proto(self) -> str:
        """`http` or `ws`."""
    @property
    def rsgi_version(self) -> str:
        """The version of RSGI."""
    @property
    def http_version(self) -> str:
        """`1` or `1.1`."""
    @property
    def scheme(self) -> str:
        """The scheme of the URL."""
    @property
    def method(self) -> str:
        """The method of HTTP."""
    @property
    def path(self) -> str:
        """The path, percent-decoded."""
    @property
    def query_string(self) -> str:
        """What follows the question mark."""
    @property
    def authority(self) -> str | None:
        """What an absolute request target names."""
    @property
    def client(self) -> str:
        """`ADDRESS:PORT`; empty on a UNIX socket."""
    @property
    def server(self) -> str:
        """`ADDRESS:PORT`, or the path of a UNIX socket."""
    @property
    def headers(self) -> RSGIHeaders:
        """The headers."""

@final
class RSGIHTTPStreamTransport:
    """Sends the body of a response in parts."""

    def send_bytes(self, data: bytes) -> Awaitable[None]:
        """Send bytes."""
    def send_str(self, data: str) -> Awaitable[None]:
        """Send text."""

@final
class RSGIHTTPProtocol:
    """Takes the body of a request, and answers it."""

    def __call__(self) -> Awaitable[bytes]: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Awaitable[bytes]: ...
    def client_disconnect(self) -> Awaitable[None]:
        """Wait until the client has left, or has its answer."""
    def response_empty(self, status: int = 200, headers: _Headers = ()) -> None:
        """Answer without a body."""
    def response_str(self, status: int = 200, headers: _Headers = (), body: str = "") -> None:
        """Answer with text."""
    def response_bytes(self, status: int = 200, headers: _Headers = (), body: bytes = b"") -> None:
        """Answer with bytes."""
    def response_file(self, status: int, headers: _Headers, file: str | PathLike[str]) -> None:
        """Answer with a file."""
    def response_file_range(
        self, status: int, headers: _Headers, file: str | PathLike[str], start: int, end: int
    ) -> None:
        """Answer with the bytes of a file from `start` on and before `end`."""
    def response_stream(self, status: int = 200, headers: _Headers = ()) -> RSGIHTTPStreamTransport:
        """Begin an answer that is sent in parts."""

@final
class RSGIWebsocketMessage:
    """A message of the client, or the end."""

    @property
    def kind(self) -> int:
        """0: the WebSocket is closed; 1: bytes; 2: text."""
    @property
    def data(self) -> bytes | str | None:
        """What was sent."""

@final
class RSGIWebsocketTransport:
    """Sends and receives messages."""

    def receive(self) -> Awaitable[RSGIWebsocketMessage]:
        """Wait for a message."""
    def send_bytes(self, data: bytes) -> Awaitable[None]:
        """Send bytes."""
    def send_str(self, data: str) -> Awaitable[None]:
        """Send text."""

@final
class RSGIWebsocketProtocol:
    """Accepts a WebSocket, or closes it."""

    def accept(self) -> Awaitable[RSGIWebsocketTransport]:
        """Accept it."""
    def close(self, status: int | None = None) -> None:
        """Close it, or refuse the handshake."""
