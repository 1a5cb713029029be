"""Runs another project's tests of ASGI applications over the wire.

rsgun serves `app` of this module, and its worker runs that project's pytest in a thread
beside it. The plugin below puts a `Wired` application between each application under
test and the test client: it turns what the client does into bytes, sends them through
a socket to the server that it lives in, and turns what comes back into messages again
(`wire_client.py`). There the application itself is called by rsgun. So the tests stay
as they are, and what differs from them is what HTTP and the server make of it.

What HTTP cannot carry is handed past it: an exception that the application raises (the
test client raises it again), the code of a handshake that is refused, and those parts
of the scope that come from the options of the server or the client. The lifespan is not
on the wire either.

Environment: ``WIRE_TESTS`` is the directory of the project, ``WIRE_ARGUMENTS`` what pytest
gets (JSON), ``WIRE_RESULTS`` the file for the outcome of each test.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from wire_client import Exchange, Http, WebSocket

MARK = b"x-wire"
LIMIT = 10
"""Seconds for an exchange."""
CLEAN_UP = 5
"""Seconds for the application to end after its connection has ended."""
OPTIONS = [
    *("-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--capture=sys"),
    # This module has imported it already.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
]

EXCHANGES: dict[bytes, Exchange] = {}
NUMBERS = itertools.count(1)
ADDRESS: list[tuple[str, int]] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """What rsgun serves: calls the application that the mark of a request names."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/begin":
        # The first request: its scope tells where the server is.
        ADDRESS.append(scope["server"])
        threading.Thread(target=run_tests, daemon=True).start()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        return
    exchange = EXCHANGES[dict(scope["headers"])[MARK]]
    hidden = exchange.added | {MARK}
    headers = [(name, value) for name, value in scope["headers"] if name not in hidden]

    async def note(message: dict[str, Any]) -> None:
        exchange.sent.append(message)
        await send(message)

    try:
        await exchange.app({**scope, **exchange.restored, "headers": headers}, receive, note)
    except BaseException as error:
        exchange.error = error
        raise
    finally:
        exchange.done.set()


class Wired:
    """An application that is called over the wire."""

    count = 0

    def __init__(self, app: Any) -> None:
        self.app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        Wired.count += 1
        exchange = Exchange(self.app, scope)
        mark = b"%d" % next(NUMBERS)
        EXCHANGES[mark] = exchange
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        headers.append((MARK, mark))
        if not any(name == b"host" for name, _ in headers):
            headers.append((b"host", b"testserver"))
            exchange.added.add(b"host")
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        query = scope.get("query_string") or b""
        target = path + (b"?" + query if query else b"")
        kind = Http if scope["type"] == "http" else WebSocket
        stream = await anyio.connect_tcp(*ADDRESS[0])
        try:
            with anyio.fail_after(LIMIT):
                await kind(stream, exchange, receive, send).run(scope, target, headers)
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
                if exchange.begun:
                    await anyio.to_thread.run_sync(exchange.done.wait, CLEAN_UP)
            del EXCHANGES[mark]
            if exchange.error:
                raise exchange.error


class Plugin:
    """Puts the wire between client and application, and keeps the outcomes."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}

    def pytest_configure(self) -> None:
        """Changes the test clients."""
        from asgiref.testing import ApplicationCommunicator
        from starlette.testclient import TestClient

        start, begin = TestClient.__init__, ApplicationCommunicator.__init__

        def start_wired(client: Any, *arguments: Any, **more: Any) -> None:
            start(client, *arguments, **more)
            client.app = client._transport.app = Wired(client.app)

        def begin_wired(client: Any, application: Any, scope: Any) -> None:
            begin(client, application, scope)
            client.application = Wired(client.application)

        TestClient.__init__ = start_wired
        ApplicationCommunicator.__init__ = begin_wired

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The worker runs asyncio."""
        items[:] = [item for item in items if "trio" not in item.name]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """Counts the calls over the wire."""
        before = Wired.count
        try:
            return (yield)
        finally:
            self.counts[item.nodeid] = Wired.count - before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps an outcome; a failure counts in every phase."""
        if report.when == "call" or not report.passed:
            text = "" if report.passed else str(report.longrepr)
            self.outcomes[report.nodeid] = {"outcome": report.outcome, "text": text}


def run_tests() -> None:
    """Runs the tests and writes what has come of them."""
    plugin = Plugin()
    folder = os.environ["WIRE_TESTS"]
    os.chdir(folder)
    sys.path.insert(0, folder)
    arguments = json.loads(os.environ["WIRE_ARGUMENTS"])
    code = pytest.main([*OPTIONS, *arguments], plugins=[plugin])
    for name, outcome in plugin.outcomes.items():
        outcome["calls"] = plugin.counts.get(name, 0)
    with open(os.environ["WIRE_RESULTS"], "w") as out:
        json.dump(plugin.outcomes, out)
    print("wire: finished with", int(code), flush=True)
