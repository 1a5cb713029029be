"""What RSGI applications are told, and how one is run in a worker."""

import asyncio
import contextlib
import inspect
import sys

from rsgun._serve import (
    StartupError,
    attach,
    departures,
    describe,
    live_in_program,
    loop_factory,
    run_to_end,
    serve_until,
)


class ProtocolError(RuntimeError):
    """A method of a protocol or transport is called when it does not fit."""

    __module__ = "rsgun.rsgi"


class ProtocolClosed(RuntimeError):
    """The client is gone: nothing can be sent to it or received from it any more."""

    __module__ = "rsgun.rsgi"


departures.append(ProtocolClosed)


def misuse(text):
    """Returns the error of a call that does not fit."""
    return _as_caught(ProtocolError)(text)


def closed(text):
    """Returns the error of a call that does not reach the client."""
    return _as_caught(ProtocolClosed)(text)


_both = {}


def _as_caught(kind):
    """Returns the class, or one that is granian's too where the application has that.

    What catches the errors of ``granian.rsgi`` catches ours then.
    """
    theirs = getattr(sys.modules.get("granian.rsgi"), kind.__name__, None)
    if theirs is None:
        return kind
    if kind not in _both:
        _both[kind] = type(kind.__name__, (kind, theirs), {"__module__": "rsgun.rsgi"})
    return _both[kind]


def entry(app):
    """Returns what is called for each request."""
    return getattr(app, "__rsgi__", app)


async def run(app, scope, cycle):
    """Runs the application for one request; nothing it raises gets out."""
    protocol = cycle.protocol()
    try:
        await app(scope, protocol)
    except BaseException as error:
        cycle.fail(error, scope)
    else:
        if scope.proto == "ws":
            # Refuses one that it has not accepted; a worker that has ended has refused all.
            with contextlib.suppress(RuntimeError):
                protocol.close()
        cycle.finish()


def main(worker, app, loop_name):
    """Runs one worker to its end. `worker` is the native side.

    What the application does before and after it serves gets an event loop that does not
    run, and usually lets it run.
    """
    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)
        stopped = attach(worker, loop)
        worker.phase("startup")
        with _told_as_failure():
            made = _call(app, "__rsgi_init__", loop)
            if inspect.isawaitable(made):
                loop.run_until_complete(made)
        if not stopped.done():
            run_to_end(runner, serve_until(worker, stopped), lambda: worker)
        try:
            made = _call(app, "__rsgi_del__", loop)
            if inspect.isawaitable(made):
                loop.run_until_complete(made)
        except Exception as error:
            worker.log("error", "__rsgi_del__ has raised", error)


def _call(app, name, loop):
    function = getattr(app, name, None)
    return None if function is None else function(loop)


@contextlib.contextmanager
def _told_as_failure():
    """Turns what the application raises before it serves into a StartupError."""
    try:
        yield
    except Exception as error:
        text = "__rsgi_init__ has raised"
        raise StartupError("LifespanFailed", text, describe(error)) from None


class Lifespan:
    """The same in a program, whose event loop runs already."""

    def __init__(self, app, log):
        self.app = app
        self.log = log
        self.state = {}
        self.loop = asyncio.get_running_loop()
        self.started = self.loop.create_future()

    async def startup(self):
        """Lets the application prepare itself."""
        with _told_as_failure():
            made = _call(self.app, "__rsgi_init__", self.loop)
            if inspect.isawaitable(made):
                await made

    async def shutdown(self):
        """Lets the application clean up; errors are logged."""
        try:
            made = _call(self.app, "__rsgi_del__", self.loop)
            if inspect.isawaitable(made):
                await made
        except Exception as error:
            self.log("error", "__rsgi_del__ has raised", error)

    async def abandon(self):
        """Gives up on a startup that is not wanted any more."""


async def serve_in_program(worker, app, grace):
    """Runs a worker in the event loop of a program, which has no master to watch it."""
    await live_in_program(worker, Lifespan(app, worker.log), False, grace)
