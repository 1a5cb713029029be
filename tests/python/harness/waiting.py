"""Deadlines: how long a test waits for an event before it fails."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("RSGUN_TEST_PATIENCE", "1"))
"""Factor for all deadlines, for slow machines."""

DEADLINE = 15.0 * PATIENCE
"""Seconds that anything may take that should take milliseconds."""

BOOT = 2 * DEADLINE
"""Seconds that a server may take to start, or to exchange its workers: frameworks import
for seconds, and other tests have the processors too."""

QUIET = 0.3
"""Seconds of silence taken as proof that nothing comes. Only for absence, which no
event announces; a slow machine can make such a test pass wrongly, never fail."""


class DeadlineMissed(AssertionError):
    """Something did not happen in time."""


def eventually(check: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Returns the first true value of ``check``, for states that send no event."""
    end = time.monotonic() + deadline
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise DeadlineMissed(f"not within {deadline:.0f} s: {what}")
        select.select([], [], [], 0.01)


def wait_gone(pid: int, deadline: float = DEADLINE) -> bool:
    """Waits for the end of any process; False when it still lives at the deadline."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        readable, _, _ = select.select([descriptor], [], [], max(deadline, 0))
    finally:
        os.close(descriptor)
    return bool(readable)
