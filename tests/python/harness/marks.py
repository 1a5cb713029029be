"""Marks of tests: which servers, and which users, they are for.

A test that uvicorn is known to fail carries ``differs("uvicorn", reason)``; a test of
what only rsgun has (its processes, signals, messages) is in a module marked
``rsgun_only``.
"""

from __future__ import annotations

import os

import pytest

from .target import TARGET

rsgun_only = pytest.mark.skipif(TARGET != "rsgun", reason="about rsgun, not about the protocol")

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def differs(server: str, reason: str) -> pytest.MarkDecorator:
    """Expects the test to fail on ``server``, and fails when it passes there."""
    return pytest.mark.xfail(server == TARGET, reason=f"{server}: {reason}", strict=True)
