"""The load: wrk, or a client of our own for WebSocket, and what one run of it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cases import Case
from processes import BenchmarkError, Server, cpu_seconds

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sample:
    """One measured run."""

    requests: int
    requests_per_second: float
    p50_us: int
    p99_us: int
    cpu_us_per_request: float


def require_wrk() -> str:
    """Return the path of wrk; install it with apt where that is possible."""
    if path := shutil.which("wrk"):
        return path
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        subprocess.run([apt, "update", "-qq"], check=True)
        subprocess.run([apt, "install", "-y", "-qq", "wrk"], check=True)
        if path := shutil.which("wrk"):
            return path
    raise BenchmarkError(
        "wrk is not installed: install it (Debian and Ubuntu: apt install wrk) and run again"
    )


def build_websocket_client(directory: Path) -> str:
    """Compile `websocket.c` into a directory and return the path of the program."""
    source, program = HERE / "websocket.c", directory / "websocket-load"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc")
        if not compiler:
            raise BenchmarkError("no C compiler: install one (Debian and Ubuntu: apt install gcc)")
        command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-o", str(program), str(source)]
        subprocess.run(command, check=True)
    return str(program)


@dataclass(frozen=True)
class Tools:
    """The programs that make the load."""

    wrk: str
    websocket: str

    def command(self, server: Server, case: Case, seconds: float) -> list[str]:
        """Return the command that loads a server for some seconds."""
        whole = max(1, round(seconds))
        if case.message_bytes:
            arguments = (server.port, case.path, case.connections, whole, case.message_bytes)
            return [self.websocket, *map(str, arguments)]
        return [
            self.wrk,
            "--threads=1",
            f"--connections={case.connections}",
            f"--duration={whole}s",
            "--timeout=10s",
            f"--script={HERE / 'report.lua'}",
            f"http://127.0.0.1:{server.port}{case.path}",
        ]


def run(tools: Tools, server: Server, case: Case, seconds: float, cores: set[int]) -> Sample:
    """Load a server for some seconds and return what came of it.

    Only CPU time that the server's process tree uses meanwhile is counted. Any failed
    connection or status other than 2xx and 3xx makes the run worthless and is raised.
    """
    command = tools.command(server, case, seconds)
    own_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        before = cpu_seconds(server.pid)
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        used = cpu_seconds(server.pid) - before
    finally:
        os.sched_setaffinity(0, own_cores)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode != 0 or not lines:
        raise BenchmarkError(
            f"{command[0]} failed on {server.name}: {finished.stdout}{finished.stderr}\n"
            f"{server.output()}"
        )
    result = json.loads(lines[-1])
    if result["socket_errors"] or result["bad_statuses"] or not result["requests"]:
        raise BenchmarkError(
            f"{server.name} did not serve {case.path} cleanly: {result['requests']} requests, "
            f"{result['socket_errors']} socket errors, {result['bad_statuses']} bad statuses\n"
            f"{server.output()}"
        )
    return Sample(
        requests=result["requests"],
        requests_per_second=result["requests"] / (result["duration_us"] / 1e6),
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
        cpu_us_per_request=used * 1e6 / result["requests"],
    )
