"""What applications log, through the loggers of servers and through their own."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import RUNNING, Server
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]

APP = """
import logging
import logging.config
import sys
{setup}
logging.getLogger("shop.start").info("imported")

def log(name, level):
    try:
        raise ValueError("on purpose")
    except ValueError:
        logger = logging if name == "module" else logging.getLogger(name)
        say = getattr(logger, level.lower())
        say("%s says %s", name, level, exc_info=name == "trace")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    name, _, level = scope["path"][1:].partition("/")
    if name == "mark":
        print("marked", level, flush=True)
        print("marked", level, file=sys.stderr, flush=True)
    else:
        log(name, level)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"ok"}})

if __name__ == "__main__":
    import rsgun
    rsgun.run(app, port=0)
"""

MARKS = itertools.count(1)


@pytest.fixture
def app(module: Callable[[str, str], Path]) -> Callable[[str], str]:
    """Writes the application with what sets up its logging; returns its directory."""
    return lambda setup="": str(module("main", APP.format(setup=setup)).parent)


def said(server: Server, name: str, level: str) -> list[str]:
    """The lines of output that a record has led to, on both streams."""
    since = server.output.mark()
    assert server.get(f"/{name}/{level}").text == "ok"
    mark(server)
    return [line for line in server.lines(None, since) if f"{name} says {level}" in line]


def mark(server: Server) -> None:
    """Waits for a line on each stream that the application writes after all its records."""
    number = next(MARKS)
    server.get(f"/mark/{number}")
    for stream in ("stdout", "stderr"):
        server.wait_for_line(f"^marked {number}$", stream=stream)


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_everybody_is_heard(serve: Serve, app: Callable[..., str], more: tuple[str, ...]) -> None:
    server = serve("main:app", "--app-dir", app(), *more)
    server.wait_for_line("^INFO:     imported$", stream="stderr")
    names = ["uvicorn", "uvicorn.error", "uvicorn.asgi", "gunicorn.error", "rsgun", "shop", "root"]
    for name in names:
        assert said(server, name, "INFO") == [f"INFO:     {name} says INFO"]
        assert said(server, name, "WARNING") == [f"WARNING:  {name} says WARNING"]
        assert said(server, name, "DEBUG") == []
    assert said(server, "shop", "CRITICAL") == ["ERROR:    shop says CRITICAL"]
    for name in ("uvicorn.access", "gunicorn.access", "rsgun.access"):
        since = server.output.mark()
        server.get(f"/{name}/INFO")
        server.wait_for_line(f"^INFO:     {name} says INFO$", stream="stdout", since=since)


LIBRARY = """
import logging

def log(name, level):
    logging.getLogger(name).log(getattr(logging, level), "%s says %s", name, level)
"""
CALLS = """
import os
import services
for place in {installed!r}, {debian!r}:
    sys.path.insert(0, place)
    import library
    for name in ("library", "httpx", "main", "main.deep", "mainly", "services.mail"):
        for level in ("INFO", "WARNING"):
            library.log(name, level)
    del sys.modules["library"]
