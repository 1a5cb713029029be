"""Django as ASGI: views, middleware, and a project with its admin site."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from harness.clients import client_for
from harness.server import Server
from harness.target import APPS

Serve = Callable[..., Server]
MEGABYTE = 1 << 20
NUMBERS = "".join(f"{number};" for number in range(50))


class TestDjango:
    @pytest.fixture
    def client(self, shared: Serve) -> Iterator[httpx.Client]:
        self.server = shared("django_app:app")
        with client_for(self.server) as client:
            yield client

    def test_views_of_both_kinds(self, client: httpx.Client) -> None:
        assert client.get("/ping").text == "pong"
        assert client.get("/sync").text == "from a thread"

    def test_middleware(self, client: httpx.Client) -> None:
        headers = client.get("/ping").headers
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"

    def test_template_and_session(self, client: httpx.Client) -> None:
        assert client.get("/hello/Ada").text == "<p>Hello Ada, for the 1. time</p>"
        assert client.get("/hello/Ada").text == "<p>Hello Ada, for the 2. time</p>"

    def test_upload(self, client: httpx.Client) -> None:
        data = b"x" * (5 * MEGABYTE)
        assert client.post("/upload", files={"file": data}).text == str(len(data))

    def test_cross_site_request_is_refused(self, client: httpx.Client) -> None:
        assert client.post("/guarded").status_code == 403

    def test_stream(self, client: httpx.Client) -> None:
        assert client.get("/stream").text == NUMBERS

    def test_view_is_cancelled_when_the_client_leaves(self, client: httpx.Client) -> None:
        """Django listens for http.disconnect beside every view."""
        since = self.server.output.mark()
        connection = self.server.connect()
        connection.request("/slow")
        self.server.wait_for_line("^django waits", since=since)
        connection.close()
        self.server.wait_for_line("^django was cancelled", since=since)

    def test_exception(self, client: httpx.Client) -> None:
        self.server.tolerates_tracebacks = True
        assert client.get("/error").status_code == 500
        assert self.server.get("/ping").text == "pong"

    def test_missing_page(self, client: httpx.Client) -> None:
        assert client.get("/missing").status_code == 404


@pytest.fixture(scope="module")
def django_database(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("django") / "database")
    subprocess.run(
        [sys.executable, str(APPS / "django_admin.py")],
        env={**os.environ, "DJANGO_DATABASE": path},
        check=True,
        timeout=100,
    )
    return path


class TestDjangoProject:
    """Django with a database, users, the admin site, and static files."""

    @pytest.fixture
    def client(self, serve: Serve, django_database: str) -> Iterator[httpx.Client]:
        self.server = serve("django_admin:app", environment={"DJANGO_DATABASE": django_database})
        with client_for(self.server) as client:
            yield client

    def test_admin(self, client: httpx.Client) -> None:
        response = client.get("/admin/", follow_redirects=True)
        assert response.url.path == "/admin/login/"
        form = {"username": "admin", "password": "wrong", "next": "/admin/"}
        for password, status in (("wrong", 200), ("secret", 302)):
            form |= {"password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
            assert client.post("/admin/login/", data=form).status_code == status
        assert "Site administration" in client.get("/admin/").text
        users = client.get("/admin/auth/user/", params={"q": "admin"})
        assert "admin@localhost" in users.text
        form = {
            "csrfmiddlewaretoken": client.cookies["csrftoken"],
            "username": f"ada{os.getpid()}",
            "usable_password": "true",
            "password1": "Countess-1815",
            "password2": "Countess-1815",
        }
        added = client.post("/admin/auth/user/add/", data=form)
        assert (added.status_code, added.text) == (302, "")
        assert "was added successfully" in client.get(added.headers["location"]).text
        form = {"csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert client.post("/admin/logout/", data=form).status_code == 200
        assert client.get("/admin/").status_code == 302

    def test_static_files(self, client: httpx.Client) -> None:
        import django.contrib.admin

        folder = Path(django.contrib.admin.__file__).parent / "static" / "admin"
        for name, kind in (("css/base.css", "text/css"), ("img/search.svg", "image/svg+xml")):
            response = client.get(f"/static/admin/{name}")
            assert response.headers["content-type"].split(";")[0] == kind
            assert response.content == (folder / name).read_bytes()
            stamp = {"If-Modified-Since": response.headers["last-modified"]}
            again = client.get(f"/static/admin/{name}", headers=stamp)
            assert (again.status_code, again.content) == (304, b"")
        assert client.get("/static/admin/css/missing.css").status_code == 404
        assert client.get("/static/admin/../../secret").status_code == 404
