"""curl on the far side of the wire."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import differs
from harness.server import Server

Serve = Callable[..., Server]
MEGABYTE = 1 << 20
NUMBERS = "".join(f"{number};" for number in range(50))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
class TestCurl:
    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["curl", "--silent", "--show-error", "--max-time", "30", "--noproxy", "*", *arguments],
            capture_output=True,
            check=True,
        )

    def test_get(self, shared: Serve) -> None:
        server = shared("fastapi_app:app")
        assert self.curl(f"{server.url}/ping").stdout == b'{"message":"pong"}'

    def test_two_requests_on_one_connection(self, shared: Serve) -> None:
        server = shared("fastapi_app:app")
        result = self.curl("-v", f"{server.url}/ping", f"{server.url}/ping-sync")
        assert result.stdout == b'{"message":"pong"}' * 2
        assert b"Re-using existing" in result.stderr

    def test_head(self, shared: Serve) -> None:
        server = shared("lab:app")
        result = self.curl("-I", f"{server.url}/ping")
        assert result.stdout.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-length: 4\r\n" in result.stdout.lower()

    def test_upload_with_expect(self, shared: Serve, tmp_path: Path) -> None:
        """curl sends Expect: 100-continue for large bodies."""
        server = shared("fastapi_app:app")
        path = tmp_path / "big"
        path.write_bytes(b"x" * (50 * MEGABYTE))
        # By itself it waits for a second and sends the body then.
        waits = ("-H", "Expect: 100-continue", "--expect100-timeout", "30")
        result = self.curl("-v", *waits, "-T", str(path), f"{server.url}/raw")
        assert result.stdout == str(50 * MEGABYTE).encode()
        assert b"100 Continue" in result.stderr

    def test_http_1_0(self, shared: Serve) -> None:
        server = shared("fastapi_app:app")
        assert self.curl("-0", f"{server.url}/ping").stdout == b'{"message":"pong"}'

    @differs("uvicorn", "sends chunks to HTTP/1.0")
    def test_stream_over_http_1_0(self, shared: Serve) -> None:
        server = shared("starlette_app:app")
        result = self.curl("-0", "-i", f"{server.url}/stream")
        assert result.stdout.endswith(NUMBERS.encode())
        assert b"transfer-encoding" not in result.stdout.lower()

    def test_unix_socket(self, serve: Serve, tmp_path: Path) -> None:
        path = str(tmp_path / "socket")
        serve("fastapi_app:app", "--uds", path)
        result = self.curl("--unix-socket", path, "http://localhost/ping")
        assert result.stdout == b'{"message":"pong"}'
