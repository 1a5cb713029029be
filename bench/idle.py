"""Measure what an idle WebSocket costs: resident memory of each server for thousands of them.

Each server is started alone. After a few hundred connections, which pay for what is
needed once, its memory is read, the others are opened, and it is read again. With
``--deflate`` the client offers permessage-deflate.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import environment as environments
from cases import CASES
from processes import BenchmarkError, Server, free_port, process_tree
from servers import CANDIDATES, SERVERS, Environment

FIRST = 500
KIBIBYTE = 1024
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


def open_websocket(port: int, deflate: bool) -> socket.socket:
    """Connect and shake hands."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(
        (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{OFFER if deflate else ''}\r\n"
        ).encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        received = connection.recv(4096)
        if not received:
            raise BenchmarkError(f"the handshake failed: {answer!r}")
        answer += received
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise BenchmarkError(f"the handshake failed: {answer!r}")
    return connection


def resident(root: int) -> int:
    """Return the bytes that a process tree occupies, shared pages in proportion."""
    total = 0
    for pid in process_tree(root):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * KIBIBYTE
    return total


def measure(server: Server, count: int, deflate: bool) -> float:
    """Return the bytes for each of `count` idle connections."""
    with ExitStack() as stack:

        def more(number: int) -> int:
            for _ in range(number):
                stack.enter_context(open_websocket(server.port, deflate))
            return resident(server.pid)

        before = more(FIRST)
        return (more(count) - before) / count


def main() -> int:
    """Print one line for each server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--deflate", action="store_true", help="offer permessage-deflate")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--environment", type=Path, default=environments.ROOT / ".venv-bench")
    parser.add_argument("--rsgun", type=Path, help="measure this binary, not the installed one")
    options = parser.parse_args()
    directory = options.environment.absolute()
    rsgun = (options.rsgun or directory / "bin" / "rsgun").absolute()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    case = next(case for case in CASES if case.interface == "websocket")
    offered = "offered" if options.deflate else "not offered"
    print(f"{options.connections} idle WebSockets, permessage-deflate {offered}")
    try:
        for candidate in CANDIDATES:
            if candidate.server not in options.servers or "websocket" not in candidate.interfaces:
                continue
            port = free_port()
            command = candidate.command(Environment(directory, rsgun), case, port)
            with Server(candidate.label, command, port, os.sched_getaffinity(0)) as server:
                server.wait_until_right(case.path, case.body)
                each = measure(server, options.connections, options.deflate)
            print(f"{candidate.label}: {each / KIBIBYTE:.1f} KiB each", flush=True)
    except (BenchmarkError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
