"""The coroutine that a worker runs: lifespan, serving, shutdown."""

import asyncio
import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback


class ClientDisconnected(OSError):
    """The client is gone: ``send()`` can no longer reach it (ASGI HTTP, 2.4)."""


departures = [ClientDisconnected]
"""The classes of what is raised when the client is gone."""


class StartupError(Exception):
    """The application did not start.

    Args: the kind (a name of ``FailureKind``), a message, and a traceback or None.
    """


async def run(app, scope, cycle):
    """Runs the application for one request; nothing it raises gets out."""
    try:
        await app(scope, cycle.receive, cycle.send)
    except BaseException as error:
        cycle.fail(error, scope)
    else:
        cycle.finish()


def describe(error):
    """Returns the traceback of an error of the application, without our frames before it.

    An exit that was told already, when it came out of the event loop, is only named.
    """
    if isinstance(error, BaseExceptionGroup):
        told, error = error.split(_was_told)
    else:
        told, error = (error, None) if _was_told(error) else (None, error)
    lines = []
    if error is not None:
        frames = error.__traceback__
        while frames is not None and frames.tb_next is not None and _is_ours(frames.tb_frame):
            frames = frames.tb_next
        lines += traceback.format_exception(type(error), error, frames)
    for each in _leaves(told):
        lines += traceback.format_exception_only(each)
    return _printable(lines)


def _is_ours(frame):
    return frame.f_code.co_filename.startswith("<rsgun/")


def _was_told(error):
    return getattr(error, "_rsgun_told", False)


def _leaves(error):
    """Returns the errors in a group, or the one that is none."""
    if not isinstance(error, BaseExceptionGroup):
        return [] if error is None else [error]
    return [leaf for each in error.exceptions for leaf in _leaves(each)]


def _printable(lines):
    # Names of files may hold bytes that are no text.
    return "".join(lines).encode("utf-8", "backslashreplace").decode()


def stack_of_thread(ident):
    """Returns the stack of a thread, by its ``threading.get_ident()``."""
    frame = sys._current_frames().get(ident)
    return "" if frame is None else "".join(traceback.format_stack(frame))


def is_disconnect(error):
    """Tells whether an error comes from a client that has left."""
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, tuple(departures)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