standard = {{}}
exec(compile({source!r}, os.path.join(os.path.dirname(os.__file__), "x.py"), "exec"), standard)
standard["log"]("asyncio", "INFO")
standard["log"]("asyncio", "ERROR")
"""


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_libraries_are_heard_when_they_warn(
    serve: Serve, app: Callable[..., str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    """But for what they say through a logger of the application, in whose name they do."""
    places = [tmp_path / "lib" / name for name in ("site-packages", "dist-packages")]
    for place in places:
        place.mkdir(parents=True)
        (place / "library.py").write_text(LIBRARY)
    folder = app(CALLS.format(installed=str(places[0]), debian=str(places[1]), source=LIBRARY))
    (Path(folder) / "services.py").touch()
    server = serve("main:app", "--app-dir", folder, *more)
    server.wait_for_line("^INFO:     imported$", stream="stderr")
    each = [
        "WARNING:  library says WARNING",
        "WARNING:  httpx says WARNING",
        "INFO:     main says INFO",
        "WARNING:  main says WARNING",
        "INFO:     main.deep says INFO",
        "WARNING:  main.deep says WARNING",
        "WARNING:  mainly says WARNING",
        "INFO:     services.mail says INFO",
        "WARNING:  services.mail says WARNING",
    ]
    lines = [line for line in server.lines("stderr") if " says " in line]
    assert lines == [*each, *each, "ERROR:    asyncio says ERROR"]


@pytest.mark.parametrize("target", ["main:app", "main.py:app"])
def test_an_installed_application_is_heard(serve: Serve, tmp_path: Path, target: str) -> None:
    place = tmp_path / "site-packages"
    place.mkdir()
    (place / "main.py").write_text(APP.format(setup=""))
    server = serve(target, "--app-dir", str(place))
    assert said(server, "main.views", "INFO") == ["INFO:     main.views says INFO"]
    assert said(server, "shop", "INFO") == ["INFO:     shop says INFO"]


def test_an_installed_program_is_heard(program: Callable[..., Server], tmp_path: Path) -> None:
    place = tmp_path / "site-packages"
    place.mkdir()
    main = "\ndef main():\n    import rsgun\n    rsgun.run(app, port=0)\n"
    (place / "tool.py").write_text(APP.format(setup="") + main)
    server = program(f"import sys\nsys.path.insert(0, {str(place)!r})\nimport tool\ntool.main()\n")
    assert said(server, "shop", "INFO") == ["INFO:     shop says INFO"]


def test_the_level_of_the_server_holds(
    serve: Serve, app: Callable[..., str], tmp_path: Path
) -> None:
    socket = str(tmp_path / "app.sock")
    quiet = serve(
        "main:app", "--app-dir", app(), "--log-level", "warning", "--uds", socket, wait=False
    )
    eventually(Path(socket).exists, "it listens")
    for level in ("INFO", "WARNING"):
        for name in ("gunicorn.error", "shop", "uvicorn"):
            assert quiet.get(f"/{name}/{level}", address=socket).text == "ok"
    quiet.wait_for_line("uvicorn says WARNING")
    expected = [f"WARNING:  {name} says WARNING" for name in ("gunicorn.error", "shop", "uvicorn")]
    assert quiet.lines() == expected
    server = serve("main:app", "--app-dir", app(), "--log-level", "debug")
    assert said(server, "gunicorn.error", "DEBUG") == ["DEBUG:    gunicorn.error says DEBUG"]
    assert said(server, "shop", "DEBUG") == [], "debugging a server is not debugging libraries"


def test_no_access_log_is_none_for_the_application_either(
    serve: Serve, app: Callable[..., str]
) -> None:
    server = serve("main:app", "--app-dir", app(), "--no-access-log")
    assert said(server, "uvicorn.access", "INFO") == []
    assert said(server, "uvicorn.access", "WARNING") == []


@pytest.mark.parametrize("setup", ["", "logging.warning('at once')"], ids=["later", "at once"])
def test_the_functions_of_the_module_set_up_nothing(
    serve: Serve, app: Callable[..., str], setup: str
) -> None:
    """They call `basicConfig()`, but nobody has asked for it."""
    server = serve("main:app", "--app-dir", app(setup))
    if setup:
        server.wait_for_line("^WARNING:  at once$", stream="stderr")
    for _ in range(2):
        for level in ("INFO", "WARNING"):
            line = f"{level}:".ljust(10) + f"module says {level}"
            assert said(server, "module", level) == [line]
            assert said(server, "shop", "INFO") == ["INFO:     shop says INFO"]


def test_one_may_set_up_logging_after_them(serve: Serve, app: Callable[..., str]) -> None:
    server = serve("main:app", "--app-dir", app("logging.warning('at once')" + BASIC_INFO))
    server.wait_for_line("^WARNING:  at once$", stream="stderr")
    assert said(server, "shop", "INFO") == ["mine: shop says INFO"]
    assert said(server, "module", "INFO") == ["mine: module says INFO"]


BASIC = """
import sys
logging.basicConfig(stream=sys.stderr, format="mine: %(message)s", level={level})
"""
BASIC_INFO = BASIC.format(level="logging.INFO")


@pytest.mark.parametrize(
    ("level", "heard"), [("logging.INFO", True), ("None", False)], ids=["info", "default"]
)
def test_an_application_that_sets_up_logging_is_in_charge(
    serve: Serve, app: Callable[..., str], level: str, heard: bool
) -> None:
    server = serve("main:app", "--app-dir", app(BASIC.format(level=level)))
    expected = ["mine: shop says INFO"] if heard else []
    assert said(server, "shop", "INFO") == expected
    assert said(server, "shop", "WARNING") == ["mine: shop says WARNING"]
    assert said(server, "uvicorn.error", "INFO") == ["INFO:     uvicorn.error says INFO"]


def test_a_dictionary_may_configure_everything(serve: Serve, app: Callable[..., str]) -> None:
    setup = """
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": True,
    "formatters": {"mine": {"format": "mine: %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"handlers": ["out"]},
    "loggers": {
        "shop": {"level": "DEBUG"},
        "uvicorn": {"handlers": ["out"], "propagate": False},
    },
})
"""
    server = serve("main:app", "--app-dir", app(setup))
    for name, level, lines in [
        ("shop", "DEBUG", ["mine: shop says DEBUG"]),
        ("uvicorn", "INFO", ["mine: uvicorn says INFO"]),
        ("uvicorn.error", "INFO", ["mine: uvicorn.error says INFO"]),
        ("other", "INFO", []),
        ("other", "WARNING", ["mine: other says WARNING"]),
        # Disabled, as it says.
        ("gunicorn.error", "INFO", []),
    ]:
        since = server.output.mark()
        server.get(f"/{name}/{level}")
        mark(server)
        found = [x for x in server.lines(None, since) if f"{name} says {level}" in x]
        assert found == lines


def test_handlers_of_its_own_loggers_are_enough(serve: Serve, app: Callable[..., str]) -> None:
    setup = """
