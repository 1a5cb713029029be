"""The ASGI scope of an HTTP request: every key, with the type that the spec gives it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.frames import HANDSHAKE
from harness.marks import differs, rsgun_only
from harness.server import Server

Serve = Callable[..., Server]


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("scope:app")


def scope_of(server: Server, path: str = "/", **more: Any) -> dict[str, Any]:
    with server.connect() as connection:
        response = connection.get(path, **more)
    assert response.status == 200
    return ast.literal_eval(response.text)


def test_all_keys_of_the_specification_and_no_others(server: Server) -> None:
    scope = scope_of(server)
    assert set(scope) == {
        "type",
        "asgi",
        "http_version",
        "method",
        "scheme",
        "path",
        "raw_path",
        "query_string",
        "root_path",
        "headers",
        "client",
        "server",
        "state",
    } | ({"extensions"} & set(scope))


def test_scope_is_a_plain_dict(server: Server) -> None:
    with server.connect() as connection:
        assert connection.get("/").header("x-dict") == "1"


def test_types(server: Server) -> None:
    types = {key: type(value) for key, value in scope_of(server, "/a?b").items()}
    types.pop("extensions", None)
    assert types == {
        "type": str,
        "asgi": dict,
        "http_version": str,
        "method": str,
        "scheme": str,
        "path": str,
        "raw_path": bytes,
        "query_string": bytes,
        "root_path": str,
        "headers": list,
        "client": tuple,
        "server": tuple,
        "state": dict,
    }


def test_type_is_http(server: Server) -> None:
    assert scope_of(server)["type"] == "http"


def test_asgi_versions(server: Server) -> None:
    asgi = scope_of(server)["asgi"]
    assert asgi["version"] == "3.0"
    assert tuple(map(int, asgi["spec_version"].split("."))) >= (2, 3)


@rsgun_only
def test_asgi_spec_version(server: Server) -> None:
    assert scope_of(server)["asgi"]["spec_version"] == "2.5"


@differs("uvicorn", "says 2.3")
def test_asgi_spec_version_is_the_one_with_errors_from_send(server: Server) -> None:
    """From 2.4 on an application may rely on OSError from send()."""
    spec = scope_of(server)["asgi"]["spec_version"]
    assert tuple(map(int, spec.split("."))) >= (2, 4)


@rsgun_only
def test_asgi_spec_version_where_starlette_serves(
    serve: Serve, module: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Requests have the one with which its streams listen for the end of the connection."""
    module(
        "main",
        """
import starlette.responses

async def app(scope, receive, send):
    assert scope["type"] != "lifespan"
    print(scope["type"], scope["asgi"]["spec_version"], flush=True)
    await starlette.responses.Response()(scope, receive, send)
""",
    )
    server = serve("main:app", "--app-dir", str(tmp_path))
    assert server.get("/").status == 200
    with server.connect() as connection:
        assert connection.get("/", headers=HANDSHAKE).status == 200
    server.wait_for_line("^http 2.3$")
    server.wait_for_line("^websocket 2.5$")


def test_extensions_is_a_dict_of_dicts(server: Server) -> None:
    extensions = scope_of(server).get("extensions", {})
    assert isinstance(extensions, dict)
    assert all(isinstance(value, dict) for value in extensions.values())


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_http_version(server: Server, version: str) -> None:
    assert scope_of(server, version=version)["http_version"] == version


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_method(server: Server, method: str) -> None:
    assert scope_of(server, method=method)["method"] == method


@differs("uvicorn", "httptools knows only some methods")
def test_unusual_method(server: Server) -> None:
    assert scope_of(server, method="FROBNICATE")["method"] == "FROBNICATE"


@differs("uvicorn", "httptools knows only some methods, in capital letters")
@pytest.mark.parametrize(("sent", "told"), [("get", "GET"), ("Frobnicate", "FROBNICATE")])
def test_method_is_in_capital_letters(server: Server, sent: str, told: str) -> None:
    assert scope_of(server, method=sent)["method"] == told


def test_scheme(server: Server) -> None:
    assert scope_of(server)["scheme"] == "http"


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query_string"),
    [
        ("/", "/", b"/", b""),
        ("/a/b", "/a/b", b"/a/b", b""),
        ("/a?b=c", "/a", b"/a", b"b=c"),
        ("/a?", "/a", b"/a", b""),
        ("/a?b?c=/d", "/a", b"/a", b"b?c=/d"),
        ("/%41%20b", "/A b", b"/%41%20b", b""),
        ("/a%2Fb", "/a/b", b"/a%2Fb", b""),
        ("/caf%C3%A9", "/café", b"/caf%C3%A9", b""),
        ("/%E2%98%83?%E2%98%83=%41", "/☃", b"/%E2%98%83", b"%E2%98%83=%41"),
        ("/100%", "/100%", b"/100%", b""),
        ("/%zz", "/%zz", b"/%zz", b""),
        ("/a+b", "/a+b", b"/a+b", b""),
        ("//double//slash", "//double//slash", b"//double//slash", b""),
        ("/a/../b/./c", "/a/../b/./c", b"/a/../b/./c", b""),
        ("/semi;colon=1", "/semi;colon=1", b"/semi;colon=1", b""),
        ("/%00", "/\0", b"/%00", b""),
        ("/a%3Fb", "/a?b", b"/a%3Fb", b""),
        ("/?x=1&x=2&y=%26", "/", b"/", b"x=1&x=2&y=%26"),
    ],
)
def test_path_is_decoded_and_raw_path_is_not(
    server: Server, target: str, path: str, raw_path: bytes, query_string: bytes
) -> None:
    scope = scope_of(server, target)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (
        path,
        raw_path,
        query_string,
    )


