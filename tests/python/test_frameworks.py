"""Real frameworks through the real server, with httpx and curl."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from harness import processes
from harness.clients import client_for
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import APPS, ROOT
from harness.waiting import DEADLINE, eventually

Serve = Callable[..., Server]
MEGABYTE = 1 << 20
NUMBERS = "".join(f"{number};" for number in range(50))


class TestFastAPI:
    @pytest.fixture
    def client(self, shared: Serve) -> Iterator[httpx.Client]:
        self.server = shared("fastapi_app:app")
        with client_for(self.server) as client:
            yield client

    def test_first_session_of_a_newcomer(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "main.py").write_text(
            "from fastapi import FastAPI\n\napp = FastAPI()\n\n\n"
            "@app.get('/ping')\ndef test():\n    return {'message': 'pong'}\n"
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        root = server.get("/")
        assert (root.status, root.body) == (404, b'{"detail":"Not Found"}')
        pong = server.get("/ping")
        assert (pong.status, pong.body) == (200, b'{"message":"pong"}')
        server.wait_for_line(
            r'^INFO:     127\.0\.0\.1:\d+ - "GET / HTTP/1\.1" 404 Not Found$', stream="stdout"
        )
        server.wait_for_line(
            r'^INFO:     127\.0\.0\.1:\d+ - "GET /ping HTTP/1\.1" 200 OK$', stream="stdout"
        )

    @pytest.mark.parametrize("path", ["/ping", "/ping-sync"])
    def test_endpoints_of_both_kinds(self, client: httpx.Client, path: str) -> None:
        for _ in range(20):
            assert client.get(path).json() == {"message": "pong"}

    def test_sync_endpoints_keep_their_threads(self, client: httpx.Client) -> None:
        """anyio's threads belong to the task that the loop was started with."""
        threads = {client.get("/thread").json()["name"] for _ in range(30)}
        assert len(threads) <= 3

    def test_sync_endpoint_runs_in_a_thread(self, client: httpx.Client) -> None:
        assert client.get("/thread").json()["main"] is False

    def test_path_and_query(self, client: httpx.Client) -> None:
        assert client.get("/items/5?q=a b").json() == {"number": 5, "q": "a b"}
        assert client.get("/items/five").status_code == 422

    def test_json_body(self, client: httpx.Client) -> None:
        response = client.post("/orders", json={"name": "tea", "count": 2})
        assert (response.status_code, response.json()) == (201, {"name": "tea", "count": 2})

    def test_dependency_with_clean_up(self, client: httpx.Client) -> None:
        assert client.get("/dependency").json() == "open"
        eventually(lambda: "resource closed" in client.get("/done").json(), "the clean-up")

    def test_background_tasks(self, client: httpx.Client) -> None:
        assert client.get("/background").json() == "answered"
        eventually(
            lambda: {"sync task", "async task"} <= set(client.get("/done").json()), "the tasks"
        )

    def test_lifespan_state(self, client: httpx.Client) -> None:
        assert client.get("/state").json() == "kept"

    def test_lifespan(self, serve: Serve) -> None:
        server = serve("fastapi_app:app")
        server.wait_for_line("^fastapi started")
        server.stop()
        assert "fastapi stopped" in server.lines("stdout")

    @pytest.mark.parametrize("path", ["/stream", "/stream-sync"])
    def test_stream(self, client: httpx.Client, path: str) -> None:
        expected = "".join(f"{number}," for number in range(100))
        assert client.get(path).text == expected

    def test_stream_ends_when_the_client_leaves(self, client: httpx.Client) -> None:
        with client.stream("GET", "/endless") as response:
            next(response.iter_bytes())
        eventually(lambda: "endless ended" in client.get("/done").json(), "the generator's end")

    def test_upload_of_50_mb(self, client: httpx.Client) -> None:
        data = b"0123456789abcdef" * (50 * MEGABYTE // 16)
        response = client.post("/upload", files={"file": ("big.bin", data)})
        assert response.json() == {"name": "big.bin", "size": len(data)}

    def test_upload_in_chunks(self, client: httpx.Client) -> None:
        response = client.put("/raw", content=(b"x" * 10_000 for _ in range(500)))
        assert response.json() == 5_000_000

    def test_exception(self, client: httpx.Client) -> None:
        self.server.tolerates_tracebacks = True
        since = self.server.output.mark()
        response = client.get("/error")
        assert (response.status_code, response.text) == (500, "Internal Server Error")
        self.server.wait_for_line("RuntimeError: on purpose", since=since)
        assert self.server.get("/ping").status == 200
        assert self.server.tracebacks(since) == 1

    def test_http_exception(self, client: httpx.Client) -> None:
        response = client.get("/refused")
        assert (response.status_code, response.json()) == (403, {"detail": "not for you"})

    def test_cookies(self, client: httpx.Client) -> None:
        response = client.get("/cookies")
        assert [value.split(";")[0] for value in response.headers.get_list("set-cookie")] == [
            "a=1",
            "b=2",
        ]

    def test_is_disconnected(self, client: httpx.Client) -> None:
        assert client.get("/disconnected").json() is False

    def test_is_disconnected_after_the_client_has_left(self, client: httpx.Client) -> None:
        since = self.server.output.mark()
        with self.server.connect() as connection:
            connection.request("/wait-for-disconnect")
            self.server.wait_for_line("^waiting", since=since)
        eventually(lambda: "disconnected" in client.get("/done").json(), "the end")

    def test_context_variables_are_separate(self, client: httpx.Client) -> None:
        async def many() -> list[dict[str, str]]:
            async with httpx.AsyncClient(
                base_url=self.server.url, timeout=DEADLINE, trust_env=False
            ) as each:
                answers = await asyncio.gather(
                    *(each.get(f"/context/{number}") for number in range(40))
                )
            return [answer.json() for answer in answers]

        for number, answer in enumerate(asyncio.run(many())):
            assert answer == {"before": "nothing", "after": str(number), "thread": str(number)}
        # The same holds for requests that follow on one connection.
        for number in range(3):
            assert client.get(f"/context/{number}").json()["before"] == "nothing"

    def test_structured_concurrency(self, client: httpx.Client) -> None:
        assert client.get("/groups").json() == {
            "asyncio": [0, 1, 2, 3, 4],
            "anyio": [0, 1, 2, 3, 4],
            "cancelled": True,
            "library": "asyncio",
        }

    def test_timeout(self, client: httpx.Client) -> None:
        assert client.get("/timeout").json() == "timed out"

    def test_request_runs_in_a_task(self, client: httpx.Client) -> None:
        assert client.get("/task").json() is True

    def test_documentation_pages(self, client: httpx.Client) -> None:
        assert client.get("/openapi.json").json()["openapi"].startswith("3.")
        assert "swagger" in client.get("/docs").text

    def test_head_and_options(self, client: httpx.Client) -> None:
        assert client.head("/ping").status_code == 405
        assert client.options("/ping").status_code == 405

    def test_root_path(self, serve: Serve) -> None:
        """A proxy that strips the prefix: the routes work, and the links have the prefix."""
        server = serve("fastapi_app:app", "--root-path", "/api")
        with client_for(server) as client:
            assert client.get("/ping").json() == {"message": "pong"}
            assert client.get("/openapi.json").json()["servers"] == [{"url": "/api"}]


class TestExample:
    """examples/fastapi as it is delivered."""

    @pytest.fixture
    def client(self, shared: Serve) -> Iterator[httpx.Client]:
        self.server = shared("main:app", "--app-dir", str(ROOT / "examples" / "fastapi"))
        with client_for(self.server) as client:
            yield client

    def test_ping(self, client: httpx.Client) -> None:
        assert client.get("/ping").json() == {"message": "pong"}
        assert client.get("/ping-async").json() == {"message": "pong"}

    def test_greetings(self, client: httpx.Client) -> None:
        response = client.get("/greetings/Ada", headers={"Accept-Language": "fr-CH, fr;q=0.9"})
        assert response.json() == {"text": "Bonjour Ada", "language": "fr"}
        assert client.get("/greetings/Ada", headers={"Accept-Language": "xx"}).status_code == 404

    def test_order(self, client: httpx.Client) -> None:
        since = self.server.output.mark()
        response = client.post("/orders", json={"name": "tea", "quantity": 3})
        assert (response.status_code, response.json()) == (202, {"status": "accepted"})
        self.server.wait_for_line("^receipt: 3 x tea", stream="stdout", since=since)
        assert client.post("/orders", json={"name": "", "quantity": 0}).status_code == 422

    def test_streams(self, client: httpx.Client) -> None:
        assert client.get("/numbers?count=2000").text.splitlines()[-1] == "1999"
        assert client.get("/tokens?prompt=Hello").text.endswith("data: [DONE]\n\n")

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    def test_upload_of_50_mb(self, client: httpx.Client, method: str) -> None:
        data = b"0123456789abcdef" * (50 * MEGABYTE // 16)
        expected = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if method == "POST":
            assert client.post("/upload", files={"file": data}).json() == expected
        else:
            assert client.put("/upload", content=data).json() == expected

    def test_worker(self, client: httpx.Client) -> None:
        pid = client.get("/worker").json()["pid"]
        assert pid in [process.pid for process in self.server.workers()]

    def test_broken(self, client: httpx.Client) -> None:
        self.server.tolerates_tracebacks = True
        assert client.get("/broken").status_code == 500
        assert self.server.get("/ping").status == 200

    @rsgun_only
    def test_four_workers(self, serve: Serve) -> None:
        server = serve("main:app", "--app-dir", str(ROOT / "examples" / "fastapi"), "-w", "4")
        server.wait_for_workers(4)
        assert server.get("/ping").body == b'{"message":"pong"}'


class TestStarlette:
    @pytest.fixture
    def client(self, shared: Serve) -> Iterator[httpx.Client]:
        self.server = shared("starlette_app:app")
        with client_for(self.server) as client:
            yield client

    def test_base_http_middleware(self, client: httpx.Client) -> None:
        response = client.get("/ping")
        assert (response.text, response.headers["x-stamp"]) == ("pong", "stamped")

    def test_body_behind_middleware(self, client: httpx.Client) -> None:
        data = bytes(range(256)) * 4000
        assert client.post("/echo", content=data).content == data

    def test_form(self, client: httpx.Client) -> None:
        assert client.post("/form", data={"a": "1", "b": "2"}).json() == {"a": "1", "b": "2"}

    def test_compression(self, client: httpx.Client) -> None:
        response = client.get("/big")
        assert response.headers["content-encoding"] == "gzip"
        assert response.text == "compress me " * 10_000

    def test_background_task(self, client: httpx.Client) -> None:
        assert client.get("/background").text == "answered"
        eventually(lambda: "later" in client.get("/finished").json(), "the task")

    def test_stream(self, client: httpx.Client) -> None:
        assert client.get("/stream").text == NUMBERS

    def test_stream_that_the_client_leaves(self, client: httpx.Client) -> None:
        for _ in range(5):
            with self.server.connect() as connection:
                connection.request("/big")
                connection.head()
        assert client.get("/ping").text == "pong"

    def test_files(self, client: httpx.Client) -> None:
        expected = (APPS / "lab.py").read_bytes()
        for path in ("/file", "/static/lab.py"):
            response = client.get(path)
            assert response.content == expected
            assert response.headers["etag"]
        again = client.get("/static/lab.py", headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        part = client.get("/file", headers={"Range": "bytes=0-9"})
        assert (part.status_code, part.content) == (206, expected[:10])
        assert client.head("/file").headers["content-length"] == str(len(expected))

    def test_redirect(self, client: httpx.Client) -> None:
        assert client.get("/redirect", follow_redirects=True).text == "pong"

    def test_url(self, client: httpx.Client) -> None:
        answer = client.get("/url?a=b").json()
        assert answer == {"url": f"{self.server.url}/url?a=b", "client": "127.0.0.1"}

    def test_exception_through_middleware(self, client: httpx.Client) -> None:
        self.server.tolerates_tracebacks = True
        assert client.get("/error").status_code == 500
        assert self.server.get("/ping").text == "pong"


class TestQuart:
    @pytest.fixture
    def client(self, shared: Serve) -> Iterator[httpx.Client]:
        self.server = shared("quart_app:app")
        with client_for(self.server) as client:
            yield client

    def test_requests(self, client: httpx.Client) -> None:
        assert client.get("/ping").json() == {"message": "pong"}
        assert client.get("/sync").text == "from a thread"
        assert client.post("/echo", content=b"x" * 100_000).content == b"x" * 100_000
        assert client.get("/stream").text == NUMBERS
        assert client.get("/missing-page").status_code == 404

    def test_lifespan(self, serve: Serve) -> None:
        server = serve("quart_app:app")
        server.wait_for_line("^quart started")
        server.stop()
        assert "quart stopped" in server.lines("stdout")

    def test_quick_stop_leaves_background_tasks_their_time(self, serve: Serve) -> None:
        """Which is 5 seconds of Quart's own."""
        server = serve("quart_app:app")
        assert server.get("/job").text == "begun"
        server.tolerates_tracebacks = True
        assert server.stop(signal.SIGINT) == 0
        assert "quart job ended" in server.lines("stdout")
        assert not [line for line in server.lines() if "was killed" in line]


class TestLitestar:
    @pytest.fixture
    def client(self, shared: Serve) -> Iterator[httpx.Client]:
        self.server = shared("litestar_app:app")
        with client_for(self.server) as client:
            yield client

    def test_requests(self, client: httpx.Client) -> None:
        assert client.get("/ping").json() == {"message": "pong"}
        assert client.get("/sync").text == "from a thread"
        order = {"name": "tea", "count": 2}
        assert client.post("/orders", json=order).json() == order
        assert client.post("/orders", json={"name": "tea"}).status_code == 400
        assert client.get("/stream").text == NUMBERS
        assert client.get("/missing").status_code == 404

    def test_lifespan(self, serve: Serve) -> None:
        server = serve("litestar_app:app")
        server.wait_for_line("^litestar started")
        server.stop()
        assert "litestar stopped" in server.lines("stdout")


def test_upload_of_50_mb_keeps_memory_flat(serve: Serve) -> None:
    server = serve("main:app", "--app-dir", str(ROOT / "examples" / "fastapi"))
    with client_for(server) as client:
        pid = client.get("/worker").json()["pid"]
        before = processes.status_field(pid, "VmHWM")
        response = client.put("/upload", content=(b"x" * MEGABYTE for _ in range(50)))
        assert response.json()["size"] == 50 * MEGABYTE
        growth = processes.status_field(pid, "VmHWM") - before
    assert growth < 16 * MEGABYTE, f"grew by {growth >> 10} kB"


@rsgun_only
@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11")
def test_preloaded_fastapi_shares_its_memory(serve: Serve) -> None:
    """What the workers have of their own is a fraction of what they use."""
    server = serve("fastapi_app:app", "--preload", "-w", "3")
    for worker in server.wait_for_workers(3):
        text = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
        sizes = {
            line.split(":")[0]: int(line.split()[1])
            for line in text.splitlines()
            if line.endswith("kB")
        }
        own = sizes["Private_Dirty"] + sizes["Private_Clean"]
        assert own < 0.5 * sizes["Rss"], sizes