shop = logging.getLogger("shop")
shop.setLevel(logging.DEBUG)
shop.addHandler(logging.StreamHandler())
copied = logging.getLogger("copied")
copied.handlers = logging.getLogger("gunicorn.error").handlers
copied.setLevel(logging.getLogger("gunicorn.error").level)
copied.propagate = False
"""
    server = serve("main:app", "--app-dir", app(setup))
    assert said(server, "shop", "INFO") == ["shop says INFO"]
    assert said(server, "copied", "INFO") == ["INFO:     copied says INFO"]


def test_records_go_to_the_files_and_follow_them(
    serve: Serve, app: Callable[..., str], tmp_path: Path
) -> None:
    log, access = tmp_path / "error.log", tmp_path / "access.log"
    server = serve(
        "main:app",
        *("--app-dir", app(), "--port", "0", "--error-logfile", str(log)),
        *("--access-logfile", str(access)),
        wait=False,
    )
    found = eventually(lambda: log.exists() and RUNNING.search(log.read_text()), "it runs")
    address = ("127.0.0.1", int(found["port"]))
    for path in (log, access):
        path.rename(path.with_suffix(".1"))
    server.send_signal(signal.SIGUSR1)

    def both_are_new() -> bool:
        server.get("/gunicorn.error/INFO", address=address)
        server.get("/gunicorn.access/INFO", address=address)
        return (log.exists() and "gunicorn.error says INFO" in log.read_text()) and (
            access.exists() and "gunicorn.access says INFO" in access.read_text()
        )

    eventually(both_are_new, "both files are written anew")
    assert not [line for line in server.lines() if "says" in line]


def test_a_traceback_is_complete(serve: Serve, app: Callable[..., str]) -> None:
    server = serve("main:app", "--app-dir", app())
    server.tolerates_tracebacks = True
    server.get("/trace/ERROR")
    server.wait_for_line("^ERROR:    trace says ERROR$")
    server.wait_for_line("^ValueError: on purpose$")


def test_a_program_that_serves_an_object_hears_the_same(
    program: Callable[..., Server],
) -> None:
    server = program(APP.format(setup=""))
    assert said(server, "uvicorn.error", "INFO") == ["INFO:     uvicorn.error says INFO"]
    assert said(server, "shop", "INFO") == ["INFO:     shop says INFO"]
