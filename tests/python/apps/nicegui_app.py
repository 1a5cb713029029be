"""NiceGUI: a page whose state lives on the server and streams to the browser."""

from __future__ import annotations

import os
import tempfile

# NiceGUI wants a place for what it stores.
os.environ.setdefault("NICEGUI_STORAGE_PATH", tempfile.gettempdir())

from fastapi import FastAPI
from nicegui import ui

app = FastAPI()


@ui.page("/")
def index() -> None:
    state = {"clicks": 0, "ticks": 0}

    def click() -> None:
        state["clicks"] += 1
        clicks.set_text(f"{state['clicks']} clicks")

    def tick() -> None:
        state["ticks"] += 1
        ticks.set_text(f"{state['ticks']} ticks")

    ui.label(f"worker {os.getpid()}")
    clicks = ui.label("0 clicks")
    ticks = ui.label("0 ticks")
    ui.button("more", on_click=click)
    ui.timer(0.05, tick)


ui.run_with(app)
