"""requests against httpbin: what people try first, in small form.

`make conformance` runs all tests of requests against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import requests
from harness.server import Server
from harness.waiting import DEADLINE
from requests.auth import HTTPBasicAuth, HTTPDigestAuth

Serve = Callable[..., Server]


class Client(requests.Session):
    """A session that knows where httpbin is."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.trust_env = False
        self.is_wsgi = True
        self.url = url

    def request(self, method: str, url: str, **more: object) -> requests.Response:
        """Sends a request to a path."""
        if url.startswith("/"):
            url = self.url + url
        return super().request(method, url, **{"timeout": DEADLINE, **more})  # type: ignore[arg-type]


@pytest.fixture(params=["httpbin:app", "httpbin_app:app"], ids=["wsgi", "adapter"])
def client(request: pytest.FixtureRequest, shared: Serve) -> Iterator[Client]:
    """httpbin as the WSGI application that it is, and behind asgiref's adapter."""
    with Client(shared(request.param).url) as client:
        client.is_wsgi = request.param == "httpbin:app"
        yield client


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(client: Client, method: str) -> None:
    answer = client.request(method, f"/{method.lower()}", params={"a": ["1", "ü &="]})
    assert answer.json()["args"] == {"a": ["1", "ü &="]}
    assert answer.json()["url"].startswith(client.url)


def test_head_and_options(client: Client) -> None:
    answer = client.head("/get")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
    assert "POST" in client.options("/post").headers["allow"]


@pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 418, 429, 500, 503])
def test_statuses(client: Client, status: int) -> None:
    assert client.get(f"/status/{status}").status_code == status
    # The connection is still good.
    assert client.get("/get").status_code == 200


def test_bodies(client: Client) -> None:
    assert client.post("/post", json={"text": "grün"}).json()["json"] == {"text": "grün"}
    assert client.post("/post", data={"a": "1"}).json()["form"] == {"a": "1"}
    found = client.post("/post", files={"file": ("name", b"content")}).json()
    assert found["files"] == {"file": "content"}
    big = "x" * 2_000_000
    assert client.post("/post", data=big).json()["data"] == big


def test_chunked_upload(client: Client) -> None:
    chunks = (b"%d," % number for number in range(1000))
    answer = client.post("/post", data=chunks)
    if client.is_wsgi:
        assert answer.json()["data"] == "".join(f"{number}," for number in range(1000))
    else:
        # The adapter does not say that the input ends (`wsgi.input_terminated`), and
        # httpbin refuses it then.
        assert answer.status_code == 501
    assert client.get("/get").status_code == 200


@pytest.mark.parametrize(
    ("name", "said"), [("gzip", "gzipped"), ("deflate", "deflated"), ("brotli", "brotli")]
)
def test_compression(client: Client, name: str, said: str) -> None:
    answer = client.get(f"/{name}")
    assert answer.headers["content-encoding"] == {"brotli": "br"}.get(name, name)
    assert answer.json()[said] is True


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_redirects(client: Client, kind: str) -> None:
    answer = client.get(f"/{kind}-redirect/4")
    assert answer.url == f"{client.url}/get"
    assert [step.status_code for step in answer.history] == [302] * 4


def test_cookies(client: Client) -> None:
    assert client.get("/cookies/set?a=1&b=2").json() == {"cookies": {"a": "1", "b": "2"}}
    assert client.get("/cookies/delete?a").json() == {"cookies": {"b": "2"}}


def test_authentication(client: Client) -> None:
    assert client.get("/basic-auth/me/secret").status_code == 401
    answer = client.get("/basic-auth/me/secret", auth=HTTPBasicAuth("me", "secret"))
    assert answer.json() == {"authenticated": True, "user": "me"}
    for algorithm in ("MD5", "SHA-256"):
        auth = HTTPDigestAuth("me", "secret")
        answer = client.get(f"/digest-auth/auth/me/secret/{algorithm}", auth=auth)
        assert answer.status_code == 200


def test_ranges_and_conditions(client: Client) -> None:
    whole = client.get("/range/1000")
    part = client.get("/range/1000", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert client.get("/cache", headers={"If-None-Match": "x"}).status_code == 304
    assert client.get("/etag/mark", headers={"If-None-Match": "mark"}).status_code == 304
    assert client.get("/etag/mark", headers={"If-Match": "other"}).status_code == 412


def test_streams(client: Client) -> None:
    with client.get("/stream/50", stream=True) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [line["id"] for line in lines] == list(range(50))
    answer = client.get("/stream-bytes/100000?chunk_size=1000&seed=1")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert len(answer.content) == 100_000
    assert len(client.get("/drip?numbytes=20&duration=0.2&delay=0").content) == 20
    assert len(client.get("/bytes/65537?seed=1").content) == 65_537


def test_headers(client: Client) -> None:
    found = client.get("/headers", headers={"X-One": "1", "X-Empty": ""}).json()["headers"]
    assert found["X-One"] == "1"
    assert found["Host"] == client.url.removeprefix("http://")
    answer = client.get("/response-headers?X-Two=a&X-Two=b")
    assert answer.headers["x-two"] == "a, b"
    assert client.get("/ip").json() == {"origin": "127.0.0.1"}
    assert client.get("/user-agent").json()["user-agent"].startswith("python-requests/")
