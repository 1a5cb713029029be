"""Entries of the log that have several lines."""

from __future__ import annotations

import re

from harness.server import Server
from harness.waiting import eventually


def shows(server: Server, first: str, *wanted: str) -> None:
    """Waits for a log entry that begins with a line like the first, and for such lines in it."""
    server.wait_for_line(first, stream="stderr")

    def entry() -> list[str]:
        lines = server.lines("stderr")
        start = next(number for number, line in enumerate(lines) if re.search(first, line))
        rest = lines[start + 1 :]
        ends = (number for number, line in enumerate(rest) if re.match(r"[A-Z]+: ", line))
        return lines[start : start + 1 + next(ends, len(rest))]

    for pattern in wanted:
        eventually(
            lambda pattern=pattern: any(re.search(pattern, line) for line in entry()),
            f"{pattern!r} in the entry {first!r}",
        )
