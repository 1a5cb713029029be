"""The views of a Django project, which Django itself imports at the first request."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import ROOT

pytestmark = rsgun_only

Serve = Callable[..., Server]

BROKEN = "\nimport no_such_module\n"

WRAPPED = """
from django.conf import settings
from project.asgi import application

class Wrapper:
    async def __call__(self, scope, receive, send):
        await application(scope, receive, send)

app = Wrapper()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example, with an application around it."""
    folder = shutil.copytree(ROOT / "examples" / "django", tmp_path / "site")
    (folder / "wrapped.py").write_text(WRAPPED)
    return folder


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return {"DATA_DIR": str(tmp_path)}


def break_views(project: Path) -> None:
    with (project / "project" / "urls.py").open("a") as file:
        file.write(BROKEN)


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("app", ["project.wsgi", "project.asgi", "wrapped:app"])
def test_a_reload_to_broken_views_keeps_the_old_ones(
    serve: Serve, project: Path, variables: dict[str, str], app: str, preload: tuple[str, ...]
) -> None:
    server = serve(app, "--app-dir", str(project), *preload, environment=variables)
    server.tolerates_tracebacks = True
    assert server.get("/numbers/").status == 200
    break_views(project)
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload failed", since=since)
    server.wait_for_line('importing the views of "project.urls" failed', since=since)
    server.wait_for_line('there is no module "no_such_module"', since=since)
    assert server.get("/numbers/").status == 200


def test_a_start_with_broken_views_ends(
    serve: Serve, project: Path, variables: dict[str, str]
) -> None:
    break_views(project)
    server = serve("project.wsgi", "--app-dir", str(project), environment=variables, wait=False)
    server.tolerates_tracebacks = True
    assert server.wait() == 3
    assert any('importing the views of "project.urls" failed' in line for line in server.lines())
