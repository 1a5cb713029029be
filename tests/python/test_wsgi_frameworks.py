"""WSGI frameworks through the real server: Flask, Django, Bottle, Pyramid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import APPS, ROOT

pytestmark = rsgun_only

Serve = Callable[..., Server]


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


class TestFlask:
    @pytest.fixture
    def server(self, shared: Serve) -> Server:
        server = shared("flask_app:app", "--threads", "2")
        server.tolerates_tracebacks = True
        return server

    def test_routes_queries_and_json(self, client: httpx.Client) -> None:
        found = client.get("/items/5", params={"a": "ü b"}).json()
        assert found["number"] == 5
        assert found["query"] == {"a": "ü b"}
        assert found["host"] == client.base_url.netloc.decode()
        assert client.post("/echo", json={"x": [1, None]}).json() == {"x": [1, None]}

    def test_forms_and_uploads(self, client: httpx.Client) -> None:
        content = os.urandom(3 << 20)
        answer = client.post("/upload", files={"file": ("a.bin", content)}, data={"field": "value"})
        assert answer.json() == {"name": "a.bin", "size": len(content), "field": "value"}

    def test_a_chunked_body_is_whole(self, client: httpx.Client) -> None:
        parts = (b"x" * 50_000 for _ in range(40))
        assert client.post("/raw", content=parts).text == "2000000"

    def test_streams_with_their_context(self, client: httpx.Client) -> None:
        assert client.get("/stream").text == "0 /stream\n1 /stream\n2 /stream\n"

    def test_files(self, client: httpx.Client) -> None:
        source = (APPS / "flask_app.py").read_bytes()
        answer = client.get("/file")
        assert answer.content == source
        assert answer.headers["content-length"] == str(len(source))
        again = client.get("/file", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        part = client.get("/file", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, source[10:20])
        assert client.get("/memory").content == b"in memory"

    def test_sessions_and_redirects(self, client: httpx.Client) -> None:
        assert [client.get("/count").text for _ in range(3)] == ["1", "2", "3"]
        assert client.get("/away").headers["location"] == "/items/7"

    def test_errors(self, client: httpx.Client) -> None:
        assert client.get("/fails").status_code == 500
        assert client.get("/teapot").status_code == 418
        assert client.get("/nowhere").status_code == 404
        assert client.head("/").status_code == 200
        assert client.options("/items/5").headers["allow"]

    def test_requests_are_torn_down(self, client: httpx.Client) -> None:
        client.get("/stream")
        assert "/stream" in client.get("/torn_down").json()

    @pytest.mark.parametrize(
        ("call", "text"),
        [("create_app()", "flask False"), ("create_app('shop', debug=True)", "shop True")],
    )
    def test_factories(self, serve: Serve, call: str, text: str) -> None:
        assert serve(f"flask_app:{call}").get("/").text == text

    def test_the_example(self, serve: Serve) -> None:
        server = serve("main:create_app('Hi')", "--app-dir", str(ROOT / "examples" / "flask"))
        assert server.get("/?name=Flask").text == "Hi, Flask!"
        assert server.get("/report").text.count("\n") == 100


@pytest.fixture(scope="session")
def django_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A database with an administrator, and the static files; the variables for them."""
    directory = tmp_path_factory.mktemp("django")
    variables = {"DATA_DIR": str(directory), "DJANGO_SUPERUSER_PASSWORD": "secret"}
    for command in (
        ["migrate", "--verbosity", "0"],
        ["createsuperuser", "--no-input", "--username", "admin", "--email", "a@example.org"],
        ["collectstatic", "--no-input", "--verbosity", "0"],
    ):
        subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT / "examples" / "django",
            env={**os.environ, **variables},
            check=True,
        )
    return variables


