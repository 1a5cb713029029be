"""Dash through the real server, in a browser: on Flask, and live over a WebSocket."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from harness.browser import Browser, Page, needs_browser
from harness.clients import client_for
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = [rsgun_only, pytest.mark.timeout(180)]

Serve = Callable[..., Server]
KINDS = pytest.mark.parametrize(
    "name",
    ["app", "asgi", "plain", "live"],
    ids=["flask", "fastapi", "dash on flask", "dash on fastapi"],
)


@KINDS
def test_callbacks_and_files(shared: Serve, name: str) -> None:
    server = shared(f"dash_app:{name}")
    with client_for(server) as client:
        assert "_dash-config" in client.get("/").text
        files = [
            line.split('"')[1] for line in client.get("/").text.split("<script") if "src=" in line
        ]
        assert files
        for file in files:
            answer = client.get(file)
            assert answer.status_code == 200
            assert len(answer.content) == int(answer.headers["content-length"])
        call = {
            "output": "clicks.children",
            "outputs": {"id": "clicks", "property": "children"},
            "inputs": [{"id": "more", "property": "n_clicks", "value": 7}],
            "changedPropIds": ["more.n_clicks"],
        }
        answer = client.post("/_dash-update-component", json=call).json()
        assert answer["response"]["clicks"]["children"].startswith("7 clicks")


def test_a_report_streams(shared: Serve) -> None:
    server = shared("dash_app:app")
    answer = server.get("/report")
    assert answer.text == "".join(f"row {number}\n" for number in range(1000))


def click(page: Page, times: int) -> None:
    """Clicks, and waits for the answers of the callbacks."""
    for number in range(1, times + 1):
        page.run("document.querySelector('#more').click()")
        page.eventually(
            f"document.querySelector('#clicks')?.innerText.startsWith('{number} clicks')",
            f"the answer to click {number}",
        )
    page.eventually("document.querySelector('#graph .main-svg') !== null", "the graph")


@needs_browser
def test_a_page_on_flask(browser: Browser, shared: Serve) -> None:
    server = shared("dash_app:app", "--threads", "4")
    with browser.open(server.url) as page:
        page.eventually("document.querySelector('#more') !== null", "the page")
        click(page, 3)


@needs_browser
def test_a_live_page_and_a_reload(browser: Browser, serve: Serve) -> None:
    """The words come one by one over the WebSocket, and again from the next worker."""
    server = serve("dash_app:asgi")
    with browser.open(server.url) as page:
        page.eventually("document.querySelector('#more') !== null", "the page")
        click(page, 2)
        words = "document.querySelector('#words')?.innerText"
        page.eventually(f"{words} === '2: 30 words'", "the words")
        server.send_signal(signal.SIGHUP)
        server.wait_for_generation(2, 1)
        page.run("document.querySelector('#more').click()")
        page.eventually(f"{words} === '3: 30 words'", "the words of the next worker")
    connected = [line for line in server.lines("stdout") if '"WebSocket /_dash-ws' in line]
    assert len(connected) >= 2
    assert not [line for line in server.lines("stdout") if "_dash-update-component" in line]