def test_path_that_is_not_utf8_does_no_harm(server: Server) -> None:
    with server.connect() as connection:
        response = connection.get("/%ff%fe")
    assert response.status in (200, 400)
    if response.status == 200:
        scope = ast.literal_eval(response.text)
        assert scope["raw_path"] == b"/%ff%fe"
        assert isinstance(scope["path"], str)


def test_absolute_form_gives_the_path(server: Server) -> None:
    scope = scope_of(server, "http://testserver/a/b?c=d")
    assert (scope["path"], scope["query_string"]) == ("/a/b", b"c=d")


def test_host_of_an_absolute_form_is_a_header(server: Server) -> None:
    """Also of HTTP/1.0, which needs none, and beside headers whose order counts."""
    with server.connect() as connection:
        head = b"GET http://o/ HTTP/1.0\r\nX-A: 1\r\nX-B: 2\r\nX-A: 3\r\n\r\n"
        connection.send(head)
        headers = ast.literal_eval(connection.response().text)["headers"]
    assert [tuple(pair) for pair in headers] == [
        (b"x-a", b"1"),
        (b"x-b", b"2"),
        (b"x-a", b"3"),
        (b"host", b"o"),
    ]


def test_headers_keep_order_and_duplicates_with_lower_case_names(server: Server) -> None:
    sent = [
        ("Host", "example"),
        ("X-Second", "2"),
        ("x-first", "1"),
        ("X-SECOND", "two"),
        ("Cookie", "a=1"),
        ("cookie", "b=2"),
        ("Accept", "*/*"),
    ]
    headers = scope_of(server, headers=sent)["headers"]
    assert [tuple(pair) for pair in headers] == [
        (name.lower().encode(), value.encode()) for name, value in sent
    ]


def test_each_header_is_a_pair_of_bytes(server: Server) -> None:
    headers = scope_of(server, headers=[("A", "1"), ("B", "")])["headers"]
    assert headers
    for pair in headers:
        assert len(pair) == 2
        assert all(type(part) is bytes for part in pair)


def header_of(server: Server, value: str) -> bytes:
    scope = scope_of(server, headers=[("X-Tried", value)])
    return dict(map(tuple, scope["headers"]))[b"x-tried"]


def test_header_value_outside_ascii_is_untouched(server: Server) -> None:
    assert header_of(server, "caf\xe9") == b"caf\xe9"


@differs("uvicorn", "httptools keeps blanks at the end")
def test_blanks_around_a_header_value_are_not_part_of_it(server: Server) -> None:
    assert header_of(server, " \t a b \t ") == b"a b"


def test_many_request_headers(server: Server) -> None:
    sent = [("Host", "a"), *((f"X-Number-{number}", str(number)) for number in range(90))]
    headers = scope_of(server, headers=sent)["headers"]
    assert [tuple(pair) for pair in headers] == [
        (name.lower().encode(), value.encode()) for name, value in sent
    ]


def test_long_request_header(server: Server) -> None:
    value = "v" * 8000
    headers = scope_of(server, headers=[("X-Long", value)])["headers"]
    assert (b"x-long", value.encode()) in [tuple(pair) for pair in headers]


def test_client_and_server_over_tcp(server: Server) -> None:
    with server.connect() as connection:
        scope = ast.literal_eval(connection.get("/").text)
        assert tuple(scope["client"]) == connection.own_address
        assert tuple(scope["server"]) == server.address
    assert type(scope["client"][1]) is int
    assert type(scope["server"][1]) is int


def test_client_and_server_over_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = serve("scope:app", "--uds", path)
    with server.connect(path) as connection:
        scope = ast.literal_eval(connection.get("/").text)
    assert scope["client"] is None
    assert list(scope["server"]) == [path, None]


def test_client_and_server_over_ipv6(serve: Serve) -> None:
    server = serve("scope:app", "--host", "::1", "--port", "0")
    with server.connect() as connection:
        scope = ast.literal_eval(connection.get("/").text)
        assert tuple(scope["client"]) == connection.own_address
    assert tuple(scope["server"]) == ("::1", server.port)


def test_root_path_is_empty_by_default(server: Server) -> None:
    assert scope_of(server)["root_path"] == ""


def test_root_path(serve: Serve) -> None:
    """As uvicorn does it: the path that the application sees includes the root path."""
    scope = scope_of(serve("scope:app", "--root-path", "/api/v1"), "/users?x=1")
    assert scope["root_path"] == "/api/v1"
    assert scope["path"] == "/api/v1/users"
    assert scope["raw_path"] == b"/api/v1/users"


def test_state_comes_from_the_lifespan(server: Server) -> None:
    assert scope_of(server)["state"]["started"] == "yes"


def test_state_is_a_shallow_copy_for_each_request(serve: Serve) -> None:
    server = serve("scope:app")
    with server.connect() as connection:
        connection.get("/change-state")
        state = ast.literal_eval(connection.get("/").text)["state"]
    assert "own" not in state
    assert state["list"] == ["shared", "seen by all"]
