from collections.abc import Callable, Coroutine
from typing import Any, Self, final

from ._server import Server

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

def _last_words(text: str) -> None:
    """Tell why this process ends, whether or not logging was set up."""

@final
class _Arguments:
    """What a program says about the settings."""

    def __new__(cls, app: str, given: dict[str, object]) -> Self: ...
    def command_line(self) -> list[str]:
        """Return the command line that says the same."""

@final
class _Listening:
    """Open listeners, with the settings that they were opened for."""

    def __new__(cls, arguments: _Arguments, sockets: list[int] | None) -> Self: ...
    def urls(self) -> list[str]:
        """Return the addresses, as the start-up line shows them."""
    def descriptors(self) -> list[int]:
        """Return copies of the descriptors, which belong to the caller."""
    def set_up_loggers(self) -> None:
        """Make the loggers of servers write to the logs of this process."""
    def load(self, app: Callable[..., Any] | None) -> Callable[..., Any]:
        """Return the application: `app`, or the one that the settings name."""
    def worker(
        self, app: Callable[..., Any], program: Server
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
