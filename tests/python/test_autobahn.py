"""Autobahn's fuzzing client: every case must pass strictly.

The whole suite takes about ten minutes, and nearly all of them are those of its client,
which sends a thousand messages for each case of compression. So the tests run all cases
of the protocol, and of those that only transfer much the small ones. `make autobahn`
runs all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import autobahn
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = rsgun_only

Serve = Callable[..., Server]

ALL = os.environ.get("RSGUN_AUTOBAHN")
"""Cases to run instead, separated by blanks; ``*`` is all of them."""

# Families and how many cases they have.
CASES = {
    "framing pings reserved-bits opcodes": (["1.*", "2.*", "3.*", "4.*"], 44),
    "fragments": (["5.*"], 20),
    "utf-8": (["6.*"], 145),
    "closing auto-fragments": (["7.*", "10.*"], 38),
    "limits": (
        [
            *[f"9.{family}.{size}" for family in (1, 2) for size in (1, 2, 3)],
            *[f"9.{family}.{chunk}" for family in (3, 4) for chunk in (5, 9)],
            *[f"9.{family}.{size}" for family in (5, 6, 7, 8) for size in (1, 6)],
        ],
        18,
    ),
    "compression": (
        [
            *[f"12.{data}.{size}" for data in range(1, 6) for size in (1, 3)],
            *[f"13.{offer}.{size}" for offer in range(1, 8) for size in (1, 3)],
        ],
        24,
    ),
}
if ALL:
    CASES = {"as told": (ALL.split(), 517 if ALL == "*" else 0)}


@pytest.mark.skipif(
    autobahn.python2() is None,
    reason="no CPython 2.7 is at hand for Autobahn (PYTHON2 names one): "
    "only test_websocket_protocol.py has its families of cases",
)
@pytest.mark.slow
@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize("families", CASES)
def test_every_case_passes_strictly(serve: Serve, tmp_path: Path, families: str) -> None:
    cases, count = CASES[families]
    server = serve("sockets:app", "--no-access-log", "--ws-max-size", "67108864")
    python = autobahn.python2()
    assert python
    url = server.url.replace("http", "ws", 1) + "/"
    results = autobahn.run(python, url, cases, tmp_path, deadline=3000 if ALL else 240)
    failed = [str(result) for result in results if not result.is_strict]
    print(f"Autobahn: {len(results)} cases, {len(failed)} failed; reports in {tmp_path}/reports")
    assert not failed
    assert results
    if count:
        assert len(results) == count
