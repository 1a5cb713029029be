"""Event loops, and how requests become their tasks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nest_asyncio
import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import environment_for, supported

pytestmark = rsgun_only

Serve = Callable[..., Server]

APP = """
import asyncio
import contextvars

import sniffio

MARK = contextvars.ContextVar("MARK", default="unmarked")

OTHERS = []

class Mine(asyncio.Task):
    pass

def factory(loop, coroutine, **more):
    return Mine(coroutine, loop=loop, **more)

def make():
    loop = asyncio.new_event_loop()
    loop.is_mine = True
    return loop

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        MARK.set("lifespan")
        if {has_factory}:
            asyncio.get_running_loop().set_task_factory(factory)
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    mark = MARK.get()
    MARK.set(scope["path"])
    answer = {{
        "mark": mark,
        "library": sniffio.current_async_library(),
        "loop": type(loop).__module__,
        "mine": getattr(loop, "is_mine", False),
        "task": type(task).__name__,
        "eager": task in getattr(asyncio.tasks, "_eager_tasks", ()),
    }}
    if scope["path"] == "/waits":
        OTHERS.append(asyncio.get_running_loop().create_future())
        print("waits", flush=True)
        await OTHERS[-1]
    for other in OTHERS:
        other.set_result(None)
    OTHERS.clear()
    await asyncio.sleep(0)
    assert MARK.get() == scope["path"]
    async with asyncio.TaskGroup() as group, asyncio.timeout(30):
        group.create_task(asyncio.sleep(0.001))
    assert asyncio.current_task() is task
    await asyncio.to_thread(len, "abc")
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": repr(answer).encode()}})
"""


@pytest.fixture
def ask(serve: Serve, tmp_path: Path) -> Callable[..., dict[str, object]]:
    """What a request finds in a server with these arguments."""

    def begin(
        *arguments: str, version: tuple[int, int] | None = None, has_factory: bool = False
    ) -> dict[str, object]:
        (tmp_path / "main.py").write_text(APP.format(has_factory=has_factory))
        more = {"python": environment_for(version)} if version else {}
        server = serve("main:app", "--app-dir", str(tmp_path), *arguments, **more)
        answers = {server.get().text for _ in range(5)}
        with server.connect() as waiting:
            # Both are under way at the same time.
            waiting.request("/waits")
            server.wait_for_line("^waits$")
            answers.add(server.get("/").text)
            answers.add(waiting.response().text)
        assert server.stop() == 0
        assert len(answers) == 1
        return eval(answers.pop())

    return begin


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("asyncio", "asyncio"),
        ("uvloop", "uvloop"),
        ("rloop", "rloop"),
        ("rloop:new_event_loop", "rloop"),
        ("auto", "uvloop"),
    ],
)
def test_loops(ask: Callable[..., dict[str, object]], name: str, package: str) -> None:
    assert str(ask("--loop", name)["loop"]).partition(".")[0] == package


def test_a_loop_of_the_application(ask: Callable[..., dict[str, object]]) -> None:
    assert ask("--loop", "main:make")["mine"] is True


@pytest.mark.parametrize(
    ("factory", "returned"),
    [("lambda: 5", "returned 5"), ("asyncio.get_event_loop_policy", "returned <")],
)
def test_a_factory_that_makes_no_loop(
    run: Callable[..., object],
    program: Callable[..., Server],
    tmp_path: Path,
    factory: str,
    returned: str,
) -> None:
    source = APP.format(has_factory=False) + f"\nwrong = {factory}\n"
    (tmp_path / "main.py").write_text(source)
    finished = run("main:app", "--app-dir", str(tmp_path), "--loop", "main:wrong")
    assert finished.returncode == 3
    assert "--loop main:wrong: " in finished.stderr and returned in finished.stderr
    assert "Traceback" not in finished.stderr
    call = '\nif __name__ == "__main__":\n    import rsgun\n    rsgun.run(app, loop="main:wrong")\n'
    alone = program(source + call, wait=False)
    assert alone.wait() == 3
    said = "\n".join(alone.lines("stderr"))
    assert "--loop main:wrong: " in said and returned in said and "Traceback" not in said


def test_a_loop_that_is_not_installed(run: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP.format(has_factory=False))
    (tmp_path / "rloop.py").write_text("raise ImportError('no rloop here')")
    finished = run("main:app", "--app-dir", str(tmp_path), "--loop", "rloop")
    assert finished.returncode == 3
    assert "pip install rloop" in finished.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", supported(), ids=lambda version: f"{version[0]}.{version[1]}")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_requests_begin_eagerly_where_python_can(
    ask: Callable[..., dict[str, object]], version: tuple[int, int], loop: str
) -> None:
    found = ask("--loop", loop, version=version)
    assert (found["task"], found["eager"]) == ("Task", version >= (3, 12))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", supported(), ids=lambda version: f"{version[0]}.{version[1]}")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("has_factory", [False, True], ids=["", "factory"])
def test_each_request_has_a_context_of_its_own(
    ask: Callable[..., dict[str, object]], version: tuple[int, int], loop: str, has_factory: bool
) -> None:
    found = ask("--loop", loop, version=version, has_factory=has_factory)
    assert (found["mark"], found["library"]) == ("unmarked", "asyncio")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", supported(), ids=lambda version: f"{version[0]}.{version[1]}")
def test_a_task_factory_is_honoured(
    ask: Callable[..., dict[str, object]], version: tuple[int, int]
) -> None:
    found = ask(version=version, has_factory=True)
    assert (found["task"], found["eager"]) == ("Mine", False)


NESTED = """
import asyncio
import os
import nest_asyncio

nest_asyncio.apply()

async def released():
    while not os.path.exists("released"):
        await asyncio.sleep(0.02)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("only http")
    if scope["path"] == "/nested":
        print("nested", flush=True)
        asyncio.get_running_loop().run_until_complete(released())
    body = scope["path"].encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", supported(), ids=lambda version: f"{version[0]}.{version[1]}")
def test_an_application_may_run_the_loop_from_inside(
    serve: Serve, tmp_path: Path, version: tuple[int, int]
) -> None:
    """Other connections have something to do meanwhile."""
    (tmp_path / "main.py").write_text(NESTED)
    shutil.copy(str(nest_asyncio.__file__), tmp_path)
    arguments = ("--app-dir", str(tmp_path), "--loop", "asyncio")
    server = serve("main:app", *arguments, python=environment_for(version))
    with server.connections(2) as (first, second):
        assert second.get("/before").body == b"/before"
        first.request("/nested")
        server.wait_for_line("^nested$")
        second.request("/meanwhile")
        with server.connect() as third:
            third.request("/too")
            (tmp_path / "released").touch()
            assert third.response().body == b"/too"
        assert first.response().body == b"/nested"
        assert second.response().body == b"/meanwhile"
        assert first.get("/afterwards").body == b"/afterwards"
