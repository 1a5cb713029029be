"""Which interface an application has, and what is none."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("asgi3", "asgi3"),
        ("asgi3_instance", "asgi3"),
        ("asgi3_partial", "asgi3"),
        ("asgi3_decorated", "asgi3"),
        ("asgi3_carelessly", "asgi3"),
        ("Asgi3Awaited", "asgi3"),
        ("asgi2", "asgi2"),
        ("Asgi2", "asgi2"),
        ("Asgi2Careless", "asgi2"),
        ("asgi2_partial", "asgi2"),
        ("asgi2_instance", "asgi2"),
        ("asgi2_method", "asgi2"),
        ("asgi3_method", "asgi3"),
        ("asgi3_without_signature", "asgi3"),
        ("asgi3_with_the_signature_of_another", "asgi3"),
        ("wsgi", "wsgi"),
        ("wsgi_instance", "wsgi"),
        ("wsgi_partial", "wsgi"),
        ("wsgi_decorated", "wsgi"),
        ("wsgi_carelessly", "wsgi"),
        ("wsgi_with_more", "wsgi"),
        ("wsgi_with_defaults", "wsgi"),
        ("WsgiIterated", "wsgi"),
        ("Holder.wsgi", "wsgi"),
        ("Holder.nested", "wsgi"),
        ("wsgi_of_a_server", "wsgi"),
        ("asgi3_of_a_server", "asgi3"),
    ],
)
def test_the_interface_is_found_out(serve: Serve, kinds: Path, name: str, kind: str) -> None:
    server = serve(f"kinds:{name}", "--app-dir", str(kinds))
    assert server.get("/").text == kind


def test_asgi_2_is_served_with_its_lifespan(serve: Serve) -> None:
    server = serve("double:application", "--lifespan", "on")
    version, path = json.loads(server.get("/some/path").body)
    assert (version["version"], path) == ("2.0", "/some/path")


def test_asgi_2_with_preload_and_its_name(serve: Serve) -> None:
    server = serve("double:Application", "--preload", "--interface", "asgi2", "-w", "2")
    assert server.get("/").status == 200


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-k", "sync"], "wsgi"),
        (["--worker-class", "gthread", "--threads", "2"], "wsgi"),
        (["-k", "asgi"], "asgi3"),
        (["-k", "gunicorn.workers.gasgi.ASGIWorker"], "asgi3"),
        (["-k", "egg:gunicorn#sync"], "wsgi"),
        (["-k", "egg:gunicorn#gthread", "--threads", "2"], "wsgi"),
        (["-k", "uvicorn.workers.UvicornWorker"], "asgi2"),
        (["--interface", "wsgi"], "opaque_wsgi"),
        (["--interface", "asginl"], "asgi3"),
    ],
)
def test_worker_classes_and_interfaces(
    serve: Serve, kinds: Path, arguments: list[str], name: str
) -> None:
    with (kinds / "kinds.py").open("a") as file:
        file.write("\n\ndef opaque_wsgi(*arguments):\n    return wsgi(*arguments)\n")
    server = serve(f"kinds:{name}", "--app-dir", str(kinds), *arguments)
    assert server.get("/").status == 200


@pytest.mark.parametrize("name", ["opaque", "opaque_without_server", "opaque_with_another"])
def test_what_is_not_recognised_is_refused(run: Run, kinds: Path, name: str) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(kinds))
    assert result.returncode == 3
    assert "--interface" in result.stderr and "(*arguments" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["-k", "sync"], ["-k", "asgi"]])
@pytest.mark.parametrize(
    "name",
    ["configured", "for_environments", "keyword_only", "create_app", "create_configured"],
)
def test_a_factory_with_optional_arguments_is_no_application(
    run: Run, kinds: Path, name: str, arguments: list[str]
) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(kinds), *arguments)
    assert result.returncode == 3, result.stderr
    assert "is served with --factory" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("create_later", ["asynchronous", "(scope, receive, send)"]),
        ("handler", ["asynchronous", "(request)", "(scope, receive, send)"]),
        ("with_a_name", ["(name)", "main:create_app('production')"]),
        ("Framework", ["it is a class", "is served with --factory"]),
        ("SyncFramework", ["it is a class", "name an instance"]),
        ("NoApplication", ["(value)"]),
    ],
)
def test_what_only_looks_like_an_application_is_refused(
    run: Run, kinds: Path, name: str, said: list[str]
) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(kinds))
    assert result.returncode == 3, result.stderr
    for text in said:
        assert text in result.stderr, result.stderr


def test_a_factory_that_makes_a_factory(run: Run, kinds: Path) -> None:
    with (kinds / "kinds.py").open("a") as file:
        file.write("\n\ndef twice():\n    return configured\n")
    result = run("kinds:twice", "--app-dir", str(kinds), "--factory")
    assert result.returncode == 3
    assert "what the factory has made" in result.stderr
    assert "is served with --factory" not in result.stderr


def test_a_class_that_makes_the_application_is_a_factory(serve: Serve, kinds: Path) -> None:
    server = serve("kinds:Framework", "--app-dir", str(kinds), "--factory")
    assert server.get("/").text == "asgi3"


def test_a_factory_does_not_replace_workers_that_serve(serve: Serve, kinds: Path) -> None:
    module = kinds / "changing.py"
    module.write_text("from kinds import wsgi as app\n")
    server = serve("changing:app", "--app-dir", str(kinds))
    module.write_text("from kinds import configured as app\n")
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("is served with --factory")
    assert server.get("/").text == "wsgi"


def test_a_factory_without_the_flag_is_told_about_it(
    run: Run, module: Callable[[str, str], Path]
) -> None:
    place = module("made", "def make():\n    return make\n").parent
    result = run("made:make", "--app-dir", str(place))
    assert result.returncode == 3
    assert "--factory" in result.stderr


@pytest.mark.parametrize("arguments", [["-k", "sync"], ["--interface", "wsgi"]])
@pytest.mark.parametrize("name", ["asgi3", "asgi3_instance", "asgi3_decorated", "Asgi2", "asgi2"])
def test_an_asgi_application_is_no_wsgi_worker_s(
    run: Run, kinds: Path, name: str, arguments: list[str]
) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(kinds), *arguments)
    assert result.returncode == 3, result.stderr
    assert "is called as an ASGI" in result.stderr and "a WSGI application" in result.stderr


def test_a_wsgi_application_is_no_asgi_worker_s(run: Run, kinds: Path) -> None:
    result = run("kinds:wsgi", "--app-dir", str(kinds), "-k", "uvicorn.workers.UvicornWorker")
    assert result.returncode == 3
    assert "WSGI" in result.stderr


def test_an_application_of_tornado_is_refused(run: Run, module: Callable[[str, str], Path]) -> None:
    source = "import tornado.web\napp = tornado.web.Application([])\n"
    place = module("shop", source).parent
    result = run("shop:app", "--app-dir", str(place))
    assert result.returncode == 3
    assert "use Tornado's own server, or an ASGI application" in result.stderr


@pytest.mark.parametrize("name", ["gevent", "eventlet", "tornado", "meinheld.gmeinheld.X"])
def test_other_worker_classes_are_refused(run: Run, kinds: Path, name: str) -> None:
    result = run("kinds:wsgi", "--app-dir", str(kinds), "-k", name)
    assert result.returncode in (1, 2)
    assert "use " in result.stderr