class Lifespan:
    """The lifespan protocol (ASGI lifespan 2.0) with one application.

    `version` is that of ASGI. `mode` is ``auto``, ``on`` or ``off``. `state` is filled
    by the application.
    """

    def __init__(self, app, version, mode, log):
        self.app = app
        self.version = version
        self.mode = mode
        self.log = log
        self.state = {}
        self.task = None
        self.abandoned = False
        self.events = asyncio.Queue()
        self.started = asyncio.get_running_loop().create_future()
        self.stopped = asyncio.get_running_loop().create_future()

    async def startup(self):
        """Runs the startup; raises StartupError if the application must not serve."""
        if self.mode == "off":
            return
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.events.put_nowait({"type": "lifespan.startup"})
        await self.started

    async def shutdown(self):
        """Runs the shutdown; errors are logged, none is raised."""
        if self.task is None or self.task.done():
            return
        self.events.put_nowait({"type": "lifespan.shutdown"})
        await self.stopped
        self.task.cancel()

    async def abandon(self):
        """Gives up on a startup that is not wanted any more."""
        self.abandoned = True
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})

    async def _run(self):
        scope = {
            "type": "lifespan",
            "asgi": {"version": self.version, "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._raised(error)
        finally:
            for waiter in (self.started, self.stopped):
                if not waiter.done():
                    waiter.set_result(None)

    def _raised(self, error):
        if self.started.done():
            # One that has reported its failure has told the reason.
            reported = self.abandoned or self.stopped.done() or self.started.exception()
            level = "debug" if reported else "error"
            self.log(level, "the lifespan of the application failed", error)
            return
        if self.mode == "on":
            self.started.set_exception(
                StartupError("LifespanFailed", "the lifespan startup raised", describe(error))
            )
        else:
            self.log("info", "the application does not use the lifespan protocol")
            self.log("debug", "what it has raised:", error)

    async def _receive(self):
        return await self.events.get()

    async def _send(self, message):
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._settle(self.started, kind)
        elif kind == "lifespan.startup.failed":
            text = message.get("message", "")
            if self.started.done():
                raise RuntimeError(f'unexpected ASGI message "{kind}"')
            self.started.set_exception(
                StartupError(
                    "LifespanFailed", "the application reported that its startup failed", text
                )
            )
        elif kind == "lifespan.shutdown.complete":
            self._settle(self.stopped, kind)
        elif kind == "lifespan.shutdown.failed":
            level = "debug" if self.abandoned else "error"
            self.log(level, "the lifespan shutdown failed\n" + message.get("message", ""))
            self._settle(self.stopped, kind)
        else:
            raise RuntimeError(f'unexpected ASGI message "{kind}" in the lifespan')

    def _settle(self, waiter, kind):
        if waiter.done():
            raise RuntimeError(f'unexpected ASGI message "{kind}"')
        waiter.set_result(None)


def loop_factory(name):
    """Returns the event loop factory for ``--loop``.

    `name` is ``auto`` (uvloop if it is installed), ``asyncio``, ``uvloop``, ``rloop`` or
    ``MODULE:FACTORY``. Raises StartupError when it cannot be had, and so does the factory
    when it fails.
    """
    factory = _find_loop_factory(name)

    def make():
        try:
            loop = factory()
        except Exception as error:
            raise StartupError(
                "LoopFailed", f"--loop {name}: the event loop failed", describe(error)
            ) from None
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise StartupError(
                "LoopFailed",
                f"--loop {name}: it has returned {loop!r}, which is no event loop: name a "
                "function or class that returns an asyncio.AbstractEventLoop",
                None,
            )
        return loop

    return make


def _find_loop_factory(name):
    if name == "asyncio":
        return asyncio.new_event_loop
    if name in ("auto", "uvloop", "rloop"):
        package = "uvloop" if name == "auto" else name
        try:
            return importlib.import_module(package).new_event_loop
        except ImportError as error:
            if name == "auto":
                return asyncio.new_event_loop
            raise StartupError(
                "LoopFailed",
                f"--loop {name}: {error}; install it (pip install {name}) or use --loop asyncio",
                None,
            ) from None
    module, _, attribute = name.partition(":")
    try:
        factory = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise StartupError("LoopFailed", f"--loop {name}: {error}", None) from None
    return factory


def warm_up(loop_name):
    """Imports the event loop ahead of time, so that the workers share it.

    Whether it can be had is told by the worker that needs it.
    """
    if loop_name in ("auto", "uvloop"):
        with contextlib.suppress(Exception):
            import uvloop  # noqa: F401


def main(worker, app, version, loop_name, lifespan_mode):
    """Runs one worker to its end. `worker` is the native side."""
    has_begun = asyncio.Event()

    async def serve():
        await _serve(worker, app, version, lifespan_mode, has_begun)

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        run_to_end(runner, serve(), lambda: worker if has_begun.is_set() else None)


def run_to_end(runner, coroutine, serving):
    """Runs a coroutine as `runner.run` does, but no exit of the application ends it.

    `serving()` returns the native side of the server once it serves, else None: an exit
    before that ends the start.

    An event loop lets ``SystemExit`` and ``KeyboardInterrupt`` of any task or callback
    out, after it has stored them in that task for whoever waits for it. It can go on where
    it was; with the same task, since anyio ties its threads to the one that runs to its end.
    """
    loop = runner.get_loop()
    task = loop.create_task(coroutine)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if _is_from_the_keyboard(error):
                raise
            if task.done():
                return task.result()
            server = serving()
            if server is None:
                raise
            what = "called sys.exit()" if isinstance(error, SystemExit) else "was interrupted"
            server.log("error", f"the application {what} in a task; the server goes on", error)
            error._rsgun_told = True


def _is_from_the_keyboard(error):
    """Whether it is Python's own answer to SIGINT, which the program has asked for."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def main_of_wsgi(worker):
    """Runs one worker with a WSGI application to its end.

    The event loop only waits for orders and signals: the application runs in threads.
    """
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        all_ended = runner.run(_serve_wsgi(worker))
    if not all_ended:
        # A thread that comes back while the interpreter ends would take it down.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)


def attach(worker, loop):
    """Listens to the master and to signals; returns the future that ends serving."""
    stopped = loop.create_future()
    worker.attach(loop, stopped)
    loop.add_signal_handler(signal.SIGTERM, worker.terminate)
    loop.add_signal_handler(signal.SIGINT, worker.interrupt)
    loop.add_signal_handler(signal.SIGQUIT, worker.interrupt)
    loop.add_signal_handler(signal.SIGUSR1, worker.reopen_logs)
    terminates = signal.getsignal(signal.SIGTERM)
    os.register_at_fork(after_in_child=lambda: _let_go_of_signals(terminates))
    return stopped


def _let_go_of_signals(terminates):
    """In a process that the application has forked, makes its signals its own.

    TERM ends it, and the event loop of the worker, whose descriptor it has inherited, is
    told of none.
    """
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGTERM) is terminates:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


async def _serve(worker, app, version, lifespan_mode, has_begun):
    stopped = attach(worker, asyncio.get_running_loop())
    lifespan = Lifespan(app, version, lifespan_mode, worker.log)
    if not await _start(worker, lifespan, stopped):
        return
    has_begun.set()
    try:
        await stopped
    finally:
        worker.phase("shutdown")
        worker.close()
    await lifespan.shutdown()


async def _serve_wsgi(worker):
    return await serve_until(worker, attach(worker, asyncio.get_running_loop()))


async def serve_until(worker, stopped):
    """Serves until it is stopped; returns what the end of the worker says."""
    worker.start({})
    try:
        await stopped
    finally:
        worker.phase("shutdown")
        worker.close()
        ended = worker.wait()
    return ended


async def _start(worker, lifespan, stopped):
    """Runs the startup and begins to serve; tells whether it was not stopped before."""
    worker.phase("startup")
    startup = asyncio.get_running_loop().create_task(lifespan.startup())
    await asyncio.wait({startup, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not startup.done() and not lifespan.started.done():
        startup.cancel()
        await lifespan.abandon()
        return False
    await startup
    worker.start(lifespan.state)
    return True


async def serve_in_program(worker, app, version, lifespan_mode, grace):
    """Runs a worker in the event loop of a program, which has no master to watch it.

    `version` is that of ASGI, and empty for a WSGI application. The lifespan shutdown gets
    `grace` seconds. When the task is cancelled, what runs is
    cancelled too, and the shutdown still has its turn.
    """
    lifespan = Lifespan(app, version, lifespan_mode, worker.log)
    await live_in_program(worker, lifespan, not version, grace)


async def live_in_program(worker, lifespan, has_threads, grace):
    """Runs a worker and its lifespan as `serve_in_program` does."""
    loop = asyncio.get_running_loop()
    stopped = loop.create_future()
    worker.attach(loop, stopped)
    try:
        if not await _start(worker, lifespan, stopped):
            return
    except BaseException:
        await lifespan.abandon()
        raise
    try:
        await asyncio.shield(stopped)
    except asyncio.CancelledError:
        worker.stop(True)
        await stopped
        raise
    finally:
        worker.phase("shutdown")
        worker.close()
        if has_threads:
            # The program need not wait for them.
            await asyncio.to_thread(worker.wait)
        shutdown = loop.create_task(lifespan.shutdown())
        _, late = await asyncio.wait({shutdown}, timeout=grace or None)
        if late:
            worker.log("error", f"the lifespan shutdown did not end within {grace} seconds")
            await lifespan.abandon()
