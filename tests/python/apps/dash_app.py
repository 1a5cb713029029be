"""Dash in its two forms: on Flask, and on FastAPI with callbacks over a WebSocket."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from dash import Dash, Input, Output, dcc, html, set_props
from flask import Response


def make(**settings: Any) -> Dash:
    """A page with a graph and a button that counts on the server."""
    dash = Dash(__name__, **settings)
    dash.layout = html.Div(
        [
            html.Button("more", id="more", n_clicks=0),
            html.P(id="clicks"),
            dcc.Graph(id="graph"),
            html.P(id="words"),
        ]
    )

    @dash.callback(Output("clicks", "children"), Input("more", "n_clicks"))
    def count(clicks: int) -> str:
        return f"{clicks} clicks, by {threading.current_thread().name}"

    @dash.callback(Output("graph", "figure"), Input("more", "n_clicks"))
    def draw(clicks: int) -> dict[str, Any]:
        return {"data": [{"y": list(range(clicks + 3))}], "layout": {"title": "a graph"}}

    return dash


plain = make()
app = plain.server


@app.get("/report")
def report() -> Response:
    """A report that is made while it is sent."""
    return Response((f"row {number}\n" for number in range(1000)), mimetype="text/csv")


live = make(backend="fastapi", websocket_callbacks=True)
asgi = live.server


@live.callback(Input("more", "n_clicks"), persistent=True)
async def talk(clicks: int) -> None:
    """Streams words into the page, one by one."""
    for number in range(1, 31):
        set_props("words", {"children": f"{clicks}: {number} words"})
        await asyncio.sleep(0.01)
