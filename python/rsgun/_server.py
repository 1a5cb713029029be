"""A server inside this process: its event loop is the program's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from . import _rsgun
from ._config import Config
from ._errors import StartupError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Listening:
    """Sockets that a server listens on."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self.sockets = tuple(sockets)
        """Copies for looking at: their `getsockname()` tells the port that was picked."""


class Server:
    """Serves one application in an event loop of the program, without other processes.

    `serve()` runs until the server is stopped: by `should_exit`, by a signal if this is the
    main thread, or by cancelling its task. Requests that were accepted are answered, for
    `graceful_timeout` seconds at most; then the lifespan shutdown has as long again.

    A thread runs one server at a time; several threads may run one each. A server serves
    once.
    """

    def __init__(self, config: Config) -> None:
        # For programs that no type checker looks at: it would show only in `run()`.
        if not isinstance(config, Config):
            raise TypeError(
                "rsgun.Server takes a Config: rsgun.Server(rsgun.Config(app, port=8000)), "
                f"and not {config!r}"
            )
        self.config = config
        self.started = False
        """Whether it has begun to serve. It stays true when it has stopped."""
        self.servers: list[Listening] = []
        """Where it listens, while it does."""
        self._should_exit = False
        self._force_exit = False
        self._stopping = False
        self._alone_for: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: _rsgun._Listening | None = None
        self._worker: _rsgun._Worker | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets of `servers`; none before and after it serves."""
        return tuple(each for server in self.servers for each in server.sockets)

    @property
    def should_exit(self) -> bool:
        """Whether the server is to stop. Any thread may set it."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        self._order()

    @property
    def force_exit(self) -> bool:
        """Whether a server that is to stop cancels what it still works on."""
        return self._force_exit

    @force_exit.setter
    def force_exit(self, value: bool) -> None:
        self._force_exit = value
        self._order()

    async def serve(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve until stopped.

        `sockets` listen already and stay the caller's; without them the settings say where
        to listen. In the main thread SIGINT and SIGTERM stop the server meanwhile. They are
        raised again when it has stopped and the handlers of before are back, so that the
        program learns of them too.

        An application that calls `sys.exit()` in a task of its own, as it does when a
        framework runs views in tasks, ends the event loop, which is the program's; `run()`
        goes on then.

        Raises `ConfigError`, or `StartupError` when it cannot listen or the application
        cannot be loaded or started.
        """
        with self._catching_signals(raise_again=True), _rsgun._ImmortalThread():
            await self._serve(sockets)

    def run(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve until stopped, in a new event loop: the one that the setting `loop` names.

        As `serve()`, but a start that fails is told in the log and raises `SystemExit` with
        the code of the failure, and no `sys.exit()` of the application ends the server.
        Raises `RuntimeError` where an event loop runs already.
        """
        self._run(sockets, raise_again=True)

    def _run_alone(self, package: str) -> None:
        """Serve as the only business of this process, for `rsgun.run`.

        `package` is the top-level module that has called it.
        """
        self._alone_for = package
        self._run(None, raise_again=False)

    def _run(self, sockets: Sequence[socket.socket] | None, raise_again: bool) -> None:
        if _is_in_event_loop():
            raise RuntimeError(
                "an event loop runs on this thread, and the server cannot make another one: "
                "use `await rsgun.Server(rsgun.Config(app)).serve()`"
            )

        try:
            with _failures_translated():
                factory = _rsgun._loop_factory(self.config._arguments)
                runner = asyncio.Runner(loop_factory=factory)
                runner.get_loop()
            with runner, self._catching_signals(raise_again):
                _rsgun._run_to_end(runner, self._serve(sockets), self._serving_worker)
        except StartupError as error:
            _rsgun._last_words(str(error))
            sys.exit(error.exit_code)

    def _serving_worker(self) -> _rsgun._Worker | None:
        return self._worker if self.started else None

    async def _serve(self, sockets: Sequence[socket.socket] | None) -> None:
        numbers = None if sockets is None else [each.fileno() for each in sockets]
        listening = _rsgun._Listening(self.config._arguments, numbers)
        try:
            self._listening = listening
            self._loop = asyncio.get_running_loop()
            if self._alone_for is not None:
                listening.set_up_loggers(self._alone_for)
            with _failures_translated():
                given = self.config.app
                app = listening.load(None if isinstance(given, str) else given)
                worker, serving = listening.worker(app, self)
                self._worker = worker
                copies = [socket.socket(fileno=number) for number in listening.descriptors()]
                self.servers = [Listening(copies)]
                worker.log("info", f"Started server process [{os.getpid()}]")
                self._obey()
                await serving
            worker.log("info", f"Finished server process [{os.getpid()}]")
        finally:
            self._loop = self._worker = self._listening = None
            for each in self.sockets:
                each.close()
            self.servers = []
            listening.close()

    def _serving(self) -> None:
        """The worker has begun to serve."""
        self.started = True
        if self._worker and self._listening:
            self._worker.log("info", "Application startup complete.")
            for url in self._listening.urls():
                self._worker.log("info", f"rsgun running on {url} (Press CTRL+C to quit)")

    def _spent(self, requests: int) -> None:
        """The worker has answered as many requests as it was to."""
        if self._worker:
            self._worker.log("info", f"Answered {requests} requests, as many as it was to")
        self.should_exit = True

    def _order(self) -> None:
        loop = self._loop
        if loop is not None:
            # It may have been closed by now, which is the end that was asked for.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._obey)

    def _obey(self) -> None:
        if self._worker and self._should_exit:
            if not self._stopping:
                self._stopping = True
                self._worker.log("info", "Shutting down")
            self._worker.stop(self._force_exit)

    @contextlib.contextmanager
    def _catching_signals(self, raise_again: bool) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        caught: list[int] = []

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            caught.append(number)
            if self._should_exit and number == signal.SIGINT:
                self.force_exit = True
            else:
                self.should_exit = True

        before = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                # None: it was not Python that had set it.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            if raise_again:
                for again in reversed(caught):
                    signal.raise_signal(again)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def _failures_translated() -> Iterator[None]:
    """Raise as a StartupError what the application or the event loop has failed with."""
    try:
        yield
    except Exception as error:
        failure = _rsgun._failure(error)
        if failure is None:
            raise
        code, text = failure
        raise StartupError(text, code) from None
