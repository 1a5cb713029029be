"""RSGI: requests and their answers, over the wire."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.clients import client_for
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import APPS
from harness.waiting import eventually
from harness.wire import Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., subprocess.CompletedProcess[str]]
LAB = (APPS / "rsgi_lab.py").read_bytes()
MEGABYTE = 1 << 20


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("rsgi_lab:app")


class TestScope:
    def test_attributes(self, server: Server) -> None:
        with server.connect() as connection:
            answer = connection.get(
                "/sc%6fpe?a=%20b&c",
                method="PUT",
                headers=[("X-One", "1"), ("x-two", "\xe9"), ("x-ONE", "2")],
            )
            seen = json.loads(answer.body)
            host, port = connection.own_address
        assert {name: seen[name] for name in ("proto", "rsgi_version", "http_version")} == {
            "proto": "http",
            "rsgi_version": "1.6",
            "http_version": "1.1",
        }
        assert seen["server"] == f"127.0.0.1:{server.port}"
        assert seen["client"] == f"{host}:{port}"
        assert (seen["scheme"], seen["method"], seen["authority"]) == ("http", "PUT", None)
        assert (seen["path"], seen["query_string"]) == ("/scope", "a=%20b&c")

    def test_headers_are_a_mapping(self, server: Server) -> None:
        with server.connect() as connection:
            headers = [("X-One", "1"), ("x-two", "\xe9"), ("x-ONE", "2")]
            seen = json.loads(connection.get("/scope", headers=headers).body)
        names = ["x-one", "x-two", "host"]
        pairs = [["x-one", "1"], ["x-one", "2"], ["x-two", "\xe9"], ["host", "testserver"]]
        assert sorted(seen["keys"]) == sorted(seen["iterated"]) == sorted(names)
        assert sorted(seen["items"]) == sorted(pairs)
        assert sorted(seen["values"]) == sorted(value for _, value in pairs)
        assert seen["length"] == 3
        assert (seen["get"], seen["get_missing"]) == (["1", "1"], [None, 5])
        assert seen["get_all"] == [["1", "2"], []]
        assert seen["in"] == [True, True, False]
        assert (seen["item"], seen["missing"]) == ("1", "KeyError")

    def test_old_http_and_absolute_target(self, server: Server) -> None:
        with server.connect() as connection:
            seen = json.loads(connection.get("/scope", version="1.0").body)
        assert seen["http_version"] == "1"
        seen = json.loads(server.get("http://example.org:81/scope?q").body)
        assert (seen["authority"], seen["path"]) == ("example.org:81", "/scope")

    def test_unix_socket(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        server = serve("rsgi_lab:app", "--uds", str(path))
        seen = json.loads(server.get("/scope").body)
        assert (seen["server"], seen["client"]) == (str(path), "")


class TestAnswers:
    def test_httpx_reads_them(self, server: Server) -> None:
        with client_for(server) as client:
            text = client.get("/text")
            assert (text.text, text.headers["content-type"]) == ("grüße", "text/plain")
            assert client.get("/bytes").content == bytes(range(256)) * 400
            assert client.get("/stream").text == "".join(f"{number};" for number in range(50))
            assert client.post("/echo", content=b"x" * MEGABYTE).content == b"x" * MEGABYTE
            assert client.get("/file").content == LAB

    def test_empty(self, server: Server) -> None:
        with server.connect() as connection:
            answer = connection.get("/empty?299")
            assert (answer.status, answer.all("x-a"), answer.body) == (299, ["1", "2"], b"")
            assert answer.all("content-length") == ["0"]
            assert connection.get("/defaults").status == 200

    def test_headers_beyond_ascii_are_utf_8(self, server: Server) -> None:
        assert server.get("/bytes").header("x-bytes") == "ü".encode().decode("latin-1")

    def test_what_has_a_buffer_is_bytes(self, server: Server) -> None:
        assert server.get("/buffer").body == b"a view"

    @pytest.mark.parametrize("status", [204, 304])
    def test_status_without_a_body(self, server: Server, status: int) -> None:
        with server.connect() as connection:
            answer = connection.get(f"/text?{status}")
            assert (answer.status, answer.header("transfer-encoding")) == (status, None)
            # Bytes of a body would be taken for the next answer.
            assert connection.get("/").text == "hello"

    @pytest.mark.parametrize(
        ("path", "length"),
        [
            ("/text", "7"),
            ("/file", str(len(LAB))),
            ("/stream", None),
            ("/empty", None),
            ("/two-lengths", "9"),
        ],
    )
    def test_head(self, server: Server, path: str, length: str | None) -> None:
        with server.connect() as connection:
            answer = connection.get(path, method="HEAD")
            assert (answer.status, answer.header("content-length")) == (200, length)
            assert connection.get("/").text == "hello"

    def test_stream_begins_at_once(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app")
        with server.connect() as connection:
            connection.request("/head-first")
            head = connection.head()
            assert head.status == 200
            server.get("/release")
            connection.body(head)
            assert (head.framing, head.body) == ("chunked", b"rest")

    def test_stream_may_outlive_the_call(self, server: Server) -> None:
        assert server.get("/outlived").body == b"late"

    def test_stream_that_is_too_short_is_cut_off(self, server: Server) -> None:
        since = server.output.mark()
        with server.connect() as connection:
            connection.request("/short")
            response = connection.head()
            with pytest.raises(Truncated):
                connection.body(response)
            assert response.body == b"short"
        server.wait_for_line("shorter than its content-length: 5 bytes, not 10", since=since)
        assert server.get("/").text == "hello"

    def test_answers_from_threads(self, server: Server) -> None:
        since = server.output.mark()
        assert server.get("/thread").text == "from a thread"
        assert server.get("/thread-stream").text == "put off"
        server.wait_for_line('"GET /thread HTTP/1.1" 200 OK', since=since)

    def test_application_may_go_on_after_its_answer(self, server: Server) -> None:
        since = server.output.mark()
        with server.connect() as connection:
            assert connection.get("/after?going").text == "first"
            assert connection.get("/set-note?going").status == 200
        server.wait_for_line("went on", since=since)


class TestFiles:
    @pytest.mark.parametrize(
        ("start", "end", "stop"), [(0, 1, 1), (7, 100, 100), (5, 10**9, len(LAB))]
    )
    def test_range(self, server: Server, start: int, end: int, stop: int) -> None:
        answer = server.get(f"/file-range?{start}-{end}")
        assert (answer.status, answer.body) == (206, LAB[start:stop])
        assert answer.header("content-range") == f"bytes {start}-{stop - 1}/{len(LAB)}"
        assert answer.header("content-length") == str(stop - start)

    def test_range_behind_the_end(self, server: Server) -> None:
        answer = server.get(f"/file-range?{len(LAB)}-{len(LAB) + 1}")
        assert answer.status == 416
        assert answer.header("content-range") == f"bytes */{len(LAB)}"

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_what_is_no_file_is_not_found(self, server: Server, name: str) -> None:
        since = server.output.mark()
        assert server.get(f"/file?{name}").status == 404
        server.wait_for_line(r"response_file\(\): cannot open .*apps", since=since)

    def test_pipe_does_not_hold_the_worker(self, serve: Serve, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        server = serve("rsgi_lab:app")
        assert server.get(f"/large?{tmp_path}/pipe").status == 404

    def test_large_file_to_a_slow_client(self, serve: Serve, tmp_path: Path) -> None:
        content = b"0123456789abcdef" * (2 * MEGABYTE)
        (tmp_path / "large").write_bytes(content)
        server = serve("rsgi_lab:app")
        with server.connect() as slow:
            slow.request(f"/large?{tmp_path}/large", close=True)
            head = slow.head()
            # The one thread of the worker does not wait for it.
            assert server.get("/").text == "hello"
            slow.body(head)
            assert head.body == content


class TestBodies:
    @pytest.mark.parametrize("size", [0, 1, 5_000_000])
    def test_whole(self, server: Server, size: int) -> None:
        with server.connect() as connection:
            body = b"x" * size
            assert connection.get("/echo", method="POST", body=body).body == body

    def test_parts(self, server: Server) -> None:
        body = bytes(range(256)) * 10_000
        with server.connect() as connection:
            answer = connection.get("/count", method="POST", body=body)
            assert json.loads(answer.body) == [len(body), False]
            assert json.loads(connection.get("/count").body) == [0, False]
            chunks = b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
            headers = [("Transfer-Encoding", "chunked")]
            connection.request("/echo-parts", method="POST", headers=headers)
            connection.send(chunks)
            assert connection.response().body == b"abcdefg"

    def test_parts_come_as_they_arrive(self, server: Server) -> None:
        with server.connect() as connection:
            headers = [("Content-Length", "6")]
            connection.request("/echo-parts", method="POST", headers=headers)
            head = connection.head()
            connection.send(b"one")
            received = b""
            while b"one" not in received:
                received += connection.receive()
            connection.send(b"two")
            while b"0\r\n\r\n" not in received:
                received += connection.receive()
            assert head.status == 200
            assert b"two" in received

    def test_body_that_nobody_takes_is_not_read(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app")
        size = 64 * MEGABYTE
        with server.connect() as connection:
            headers = [("Content-Length", str(size))]
            connection.request("/slow-count?go", method="POST", headers=headers)
            taken = connection.stalls(b"x" * 65536, size)
            assert taken < size // 2
            server.get("/set-note?go")
            connection.send(b"x" * (size - taken))
            assert connection.response().text == str(size)

    def test_body_can_be_taken_once(self, server: Server) -> None:
        with server.connect() as connection:
            answer = connection.get("/twice", method="POST", body=b"x")
        assert answer.text == "ProtocolError ProtocolError ProtocolError"

    def test_cancelled_call_loses_nothing(self, server: Server) -> None:
        with server.connect() as connection:
            headers = [("Content-Length", "6")]
            connection.request("/patient?patient", method="POST", headers=headers)
            connection.send(b"one")
            assert server.get("/notes?patient").text == "timed out"
            connection.send(b"two")
            assert connection.response().body == b"onetwo"

    def test_expectation_is_met_when_the_body_is_asked_for(self, server: Server) -> None:
        with server.connect() as connection:
            headers = [("Content-Length", "3"), ("Expect", "100-continue")]
            connection.request("/echo", method="POST", headers=headers)
            assert connection.head().status == 100
            connection.send(b"abc")
            assert connection.response().body == b"abc"


class TestDisconnects:
    @pytest.mark.parametrize("how", ["close", "reset"])
    def test_client_that_leaves_is_told_of(self, server: Server, how: str) -> None:
        connection = server.connect()
        connection.request(f"/leave?{how}")
        assert server.get(f"/notes?{how}-started").text == "started"
        connection.close() if how == "close" else connection.reset()
        assert server.get(f"/notes?{how}").text == "left"

    def test_wait_for_it_ends_with_the_answer(self, server: Server) -> None:
        with server.connect() as connection:
            assert connection.get("/leave-after-answer").text == "answered"
            assert connection.get("/notes?answered").text == "over"

    def test_body_that_breaks_off(self, server: Server) -> None:
        since = server.output.mark()
        for name in ("broken", "raising"):
            with server.connect() as connection:
                headers = [("Content-Length", "10")]
                connection.request(f"/truncated?{name}", method="POST", headers=headers)
                assert server.get(f"/notes?{name}-started").text == "started"
                connection.send(b"12345")
            assert server.get(f"/notes?{name}").text == "ProtocolClosed"
        # One that leaves is no fault of the application.
        assert not [line for line in server.lines(since=since) if "Traceback" in line]

    def test_stream_waits_for_its_client_and_ends_with_it(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app")
        connection = server.connect()
        connection.request("/endless?endless")
        connection.head()

        def rests() -> bool:
            before = server.get("/sent-so-far").text
            connection.silent(0.3)
            return before == server.get("/sent-so-far").text

        eventually(rests, "the stream to wait for its client")
        assert int(server.get("/sent-so-far").text) < 32 * MEGABYTE
        connection.close()
        assert server.get("/notes?endless").text == "rsgun.rsgi.ProtocolClosed"

    def test_cancel_on_disconnect(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app", "--cancel-on-disconnect")
        connection = server.connect()
        connection.request("/wait-long?long")
        assert server.get("/notes?long-started").text == "started"
        connection.close()
        assert server.get("/notes?long").text == "cancelled"
        server.wait_for_line('"GET /wait-long.long HTTP/1.1" 499')


class TestErrors:
    @pytest.mark.parametrize("path", ["/raises", "/exits", "/missing"])
    def test_exception_is_a_500_with_its_traceback(self, server: Server, path: str) -> None:
        server.tolerates_tracebacks = True
        since = server.output.mark()
        with server.connect() as connection:
            assert connection.get(f"{path}?q=1").status == 500
            assert connection.get("/").text == "hello"
        server.wait_for_line(rf"exception in the application, GET {path}\?q=1$", since=since)
        server.wait_for_line("^Traceback", since=since)
        assert not [line for line in server.lines(since=since) if "<rsgun/" in line]

    def test_exception_in_a_stream_closes_the_connection(self, server: Server) -> None:
        server.tolerates_tracebacks = True
        with server.connect() as connection:
            connection.request("/raises-late?late")
            head = connection.head()
            server.get("/set-note?late")
            with pytest.raises(Truncated):
                connection.body(head)
        server.wait_for_line("RuntimeError: too late")
        assert server.get("/").text == "hello"

    def test_no_answer_is_a_500(self, server: Server) -> None:
        since = server.output.mark()
        with server.connect() as connection:
            assert connection.get("/nothing").status == 500
            assert connection.get("/").text == "hello"
        server.wait_for_line("the application returned without a response", since=since)

    def test_second_answer_is_ignored_and_told(self, server: Server) -> None:
        since = server.output.mark()
        with server.connect() as connection:
            assert connection.get("/two-answers").text == "first"
            assert connection.get("/").text == "hello"
        server.wait_for_line(r"^WARNING: .*response_str\(\) is ignored", since=since)
        server.wait_for_line("a stream is a ProtocolError", since=since)

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("status", r"ValueError: response_empty\(\): status must be an integer"),
            ("name", r"ValueError: response_empty\(\): illegal header name 'a b'"),
            ("value", r"ValueError: response_empty\(\): illegal value .* of header a"),
            ("bytes", r"TypeError: response_empty\(\): a header must be a pair of str"),
            ("pair", r"TypeError: response_empty\(\): a header must be a pair of str, not 'a'"),
            ("body", r"TypeError: response_bytes\(\): body must be bytes, not str"),
            ("length", r"response_str\(\): the body is longer than its content-length: 6"),
            ("range", r"ValueError: response_file_range\(\): the range must end after"),
        ],
    )
    def test_wrong_arguments_are_told_to_the_caller(
        self, server: Server, kind: str, said: str
    ) -> None:
        server.tolerates_tracebacks = True
        since = server.output.mark()
        with server.connect() as connection:
            assert connection.get(f"/wrong?{kind}").status == 500
            assert connection.get("/").text == "hello"
        server.wait_for_line(said, since=since)

    def test_request_timeout(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app", "--request-timeout", "1")
        assert server.get("/wait-long?late").status == 504
        assert server.get("/notes?late").text == "cancelled"
        server.wait_for_line("/wait-long took longer than --request-timeout allows")


def test_access_log(serve: Serve) -> None:
    server = serve("rsgi_lab:app")
    server.get("/empty?404")
    server.wait_for_line(
        re.compile(r'^INFO:     127\.0\.0\.1:\d+ - "GET /empty\?404 HTTP/1\.1" 404 Not Found$'),
        stream="stdout",
    )
