"""The harness itself: it must notice what the other tests rely on it to notice."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import server as harness_server
from harness.requests import load
from harness.server import Output, Server, free_port, is_listening
from harness.waiting import DeadlineMissed
from harness.wire import Connection, Malformed, Truncated

Run = Callable[[str], Server]


@pytest.fixture
def script(tmp_path: Path) -> Run:
    """Runs Python code in the place of a server."""

    def start(source: str) -> Server:
        return Server([sys.executable, "-u", "-c", source], cwd=tmp_path)

    return start


STAYS = (
    "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); print('up'); signal.pause()"
)


def test_clean_end_is_accepted(script: Run) -> None:
    server = script(STAYS)
    server.wait_for_line("up")
    assert server.close() == []


def test_process_that_is_left_behind_is_noticed(
    script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "leftovers", lambda self, deadline=0: self.family())
    server = script(
        "import os, time\nif os.fork() == 0:\n    print('child'); time.sleep(60)\n" + STAYS
    )
    server.wait_for_line("child")
    server.wait_for_line("up")
    assert any("left behind" in problem for problem in server.close())
    assert not server.family()


def test_process_that_leaves_the_session_is_noticed(
    script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "leftovers", lambda self, deadline=0: self.family())
    server = script(
        "import os, time\nif os.fork() == 0:\n    os.setsid(); print('child'); time.sleep(60)\n"
        + STAYS
    )
    server.wait_for_line("child")
    assert any("left behind" in problem for problem in server.close())


def test_traceback_is_noticed(script: Run) -> None:
    server = script("import sys; sys.stderr.write('Traceback (most recent call last):\\n')")
    server.wait()
    assert any("Traceback" in problem for problem in server.close())


def test_panic_is_noticed(script: Run) -> None:
    server = script(
        "import sys; sys.stderr.write(\"thread 'main' panicked at src/main.rs:1:1:\\n\")"
    )
    server.wait()
    assert any("panicked" in problem for problem in server.close())


def test_what_was_written_is_there_before_its_reader_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line on one stream tells that what was written to the other one before is there."""
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    output = Output()
    (reads, writes), (other_reads, other_writes) = os.pipe(), os.pipe()
    with os.fdopen(reads, "rb") as stdout, os.fdopen(other_reads, "rb") as stderr:
        output.follow("stdout", stdout)
        output.follow("stderr", stderr)
        os.write(writes, b"first\nbegun")
        os.write(other_writes, b"second\n")
        assert output.wait_for("second", 0, "stderr", 0)
        assert output.lines("stdout") == ["first"]
        since = output.mark()
        os.close(writes)
        os.close(other_writes)
        assert output.lines(since=since) == ["begun"]
        assert output.wait_for("never", 60, None, 0) is None


def test_a_free_port_is_nobody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    monkeypatch.setattr(random, "shuffle", lambda numbers: None)
    monkeypatch.setattr(harness_server, "RESERVED", [])
    first = free_port()
    assert first < int(lowest)
    assert not is_listening(first)
    # It is reserved, and stays so while another process serves there.
    second = free_port()
    assert second != first
    harness_server.RESERVED.pop().close()
    with socket.create_server(("127.0.0.1", second)):
        assert is_listening(second)
        assert free_port() not in (first, second)
    for name in harness_server.RESERVED:
        name.close()


def test_line_that_never_comes_fails_at_the_end_of_the_output(script: Run) -> None:
    """At once, not only at the deadline."""
    server = script("print('something else')")
    with pytest.raises(DeadlineMissed, match="something else"):
        server.wait_for_line("never", deadline=60)
    server.kill()


class TestWire:
    """The client refuses answers that break the protocol."""

    def answer(self, raw: bytes, method: str = "GET") -> object:
        ours, theirs = socket.socketpair()
        with Connection(ours) as connection, theirs:
            theirs.sendall(raw)
            theirs.close()
            return connection.response(method)

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1  OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nA",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nBad header: 1\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nAB\r\n0\r\n\r\n",
        ],
    )
    def test_malformed(self, raw: bytes) -> None:
        with pytest.raises(Malformed):
            self.answer(raw)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nABC",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nABC\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nABC\r\n0\r\n",
        ],
    )
    def test_truncated(self, raw: bytes) -> None:
        with pytest.raises(Truncated):
            self.answer(raw)


def test_raw_requests_are_read_as_documented() -> None:
    cases = {case.name: case for folder in ("valid", "invalid") for case in load(folder)}
    assert len(cases) > 60
    assert cases["invalid/length-plus"].data.startswith(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nA"
    )
    assert cases["invalid/length-plus"].statuses == (400,)
    assert cases["invalid/length-plus"].closes
    assert cases["invalid/only-connects"].data == b""
    assert cases["invalid/only-connects"].ends
    assert cases["valid/pipeline"].data == b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n" * 3
    assert len(cases["invalid/head-too-big"].data) > 2_000_000
