"""Points the tests of requests to the httpbin that rsgun serves (``HTTPBIN_URL``)."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest


@pytest.fixture
def httpbin() -> SimpleNamespace:
    return SimpleNamespace(url=os.environ["HTTPBIN_URL"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves the tests of the library alone, and those of TLS."""
    items[:] = [
        item
        for item in items
        if "httpbin" in item.fixturenames and "httpbin_secure" not in item.fixturenames
    ]
