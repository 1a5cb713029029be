"""WSGI (PEP 3333): environ, input, start_response, iterables, and files."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually
from harness.wire import Connection, Response, Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]
MEGABYTE = 1 << 20
BIG = bytes(range(256)) * 4096 * 8


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("wsgi_lab:app")


@pytest.fixture
def connection(server: Server) -> Connection:
    with server.connect() as connection:
        yield connection


@pytest.fixture
def bare(shared: Serve) -> Server:
    """Without the checks of wsgiref, which would find the mistakes first."""
    server = shared("wsgi_lab:bare")
    server.tolerates_tracebacks = True
    return server


def environ(connection: Connection, path: str = "/env", **more: Any) -> dict[str, Any]:
    return json.loads(connection.get(path, **more).body)


def seen(server: Server, event: str) -> None:
    """Waits until the application has noted an event."""
    eventually(lambda: event in json.loads(server.get("/seen").body), event)


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


CHUNKED = [("Transfer-Encoding", "chunked")]


class TestEnviron:
    def test_method_is_as_it_was_sent(self, connection: Connection) -> None:
        """Methods are case-sensitive, and PEP 3333 makes no capital letters of them."""
        found = environ(connection, "/env", method="Frobnicate")
        assert found["REQUEST_METHOD"] == "Frobnicate"

    def test_it_has_everything_that_the_pep_wants(self, connection: Connection) -> None:
        found = environ(connection, "/env?a=b%20c", headers=[("X-Custom", "1")])
        host, port = connection.socket.getpeername()
        assert found["REQUEST_METHOD"] == "GET"
        assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("", "/env")
        assert found["QUERY_STRING"] == "a=b%20c"
        assert found["RAW_URI"] == found["REQUEST_URI"] == "/env?a=b%20c"
        assert (found["SERVER_NAME"], found["SERVER_PORT"]) == (host, str(port))
        assert (found["REMOTE_ADDR"], found["REMOTE_PORT"]) == (
            connection.own_address[0],
            str(connection.own_address[1]),
        )
        assert found["SERVER_PROTOCOL"] == "HTTP/1.1"
        assert found["SERVER_SOFTWARE"].startswith("rsgun/")
        assert found["HTTP_X_CUSTOM"] == "1"
        assert found["wsgi.version"] == [1, 0]
        assert found["wsgi.url_scheme"] == "http"
        assert found["wsgi.multithread"] is False
        assert found["wsgi.multiprocess"] is False
        assert found["wsgi.run_once"] is False
        assert found["wsgi.input_terminated"] is True

    def test_the_process_environment_is_not_in_it(self, connection: Connection) -> None:
        found = environ(connection)
        assert "PATH" in os.environ and "PATH" not in found and "HOME" not in found

    def test_lengths_and_types_of_bodies(self, connection: Connection) -> None:
        found = environ(
            connection, method="POST", body=b"abc", headers=[("Content-Type", "text/x")]
        )
        assert (found["CONTENT_LENGTH"], found["CONTENT_TYPE"]) == ("3", "text/x")
        assert "HTTP_CONTENT_LENGTH" not in found and "HTTP_CONTENT_TYPE" not in found
        found = environ(connection)
        assert "CONTENT_LENGTH" not in found and "CONTENT_TYPE" not in found

    def test_a_chunked_body_has_a_length_like_any_other(self, connection: Connection) -> None:
        connection.request("/env", method="POST", headers=CHUNKED)
        connection.send(chunked(b"abc", b"defg"))
        found = json.loads(connection.response().body)
        assert found["CONTENT_LENGTH"] == "7"
        assert "HTTP_TRANSFER_ENCODING" not in found

    def test_strings_are_native_and_latin1(self, connection: Connection) -> None:
        found = environ(connection, "/env", headers=[("X-Name", "caf\xe9")])
        assert found["HTTP_X_NAME"] == "caf\xe9"
        response = connection.get("/caf%C3%A9/%2F%25")
        assert response.status == 404

    def test_paths_are_decoded(self, serve: Serve, module: Callable[[str, str], Any]) -> None:
        path = module(
            "paths",
            "import json\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    keys = ('SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING')\n"
            "    return [json.dumps([environ[key] for key in keys]).encode()]\n",
        )
        server = serve("paths:app", "--app-dir", str(path.parent), "--root-path", "/mounted")
        get = lambda path: json.loads(server.get(path).body)  # noqa: E731
        assert get("/caf%C3%A9/%2F%25?%41") == ["/mounted", "/caf\xc3\xa9//%", "%41"]
        assert get("/mounted/x") == ["/mounted", "/x", ""]
        assert get("/mounted") == ["/mounted", "", ""]
        assert get("/mountedness") == ["/mounted", "/mountedness", ""]

    @pytest.mark.parametrize(
        ("root_path", "name"),
        [("/", ""), ("//", ""), ("/mounted/", "/mounted"), ("a/b", "/a/b"), ("a/", "/a")],
    )
    def test_any_root_path_is_a_script_name(self, serve: Serve, root_path: str, name: str) -> None:
        server = serve("wsgi_lab:app", "--root-path", root_path)
        with server.connect() as connection:
            for path in ("/env", f"{name}/env"):
                found = environ(connection, path)
                assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == (name, "/env")

    def test_repeated_headers_are_joined(self, connection: Connection) -> None:
        headers = [("X-A", "1"), ("Cookie", "a=1"), ("X-A", "2"), ("Cookie", "b=2"), ("X-B", "3")]
        found = environ(connection, headers=headers)
        assert found["HTTP_X_A"] == "1,2"
        assert found["HTTP_COOKIE"] == "a=1; b=2"
        assert found["HTTP_X_B"] == "3"

    def test_headers_with_underscores_cannot_pose_as_others(self, connection: Connection) -> None:
        found = environ(connection, headers=[("X_Forwarded_For", "evil"), ("X-Good", "1")])
        assert "HTTP_X_FORWARDED_FOR" not in found
        assert found["HTTP_X_GOOD"] == "1"

    def test_values_of_one_request_do_not_show_in_the_next(self, connection: Connection) -> None:
        assert environ(connection, headers=[("X-A", "1")])["HTTP_X_A"] == "1"
        assert environ(connection, headers=[("X-A", "2")])["HTTP_X_A"] == "2"
        assert "HTTP_X_A" not in environ(connection)

    @pytest.mark.parametrize(
        ("arguments", "threads", "processes"),
        [
            (["--threads", "4", "-w", "2"], True, True),
            (["--threads", "2"], True, False),
            (["-w", "3"], False, True),
            (["--min-workers", "2"], False, True),
            (["--max-workers", "4"], False, True),
            (["-w", "4", "--max-workers", "1"], False, False),
        ],
        ids=lambda value: "".join(value) if isinstance(value, list) else None,
    )
    def test_flags_say_how_it_is_run(
        self, serve: Serve, arguments: list[str], threads: bool, processes: bool
    ) -> None:
        server = serve("wsgi_lab:app", *arguments)
        with server.connect() as connection:
            found = environ(connection)
        assert (found["wsgi.multithread"], found["wsgi.multiprocess"]) == (threads, processes)

    def test_a_unix_socket_has_a_name_and_a_port_too(self, serve: Serve, tmp_path: Any) -> None:
        server = serve("wsgi_lab:app", "--uds", str(tmp_path / "s"))
        with server.connect() as connection:
            found = environ(connection, headers=[("Host", "example.org:81")])
        assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("example.org", "81")
        assert found["REMOTE_ADDR"] == ""

    def test_target_without_a_path(self, serve: Serve, tmp_path: Any) -> None:
        (tmp_path / "main.py").write_text(
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [f\"{environ['PATH_INFO']} {environ['REQUEST_URI']}\".encode()]\n"
        )
        with serve("main:app", "--app-dir", str(tmp_path)).connect() as connection:
            connection.send(b"GET http://o?q=1 HTTP/1.1\r\nHost: o\r\n\r\n")
            assert connection.response().body == b"/ /?q=1"

    def test_http_1_0(self, connection: Connection) -> None:
        connection.send(b"GET /env HTTP/1.0\r\n\r\n")
        found = json.loads(connection.response().body)
        assert found["SERVER_PROTOCOL"] == "HTTP/1.0"


class TestInput:
    def read(self, connection: Connection, body: bytes, *reads: str) -> list[object]:
        headers = [("X-Reads", json.dumps(reads))]
        return ast.literal_eval(
            connection.get("/reading", method="POST", body=body, headers=headers).text
        )

    @pytest.fixture
    def connection(self, bare: Server) -> Connection:
        with bare.connect() as connection:
            yield connection

    def test_reads(self, connection: Connection) -> None:
        reads = ("body.read(2)", "body.read(-1)", "body.read()", "body.read(5)")
        assert self.read(connection, b"abcdef", *reads) == [b"ab", b"cdef", b"", b""]

    def test_lines_keep_their_ends(self, connection: Connection) -> None:
        body = b"a\nbb\r\nccc"
        assert self.read(connection, body, "list(body)") == [[b"a\n", b"bb\r\n", b"ccc"]]
        assert self.read(connection, body, "body.readlines()") == [[b"a\n", b"bb\r\n", b"ccc"]]
        reads = ("body.readline()", "body.readline(2)", "body.readline(-1)", "body.readline()")
        assert self.read(connection, body, *reads) == [b"a\n", b"bb", b"\r\n", b"ccc"]
        assert self.read(connection, body, "body.readlines(1)") == [[b"a\n"]]

    def test_no_body_is_empty(self, connection: Connection) -> None:
        assert self.read(connection, b"", "body.read()", "body.readline()") == [b"", b""]

    @pytest.mark.parametrize("size", [0, 1, 65536, 3 * MEGABYTE, 40 * MEGABYTE])
    @pytest.mark.parametrize("how", ["length", "chunks"])
    def test_bodies_of_any_size(self, server: Server, size: int, how: str) -> None:
        body = bytes(256 * number % 251 for number in range(256)) * (size // 256) + b"x" * (
            size % 256
        )
        with server.connect() as connection:
            if how == "length":
                response = connection.get("/digest", method="POST", body=body)
            else:
                connection.request("/digest", method="POST", headers=CHUNKED)
                parts = [body[start : start + 100_000] for start in range(0, size, 100_000)]
                connection.send(chunked(*parts))
                response = connection.response()
        found = json.loads(response.body)
        total = sum(sum(body[start : start + 65536][::4096]) for start in range(0, size, 65536))
        assert found[:3] == [size, total % 65536, str(size)]

    def test_a_body_on_disk_can_be_read_by_lines(self, connection: Connection) -> None:
        body = b"a line\n" * 300_000
        reads = ("type(body).__name__", "body.readline()", "len(body.readlines())")
        assert self.read(connection, body, *reads) == ["BufferedReader", b"a line\n", 299_999]

    def test_a_client_that_waits_for_100_gets_it(self, connection: Connection) -> None:
        headers = [("Content-Length", "3"), ("Expect", "100-continue")]
        connection.request("/echo", method="POST", headers=headers)
        assert connection.head().status == 100
        connection.send(b"abc")
        assert connection.response().body == b"abc"

    def test_the_application_is_not_called_for_half_a_body(self, server: Server) -> None:
        with server.connect() as connection:
            connection.request("/echo", method="POST", headers=[("Content-Length", "10")])
            connection.send(b"abc")
        assert server.get("/ping").body == b"pong"


class TestResponse:
    def test_what_is_whole_has_a_length(self, bare: Server) -> None:
        for path, body in [("/several", b"onetwo"), ("/ping", b"pong")]:
            response = bare.get(path)
            assert (response.framing, response.body) == ("length", body)

    def test_parts_are_chunks(self, connection: Connection, server: Server) -> None:
        response = connection.get("/generated")
        assert (response.framing, response.body) == ("chunked", b"abc")
        seen(server, "closed generated")

    def test_parts_end_with_the_connection_in_http_1_0(self, connection: Connection) -> None:
        connection.send(b"GET /generated HTTP/1.0\r\n\r\n")
        response = connection.response()
        assert (response.framing, response.body) == ("close", b"abc")

    def test_nothing_is_an_empty_answer(self, connection: Connection) -> None:
        assert connection.get("/nothing").body == b""

    def test_start_response_may_come_late(self, connection: Connection) -> None:
        response = connection.get("/late")
        assert (response.status, response.reason, response.body) == (201, "Made", b"late")

    def test_write(self, connection: Connection, server: Server) -> None:
        assert connection.get("/writes").body == b"one two three"
        seen(server, "closed writes")

    def test_head_has_no_body(self, bare: Server) -> None:
        with bare.connect() as connection:
            for path, length in [("/ping", "4"), ("/big", str(len(BIG))), ("/several", "6")]:
                response = connection.get(path, method="HEAD")
                assert (response.status, response.body) == (200, b"")
                assert response.header("content-length") == length
            response = connection.get("/generated", method="HEAD")
            # How long the answer to a GET would be is not known.
            assert (response.body, response.header("content-length")) == (b"", None)
            assert connection.get("/file", method="HEAD").header("content-length") == str(len(BIG))
            assert connection.get("/ping").body == b"pong"

    def test_204_and_304_have_no_body(self, bare: Server) -> None:
        with bare.connect() as connection:
            response = connection.get("/empty_204")
            assert response.status == 204
            assert response.header("content-length") is None
            assert connection.get("/not_modified").status == 304
            assert connection.get("/ping").body == b"pong"

    @pytest.mark.parametrize(
        ("line", "status", "reason"),
        [
            ("200+OK", 200, "OK"),
            ("404+Nowhere", 404, "Nowhere"),
            ("299+Odd", 299, "Odd"),
            ("999+Most", 999, "Most"),
        ],
    )
    def test_status_lines(self, bare: Server, line: str, status: int, reason: str) -> None:
        response = bare.get(f"/status?{line}")
        assert (response.status, response.reason) == (status, reason)

    def test_headers_are_latin1(self, connection: Connection) -> None:
        assert connection.get("/latin").header("x-name") == "caf\xe9"

    def test_framing_is_the_server_s(self, bare: Server) -> None:
        response = bare.get("/hoppish")
        assert response.framing == "length"
        assert (response.header("x-kept"), response.body) == ("1", b"x")

    def test_an_error_handler_replaces_what_was_not_sent(self, connection: Connection) -> None:
        response = connection.get("/replaced")
        assert (response.status, response.reason) == (503, "Busy")
        assert response.header("x-first") is None
        assert response.body == b"instead"

    def test_early_hints_come_before_the_answer(self, connection: Connection) -> None:
        response = connection.get("/hints")
        assert (response.status, response.body) == (200, b"hinted")
        first, second = response.interim
        assert (first.status, first.all("link")) == (
            103,
            ["</a.css>; rel=preload", "</b.css>; rel=preload"],
        )
        assert second.headers == [("x-other", "1")]
        assert connection.get("/ping").body == b"pong"

    def test_http_1_0_knows_no_early_hints(self, connection: Connection) -> None:
        connection.send(b"GET /env HTTP/1.0\r\n\r\n")
        assert "wsgi.early_hints" not in json.loads(connection.response().body)

    def test_wsgi_errors_is_heard(self, connection: Connection, server: Server) -> None:
        mark = server.output.mark()
        assert connection.get("/prints").status == 200
        server.wait_for_line("to wsgi.errors", since=mark)


class TestFiles:
    @pytest.fixture
    def server(self, bare: Server) -> Server:
        return bare

    def test_a_file_goes_out_without_python(self, server: Server, connection: Connection) -> None:
        reads = server.get("/file_reads").body
        response = connection.get("/file")
        assert response.framing == "length"
        assert response.body == BIG
        assert server.get("/file_reads").body == reads
        seen(server, "file closed")

    def test_it_starts_where_the_file_stands(self, connection: Connection) -> None:
        assert connection.get("/file?1000000").body == BIG[1_000_000:]

    def test_only_the_announced_part_is_sent(self, connection: Connection) -> None:
        assert connection.get("/file_part").body == BIG[11:1011]

    def test_what_is_no_file_is_iterated_over(self, connection: Connection) -> None:
        response = connection.get("/file_in_memory")
        assert (response.framing, response.body) == ("chunked", BIG[:100_000])

    def test_a_file_that_is_too_short_is_an_error(self, server: Server) -> None:
        assert server.get("/file_short").status == 500


class TestMisbehaviour:
    """Whatever an application does wrong is logged, and the next request is served."""

    @pytest.fixture(autouse=True)
    def _serves_on(self, bare: Server) -> Any:
        [worker] = bare.wait_for_workers(1)
        yield
        assert bare.get("/ping").body == b"pong"
        assert [process.pid for process in bare.wait_for_workers(1)] == [worker.pid]

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/raises", "ValueError: on purpose"),
            ("/exits", "SystemExit: 7"),
            ("/twice", "start_response.. was called before"),
            ("/silent", "before it has called start_response"),
            ("/breaks_at_once", "ValueError: at once"),
            ("/short_list", "shorter than its Content-Length"),
            ("/returns_text", "must be bytes, not str"),
            ("/returns_bytes", r"such as \[body\], not bytes"),
            ("/returns_none", "NoneType"),
            ("/bad_status", "illegal status 'OK'"),
            ("/bad_header", "illegal value of the header X-Bad"),
            ("/unencodable", "outside of latin-1"),
            ("/status?100+Continue", "illegal status '100 Continue'"),
        ],
    )
    def test_before_the_head_it_is_a_500(self, bare: Server, path: str, said: str) -> None:
        mark = bare.output.mark()
        response = bare.get(path)
        assert (response.status, response.body) == (500, b"Internal Server Error")
        request = re.escape(f"GET {path}")
        bare.wait_for_line(f"^ERROR:    exception in the application, {request}$", since=mark)
        bare.wait_for_line(said, since=mark)

    def test_the_traceback_shows_the_application(self, bare: Server) -> None:
        mark = bare.output.mark()
        bare.get("/raises")
        bare.wait_for_line(r'File ".*wsgi_lab.py", line \d+, in raises', since=mark)

    @pytest.mark.parametrize(
        ("target", "logged"),
        [
            ("/raises?q=1&b=%0A\xc2\x85", r"/raises\?q=1&b=%0A\\u\{85\}"),
            ("/raises?caf\xc3\xa9", "/raises\\?caf\xe9"),
            ("http://user:secret@host/raises?q", r"/raises\?q"),
            ("/raises?" + 3000 * "x", r"/raises\?x{187}\.\.\."),
        ],
        ids=["escaped", "utf-8", "absolute", "long"],
    )
    def test_the_request_is_named_on_one_line(self, bare: Server, target: str, logged: str) -> None:
        mark = bare.output.mark()
        with bare.connect() as connection:
            connection.send(f"POST {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"))
            assert connection.response().status == 500
        bare.wait_for_line(f"^ERROR:    exception in the application, POST {logged}$", since=mark)

    def test_an_application_may_spoil_its_environ(
        self, serve: Serve, module: Callable[[str, str], Any]
    ) -> None:
        path = module(
            "spoiler",
            "def app(environ, start_response):\n"
            "    environ.clear()\n"
            "    environ.update(REQUEST_METHOD='GET', RAW_URI=None)\n"
            "    raise ValueError('on purpose')\n",
        )
        server = serve("spoiler:app", "--app-dir", str(path.parent))
        server.tolerates_tracebacks = True
        assert server.get("/").status == 500
        server.wait_for_line("^ERROR:    exception in the application$")

    @pytest.mark.parametrize(
        ("path", "sent", "said"),
        [
            ("/breaks_off", b"begun", "ValueError: in the middle"),
            ("/short", b"abc", "shorter than its Content-Length"),
            ("/too_late", b"begun", "ValueError: too late"),
        ],
    )
    def test_after_the_head_the_connection_is_closed(
        self, bare: Server, path: str, sent: bytes, said: str
    ) -> None:
        mark = bare.output.mark()
        with bare.connect() as connection:
            connection.request(path)
            response = connection.head()
            with pytest.raises(Truncated):
                connection.body(response)
            assert response.body == sent
        bare.wait_for_line(said, since=mark)

    def test_too_many_bytes_are_cut_off(self, bare: Server) -> None:
        mark = bare.output.mark()
        assert bare.get("/long").body == b"abc"
        bare.wait_for_line("longer than its Content-Length", since=mark)
        seen(bare, "closed long")

    def test_an_error_while_closing_spoils_nothing(self, bare: Server) -> None:
        mark = bare.output.mark()
        assert bare.get("/raises_while_closing").body == b"fine"
        bare.wait_for_line("close.. of the application's iterable, GET /raises_w", since=mark)
        bare.wait_for_line("ValueError: while closing", since=mark)

    def test_iterables_are_closed_after_errors(self, bare: Server) -> None:
        bare.get("/breaks_at_once")
        seen(bare, "closed broken at once")

    def test_iterables_are_closed_when_the_client_leaves(self, bare: Server) -> None:
        with bare.connect() as connection:
            connection.request("/endless")
            connection.head()
            connection.reset()
        seen(bare, "closed endless")

    def test_several_requests_on_one_connection(self, bare: Server) -> None:
        with bare.connect() as connection:
            answers: list[Response] = [
                connection.get(path) for path in ("/ping", "/raises", "/ping", "/generated")
            ]
        assert [answer.status for answer in answers] == [200, 500, 200, 200]
