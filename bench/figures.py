"""The figures of docs/reliability.md: a reload, a respawn, and memory with --preload.

`make figures`, or `python bench/figures.py reload respawn memory`. Each takes less than a
minute; use a quiet machine. With `--check` it exits with 1 if one is worse than its bar.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests" / "python"
sys.path.insert(0, str(TESTS))

from harness.server import Server  # noqa: E402
from harness.sources import versioned  # noqa: E402
from harness.target import binary  # noqa: E402
from harness.waiting import eventually, wait_gone  # noqa: E402
from harness.wire import Connection  # noqa: E402

BIG = """
HELD = [f"object number {number}" for number in range(1_100_000)]


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    body = HELD[int.from_bytes(scope["query_string"] or b"0", "big") % len(HELD)].encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


RELOAD_DELAY_MS = 100
"""What the worst latency of a reload may be above that of other times."""
RESPAWN_MS = 20
MEMORY_RATIO = 1.6


@dataclass(frozen=True)
class Figure:
    """What was measured, in words, and which bars it has missed."""

    text: str
    missed: list[str]


def missed(**bars: bool) -> list[str]:
    """The names of the bars that were not met."""
    return [name.replace("_", " ") for name, met in bars.items() if not met]


def start(folder: Path, *arguments: str) -> Server:
    """Runs main.py of a folder."""
    command = [
        *(str(binary()), "--python", sys.executable, "--app-dir", str(folder), "--port", "0"),
        *("--no-access-log", *arguments, "main:app"),
    ]
    return Server(command, cwd=folder).wait_until_running()


def ask(server: Server, path: str = "/") -> None:
    """One request on a connection of its own."""
    with Connection.open(server.address) as connection:
        status = connection.get(path, close=True).status
    if status != 200:
        raise ValueError(f"answer {status}")


def reload(folder: Path) -> Figure:
    """One worker, code that takes three seconds to boot, two HUPs under load."""
    source = folder / "main.py"
    source.write_text(versioned("first", startup="await asyncio.sleep(3)"))
    server = start(folder)
    usual: list[float] = []
    reloading: list[float] = []
    errors: list[str] = []
    seen: set[str] = set()
    now = usual
    over = False

    async def client(close: bool) -> None:
        streams = None
        while not over:
            began = time.monotonic()
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", server.port)
                closing = "Connection: close\r\n" if close else ""
                streams[1].write(f"GET / HTTP/1.1\r\nHost: test\r\n{closing}\r\n".encode())
                head = await streams[0].readuntil(b"\r\n\r\n")
                length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
                seen.add((await streams[0].readexactly(int(length))).decode().split()[0])
                now.append(time.monotonic() - began)
                ends = close or b"connection: close" in head.lower()
            except (OSError, EOFError) as error:
                errors.append(repr(error))
                ends = True
            if ends and streams:
                streams[1].close()
                streams = None
            await asyncio.sleep(0.002)

    async def story() -> None:
        nonlocal now, over
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(client(close=number % 2 == 0))
            await asyncio.sleep(8)
            now = reloading
            for name in ("second", "third"):
                source.write_text(versioned(name, startup="await asyncio.sleep(3)"))
                server.send_signal(signal.SIGHUP)
                # Three seconds to boot, and as many for the old worker to go.
                await asyncio.sleep(7)
                if name not in seen:
                    raise TimeoutError(f"the {name} code does not serve")
            over = True

    try:
        asyncio.run(story())
    finally:
        server.kill()
    worst = {"usual": max(usual) * 1000, "reloading": max(reloading) * 1000}
    text = (
        f"reload with a 3 s boot, one worker, 2 reloads: {len(errors)} of "
        f"{len(usual) + len(reloading) + len(errors):,} requests lost; worst latency "
        f"{worst['reloading']:.1f} ms, without a reload {worst['usual']:.1f} ms (medians "
        f"{statistics.median(reloading) * 1000:.1f} and {statistics.median(usual) * 1000:.1f} ms)"
    )
    return Figure(
        text,
        missed(
            nothing_lost=not errors,
            latency=worst["reloading"] < worst["usual"] + RELOAD_DELAY_MS,
        ),
    )


def respawn(folder: Path) -> Figure:
    """One preloaded worker is killed again and again; the time to the next answer."""
    (folder / "main.py").write_text("import asyncio, json, decimal\n" + BIG)
    server = start(folder, "--preload")
    times = []
    try:
        for _ in range(15):
            (worker,) = server.wait_for_workers(1)
            # Killed sooner, it would count as one that keeps failing.
            lives_since = time.monotonic()
            eventually(lambda since=lives_since: time.monotonic() - since > 2.1, "a fair life")
            os.kill(worker.pid, signal.SIGKILL)
            wait_gone(worker.pid)
            died = time.monotonic()
            ask(server)
            times.append((time.monotonic() - died) * 1000)
    finally:
        server.kill()
    text = (
        f"respawn with --preload, from the death to the first answer of the next worker: "
        f"median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms of {len(times)}"
    )
    return Figure(text, missed(respawn=statistics.median(times) <= RESPAWN_MS))


def memory(folder: Path) -> Figure:
    """Proportional memory of all processes, eight workers against one."""
    (folder / "main.py").write_text(BIG)
    totals = {}
    for workers in (1, 8):
        server = start(folder, "--preload", "-w", str(workers))
        try:
            server.wait_for_workers(workers)
            for number in range(400):
                ask(server, f"/?{number}")
            family = server.family()
            totals[workers] = sum(proportional(process.pid) for process in family)
            if workers == 8:
                one = [proportional(process.pid) for process in server.workers()]
        finally:
            server.kill()
    ratio = totals[8] / totals[1]
    text = (
        f"memory of an application of 100 MB with --preload, PSS of all processes: 8 workers "
        f"{totals[8]:.0f} MiB, 1 worker {totals[1]:.0f} MiB, ratio {ratio:.2f}; "
        f"{statistics.median(one):.0f} MiB for each of the 8"
    )
    return Figure(text, missed(memory=ratio <= MEMORY_RATIO))


def proportional(pid: int) -> float:
    """The proportional set size of a process, MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no Pss of {pid}")


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "reload": reload,
    "respawn": respawn,
    "memory": memory,
}


def main() -> int:
    """Prints the figures that were asked for, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures what docs/reliability.md says.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    unknown = set(options.figures) - set(FIGURES)
    if unknown:
        parser.error(
            f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}"
        )
    short = []
    for name in options.figures or FIGURES:
        with tempfile.TemporaryDirectory() as folder:
            figure = FIGURES[name](Path(folder))
        print(figure.text, flush=True)
        short += [f"{name}: {bar}" for bar in figure.missed]
    if short:
        print("missed:", ", ".join(short), flush=True)
    return 1 if options.check and short else 0


if __name__ == "__main__":
    sys.exit(main())
