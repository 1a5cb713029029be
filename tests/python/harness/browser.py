"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from .server import Output
from .waiting import DEADLINE, eventually

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (apt install chromium, or CHROMIUM names it)"
)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
]


class ScriptFailed(AssertionError):
    """The script in the page raised."""


class Refused(AssertionError):
    """The browser did not do what it was told."""


class Browser:
    """A browser with a profile of its own."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        self.output = Output()
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stderr
        self._stack = ExitStack()
        self._reader = self.output.follow("stderr", self.process.stderr)
        try:
            found = self.output.wait_for(
                r"DevTools listening on (ws://\S+)", 2 * DEADLINE, "stderr", 0
            )
            assert found, f"{CHROMIUM} did not start:\n{self.output.text()}"
            self._channel: ClientConnection = self._stack.enter_context(
                connect(found[1], proxy=None, max_size=None, compression=None)
            )
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self._numbers = itertools.count(1)
        self._events: list[dict[str, object]] = []

    def close(self) -> None:
        """Ends the browser with all its processes."""
        try:
            self.call("Browser.close")
            self.process.wait(DEADLINE / 3)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._stack.close()
            # It leads a session of its own.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._reader.join(2)

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict:
        """Calls a method of the protocol and returns its result."""
        number = next(self._numbers)
        request: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if session:
            request["sessionId"] = session
        self._channel.send(json.dumps(request))
        while True:
            message = self._receive()
            if message.get("id") == number:
                if "error" in message:
                    raise Refused(f"{method}: {message['error']}")
                return message["result"]
            self._events.append(message)

    def wait_for(self, method: str, session: str) -> None:
        """Waits for an event of a page."""
        while True:
            for position, event in enumerate(self._events):
                if (event.get("method"), event.get("sessionId")) == (method, session):
                    del self._events[position]
                    return
            self._events.append(self._receive())

    def _receive(self) -> dict:
        return json.loads(self._channel.recv(DEADLINE))

    def open(self, url: str) -> Page:
        """Opens a page and waits until it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable", session)
        self.call("Page.navigate", session, url=url)
        self.wait_for("Page.loadEventFired", session)
        return Page(self, target, session)


class Page:
    """A page of a browser."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def run(self, script: str) -> object:
        """Runs the body of an async function in the page and returns what it returns."""
        result = self._browser.call(
            "Runtime.evaluate",
            self._session,
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        if problem := result.get("exceptionDetails"):
            raise ScriptFailed(json.dumps(problem, indent=1))
        return result["result"].get("value")

    def eventually(self, expression: str, what: str) -> object:
        """The first true value of an expression."""

        def value() -> object:
            try:
                return self.run(f"return {expression}")
            except Refused:
                # The page is on its way to another one.
                return None

        return eventually(value, what)