class TestDjango:
    @pytest.fixture(params=["project.wsgi", "project.asgi", "project/wsgi.py", None])
    def server(
        self, request: pytest.FixtureRequest, serve: Serve, django_data: dict[str, str]
    ) -> Server:
        variables = dict(django_data)
        if request.param is None:
            variables["DJANGO_SETTINGS_MODULE"] = "project.settings"
        folder = str(ROOT / "examples" / "django")
        return serve(request.param, "--app-dir", folder, environment=variables)

    def test_pages_and_the_database(self, client: httpx.Client) -> None:
        assert client.get("/").json()["users"] == 1
        assert client.get("/numbers/").text == "0\n1\n2\n"
        assert client.get("/nowhere/").status_code == 404

    def test_static_files(self, client: httpx.Client, django_data: dict[str, str]) -> None:
        answer = client.get("/static/admin/css/base.css")
        file = Path(django_data["DATA_DIR"]) / "static" / "admin" / "css" / "base.css"
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"].startswith("text/css")

    def test_the_login_of_the_admin(self, client: httpx.Client) -> None:
        page = client.get("/admin/login/")
        [token] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        answer = client.post(
            "/admin/login/?next=/admin/",
            data={"username": "admin", "password": "secret", "csrfmiddlewaretoken": token},
            headers={"Referer": str(page.url)},
        )
        assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
        assert "Site administration" in client.get("/admin/").text


def test_django_with_threads_preload_and_other_settings(
    serve: Serve, django_data: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text("from project.settings import *\nDEBUG = True\n")
    server = serve(
        "project.wsgi", "--app-dir", str(ROOT / "examples" / "django"), "--preload",
        "--threads", "4", "-w", "2", "--env", "DJANGO_SETTINGS_MODULE=other",
        environment={**django_data, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert server.get("/").status == 200
    assert b"DEBUG = True" in server.get("/nowhere/").body


class TestBottle:
    @pytest.fixture
    def server(self, shared: Serve) -> Server:
        return shared("bottle_app:app")

    def test_it_works(self, client: httpx.Client) -> None:
        assert client.get("/hello/you?a=1").json() == {"hello": "you", "query": {"a": "1"}}
        assert client.post("/form", data={"text": "ok"}).text == "ok"
        assert client.get("/static/bottle_app.py").text.startswith('"""A Bottle')
        assert client.get("/stream").text == "one two"


class TestPyramid:
    @pytest.fixture
    def server(self, shared: Serve) -> Server:
        server = shared("pyramid_app:app", "--threads", "2")
        server.tolerates_tracebacks = True
        return server

    def test_routes_and_json(self, client: httpx.Client) -> None:
        found = client.get("/items/5", params={"a": "ü b"}).json()
        host = client.base_url.netloc.decode()
        assert found == {
            "number": 5,
            "query": {"a": "ü b"},
            "host": host,
            "url": f"http://{host}/items/1",
        }
        assert client.post("/echo", json={"x": [1, None]}).json() == {"x": [1, None]}

    def test_uploads(self, client: httpx.Client) -> None:
        content = os.urandom(3 << 20)
        answer = client.post("/upload", files={"file": ("a.bin", content)}, data={"field": "v"})
        assert answer.json() == {"name": "a.bin", "size": len(content), "field": "v"}

    def test_streams_and_files(self, client: httpx.Client) -> None:
        assert client.get("/stream").text == "".join(f"{number}\n" for number in range(1000))
        source = (APPS / "pyramid_app.py").read_bytes()
        assert client.get("/file").content == source
        answer = client.get("/static/pyramid_app.py")
        assert (answer.content, answer.headers["content-length"]) == (source, str(len(source)))
        fresh = {"If-Modified-Since": answer.headers["last-modified"]}
        assert client.get("/static/pyramid_app.py", headers=fresh).status_code == 304

    def test_sessions_and_redirects(self, client: httpx.Client) -> None:
        assert [client.get("/count").text for _ in range(3)] == ["1", "2", "3"]
        assert client.get("/away").headers["location"].endswith("/items/7")

    def test_errors_and_the_end_of_requests(self, client: httpx.Client, server: Server) -> None:
        since = server.output.mark()
        assert client.get("/fails").status_code == 500
        server.wait_for_line("RuntimeError: on purpose", since=since)
        server.wait_for_line("^finished /fails$", since=since)
        assert client.get("/nowhere").status_code == 404

    def test_the_factory(self, serve: Serve) -> None:
        server = serve("pyramid_app:main({}, debug='yes')")
        assert server.get("/items/1").status == 200
