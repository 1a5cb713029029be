"""The raw requests of tests/requests: data that any server can be fed.

A file holds comment lines, one line ``# expect: ...``, and the bytes to send, written
with Python's escapes. Line breaks of the file are not sent, ``<text * number>`` is
repeated, and ``<end>`` at the end closes the sending side.

``expect`` lists the status of each answer in order; ``close`` at the end demands that
the server closes the connection after it, ``close`` alone that it answers nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .target import REQUESTS

REPEAT = re.compile(rb"<((?:[^<>]|\n)+?) \* (\d+)>")


@dataclass(frozen=True)
class RawRequest:
    """One file."""

    name: str
    data: bytes
    ends: bool
    """Whether the client closes its sending side after it."""
    statuses: tuple[int, ...]
    closes: bool
    uvicorn: str | None
    """Why uvicorn is known to answer otherwise."""

    @cached_property
    def about(self) -> str:
        """Name for the report of the test."""
        return self.name


def parse(path: Path) -> RawRequest:
    """Reads one file."""
    lines = path.read_bytes().decode("ascii").splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    fields = dict(line.split(": ", 1) for line in comments if re.match(r"(expect|uvicorn): ", line))
    text = "".join(line for line in lines if not line.startswith("#"))
    ends = text.endswith("<end>")
    text = text.removesuffix("<end>")
    raw = text.encode("ascii").decode("unicode_escape").encode("latin-1")
    data = REPEAT.sub(lambda found: found[1] * int(found[2]), raw)
    expect = fields["expect"].split()
    return RawRequest(
        name=str(path.relative_to(REQUESTS).with_suffix("")),
        data=data,
        ends=ends,
        statuses=tuple(int(word) for word in expect if word != "close"),
        closes=expect[-1] == "close",
        uvicorn=fields.get("uvicorn"),
    )


def load(folder: str) -> list[RawRequest]:
    """All files of a folder."""
    return [parse(path) for path in sorted((REQUESTS / folder).glob("*.http"))]
