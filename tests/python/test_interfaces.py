"""What an application may be: its interface, and how it may be named."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.server import Server
from harness.target import rsgun_only

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., subprocess.CompletedProcess[str]]

ANSWER = """
import functools


async def _reply(send, text):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


def _wsgi_reply(start_response, text):
    start_response("200 OK", [])
    return [text.encode()]


async def asgi3(scope, receive, send):
    assert scope["type"] == "http"
    await _reply(send, "asgi3")


class Asgi3:
    async def __call__(self, scope, receive, send):
        await asgi3(scope, receive, send)


asgi3_instance = Asgi3()
asgi3_partial = functools.partial(asgi3)


def decorated(app):
    @functools.wraps(app)
    def wrapper(*arguments, **keywords):
        return app(*arguments, **keywords)

    return wrapper


def carelessly_decorated(app):
    return lambda *arguments: app(*arguments)


asgi3_decorated = decorated(asgi3)
asgi3_carelessly = carelessly_decorated(asgi3)


class Asgi3Awaited:
    def __init__(self, scope, receive, send):
        self.arguments = scope, receive, send

    def __await__(self):
        return asgi3(*self.arguments).__await__()


def asgi2(scope):
    assert scope["type"] == "http" and scope["asgi"]["version"] == "2.0"

    async def instance(receive, send):
        await _reply(send, "asgi2")

    return instance


class Asgi2:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await asgi2(self.scope)(receive, send)


def wsgi(environ, start_response):
    return _wsgi_reply(start_response, "wsgi")


class Asgi2Careless:
    def __init__(self, context):
        self.context = context

    def __call__(self, receive, send):
        return asgi2(self.context)(receive, send)


class Router:
    def __call__(self, connection):
        return asgi2(connection)

    def method(self, scope):
        return asgi2(scope)

    async def asgi(self, scope, receive, send):
        await asgi3(scope, receive, send)


asgi2_partial = functools.partial(lambda prefix, scope: asgi2(scope), "x")
asgi2_instance = Router()
asgi2_method = Router().method
asgi3_method = Router().asgi


class WithoutSignature:
    __signature__ = "unknown"

    async def __call__(self, *arguments):
        await asgi3(*arguments)


asgi3_without_signature = WithoutSignature()


def endpoint(function):
    @functools.wraps(function)
    async def app(scope, receive, send):
        await _reply(send, await function(scope))

    return app


@endpoint
async def asgi3_with_the_signature_of_another(scope):
    return "asgi3"


class Wsgi:
    def __call__(self, env, start):
        return wsgi(env, start)


app = wsgi
wsgi_instance = Wsgi()
wsgi_partial = functools.partial(lambda prefix, environ, start_response: wsgi(
    environ, start_response), "x")
wsgi_decorated = decorated(wsgi)
wsgi_carelessly = carelessly_decorated(wsgi_instance)


class WsgiIterated:
    def __init__(self, environ, start_response):
        self.parts = wsgi(environ, start_response)

    def __iter__(self):
        return iter(self.parts)


def wsgi_with_more(environ, start_response, debug=False):
    return wsgi(environ, start_response)


class Holder:
    wsgi = staticmethod(wsgi)
    nested = Wsgi()


def create_app(name="plain", *, debug=False, values=()):
    def app(environ, start_response):
        return _wsgi_reply(start_response, f"{name} {debug} {values}")

    return app


def wsgi_with_defaults(environ=None, start_response=None):
    return wsgi(environ, start_response)


def configured(test_config=None):
    return create_app("configured")


def for_environments(env="production", debug=False):
    return create_app(env)


def keyword_only(*, debug=False, **more):
    return create_app()


create_configured = functools.partial(create_app, "configured")


async def create_later():
    return create_app()


async def handler(request):
    return request


def with_a_name(name):
    return create_app(name)


class Framework:
    def __init__(self, *, debug=False, **extra):
        pass

    async def __call__(self, scope, receive, send):
        await asgi3(scope, receive, send)


class SyncFramework:
    def __init__(self, name):
        pass

    def __call__(self, environ, start_response):
        return wsgi(environ, start_response)


class NoApplication:
    def __init__(self, value):
        pass


def opaque(*arguments):
    raise AssertionError("never called")


class WithServer:
    def __init__(self, server):
        self.inner = server

    @property
    def server(self):
        if self.inner is None:
            raise RuntimeError("not yet")
        return self.inner

    def __call__(self, *arguments, **keywords):
        return self.inner(*arguments, **keywords)


wsgi_of_a_server = WithServer(wsgi)
asgi3_of_a_server = WithServer(asgi3_instance)
opaque_without_server = WithServer(None)
opaque_with_another = WithServer(opaque)
"""


@pytest.fixture
def place(module: Callable[[str, str], Path]) -> Path:
    """A directory with the applications in ``kinds.py``."""
    return module("kinds", ANSWER).parent


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
def test_the_interface_is_found_out(serve: Serve, place: Path, name: str, kind: str) -> None:
    server = serve(f"kinds:{name}", "--app-dir", str(place))
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
    serve: Serve, place: Path, arguments: list[str], name: str
) -> None:
    with (place / "kinds.py").open("a") as file:
        file.write("\n\ndef opaque_wsgi(*arguments):\n    return wsgi(*arguments)\n")
    server = serve(f"kinds:{name}", "--app-dir", str(place), *arguments)
    assert server.get("/").status == 200


@pytest.mark.parametrize("name", ["opaque", "opaque_without_server", "opaque_with_another"])
def test_what_is_not_recognised_is_refused(run: Run, place: Path, name: str) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(place))
    assert result.returncode == 3
    assert "--interface" in result.stderr and "(*arguments" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["-k", "sync"], ["-k", "asgi"]])
@pytest.mark.parametrize(
    "name",
    ["configured", "for_environments", "keyword_only", "create_app", "create_configured"],
)
def test_a_factory_with_optional_arguments_is_no_application(
    run: Run, place: Path, name: str, arguments: list[str]
) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(place), *arguments)
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
    run: Run, place: Path, name: str, said: list[str]
) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(place))
    assert result.returncode == 3, result.stderr
    for text in said:
        assert text in result.stderr, result.stderr


def test_a_factory_that_makes_a_factory(run: Run, place: Path) -> None:
    with (place / "kinds.py").open("a") as file:
        file.write("\n\ndef twice():\n    return configured\n")
    result = run("kinds:twice", "--app-dir", str(place), "--factory")
    assert result.returncode == 3
    assert "what the factory has made" in result.stderr
    assert "is served with --factory" not in result.stderr


def test_a_class_that_makes_the_application_is_a_factory(serve: Serve, place: Path) -> None:
    server = serve("kinds:Framework", "--app-dir", str(place), "--factory")
    assert server.get("/").text == "asgi3"


def test_a_factory_does_not_replace_workers_that_serve(serve: Serve, place: Path) -> None:
    module = place / "changing.py"
    module.write_text("from kinds import wsgi as app\n")
    server = serve("changing:app", "--app-dir", str(place))
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
    run: Run, place: Path, name: str, arguments: list[str]
) -> None:
    result = run(f"kinds:{name}", "--app-dir", str(place), *arguments)
    assert result.returncode == 3, result.stderr
    assert "is called as an ASGI" in result.stderr and "a WSGI application" in result.stderr


def test_a_wsgi_application_is_no_asgi_worker_s(run: Run, place: Path) -> None:
    result = run("kinds:wsgi", "--app-dir", str(place), "-k", "uvicorn.workers.UvicornWorker")
    assert result.returncode == 3
    assert "WSGI" in result.stderr


def test_an_application_of_tornado_is_refused(run: Run, module: Callable[[str, str], Path]) -> None:
    source = "import tornado.web\napp = tornado.web.Application([])\n"
    place = module("shop", source).parent
    result = run("shop:app", "--app-dir", str(place))
    assert result.returncode == 3
    assert "use Tornado's own server, or an ASGI application" in result.stderr


@pytest.mark.parametrize("name", ["gevent", "eventlet", "tornado", "meinheld.gmeinheld.X"])
def test_other_worker_classes_are_refused(run: Run, place: Path, name: str) -> None:
    result = run("kinds:wsgi", "--app-dir", str(place), "-k", name)
    assert result.returncode in (1, 2)
    assert "use " in result.stderr


class TestCalls:
    @pytest.mark.parametrize(
        ("call", "answer"),
        [
            ("create_app()", "plain False ()"),
            ("create_app('prod', debug=True)", "prod True ()"),
            ("create_app('a:b', values=[1, {'x': None}])", "a:b False [1, {'x': None}]"),
        ],
    )
    def test_with_literal_arguments(
        self, serve: Serve, place: Path, call: str, answer: str
    ) -> None:
        server = serve(f"kinds:{call}", "--app-dir", str(place))
        assert server.get("/").text == answer

    @pytest.mark.parametrize(
        ("call", "code", "said"),
        [
            ("create_app(name)", 4, "literals"),
            ("create_app(", 4, "neither the name of an attribute nor a call"),
            ("create_app().x", 4, "not a call"),
            ("missing()", 4, "missing"),
            ("create_app(nonsense=1)", 3, "nonsense"),
            ("Holder()", 3, "cannot be called"),
        ],
    )
    def test_others_are_refused(
        self, run: Run, place: Path, call: str, code: int, said: str
    ) -> None:
        result = run(f"kinds:{call}", "--app-dir", str(place))
        assert (result.returncode, said in result.stderr) == (code, True), result.stderr


class TestModules:
    @pytest.mark.parametrize(
        ("source", "answer"),
        [
            ("from kinds import wsgi as app, asgi3 as application", "asgi3"),
            ("from kinds import wsgi as app", "wsgi"),
        ],
    )
    def test_alone_they_stand_for_application_then_app(
        self, serve: Serve, place: Path, source: str, answer: str
    ) -> None:
        (place / "alone.py").write_text(source + "\n")
        server = serve("alone", "--app-dir", str(place))
        assert server.get("/").text == answer

    def test_neither_is_an_error(self, run: Run, place: Path) -> None:
        (place / "empty.py").write_text("")
        result = run("empty", "--app-dir", str(place))
        assert result.returncode == 4
        assert 'neither "application" nor "app"' in result.stderr


class TestFiles:
    @pytest.mark.parametrize("suffix", ["", ":wsgi", ":Holder.nested"])
    def test_a_path_stands_for_its_module(
        self, serve: Serve, place: Path, suffix: str, tmp_path: Path
    ) -> None:
        server = serve(f"{place}/kinds.py{suffix}", "--app-dir", ".", cwd=tmp_path)
        assert server.get("/").text == "wsgi"

    def test_a_path_into_a_package(self, serve: Serve, place: Path) -> None:
        package = place / "src" / "project" / "web"
        package.mkdir(parents=True)
        for folder in (package, package.parent):
            (folder / "__init__.py").write_text("")
        (package.parent / "names.py").write_text("NAME = 'from a package'\n")
        (package / "main.py").write_text(
            "from ..names import NAME\n\n\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [f'{NAME} {__name__}'.encode()]\n"
        )
        server = serve("src/project/web/main.py", "--app-dir", ".", cwd=place)
        assert server.get("/").text == "from a package project.web.main"


class TestDjangoSettings:
    """No application is named, but DJANGO_SETTINGS_MODULE."""

    VARIABLE = "DJANGO_SETTINGS_MODULE"

    @pytest.fixture
    def project(self, place: Path) -> Path:
        """A project as Django's template has it, without Django."""
        package = place / "project"
        (package / "settings").mkdir(parents=True)
        for folder in (package, package / "settings"):
            (folder / "__init__.py").write_text("")
        (package / "settings" / "base.py").write_text("")
        (package / "wsgi.py").write_text("from kinds import wsgi as application\n")
        (package / "asgi.py").write_text("from kinds import asgi3 as application\n")
        return package

    @pytest.mark.parametrize(
        ("source", "arguments", "kind"),
        [
            ('WSGI_APPLICATION = "kinds.wsgi_instance"', [], "wsgi"),
            ('ASGI_APPLICATION = "kinds.asgi3_instance"', [], "asgi3"),
            ('ASGI_APPLICATION = "kinds.asgi3"; WSGI_APPLICATION = "x.y"', [], "asgi3"),
            ('ASGI_APPLICATION = "x.y"; WSGI_APPLICATION = "kinds.wsgi"', ["-k", "sync"], "wsgi"),
            ('WSGI_APPLICATION = "x.y"', ["--interface", "asgi3"], "asgi3"),
            ("WSGI_APPLICATION = None", [], "wsgi"),
            ("", ["-k", "uvicorn.workers.UvicornWorker"], "asgi3"),
            ("", ["--preload"], "wsgi"),
        ],
    )
    def test_the_application_of_the_project_is_served(
        self, serve: Serve, project: Path, source: str, arguments: list[str], kind: str
    ) -> None:
        (project / "settings" / "base.py").write_text(source)
        server = serve(
            None,
            "--app-dir",
            str(project.parent),
            *arguments,
            environment={self.VARIABLE: "project.settings.base"},
        )
        assert server.get("/").text == kind

    def test_env_names_the_settings_too(self, serve: Serve, project: Path) -> None:
        server = serve(
            None, "--app-dir", str(project.parent), "--env", f"{self.VARIABLE}=project.settings"
        )
        assert server.get("/").text == "wsgi"
        [master] = server.titled("^rsgun: master")
        assert f"[{self.VARIABLE}=project.settings]" in master.title

    def test_asgi_is_served_where_there_is_no_wsgi(self, serve: Serve, project: Path) -> None:
        (project / "wsgi.py").unlink()
        server = serve(
            None,
            "--app-dir",
            str(project.parent),
            environment={self.VARIABLE: "project.settings.base"},
        )
        assert server.get("/").text == "asgi3"

    def test_a_named_application_comes_first(self, serve: Serve, project: Path) -> None:
        server = serve(
            "kinds:asgi3",
            "--app-dir",
            str(project.parent),
            environment={self.VARIABLE: "project.settings"},
        )
        assert server.get("/").text == "asgi3"

    @pytest.mark.parametrize(
        ("settings", "source", "code", "said"),
        [
            (
                "nowhere.settings",
                "",
                3,
                [
                    'DJANGO_SETTINGS_MODULE names "nowhere.settings": there is no module',
                    "--app-dir",
                ],
            ),
            ("project.settings.base", "1 / 0", 3, ["ZeroDivisionError", "project.settings.base"]),
            (
                "project.settings.base",
                "WSGI_APPLICATION = 'wsgi'",
                4,
                ["WSGI_APPLICATION of the settings", "'wsgi'", '"project.wsgi.application"'],
            ),
            (
                "other",
                "",
                3,
                [
                    'DJANGO_SETTINGS_MODULE names "other"',
                    "no ASGI_APPLICATION or WSGI_APPLICATION",
                    "no module wsgi or asgi",
                    "name the application",
                ],
            ),
        ],
    )
    def test_errors(
        self, run: Run, project: Path, settings: str, source: str, code: int, said: list[str]
    ) -> None:
        (project / "settings" / "base.py").write_text(source)
        (project.parent / "other.py").write_text("")
        result = run(None, "--app-dir", str(project.parent), environment={self.VARIABLE: settings})
        assert result.returncode == code, result.stderr
        for text in said:
            assert text in result.stderr
