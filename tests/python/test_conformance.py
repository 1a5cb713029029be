"""The tests of starlette, asgiref, and requests, over the wire: `make conformance`.

Those of starlette and asgiref talk to an application through a test client; here every
such call goes through a socket to rsgun (`conformance/wire.py`). Those of requests talk
to httpbin, which rsgun serves. What differs stands with its reason in
`conformance/differences.toml`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import conformance
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = [
    rsgun_only,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("RSGUN_CONFORMANCE"),
        reason="`make conformance` runs it; test_httpbin.py has the small set",
    ),
]

Serve = Callable[..., Server]
DEADLINE = 400

STARLETTE = [
    *("-p", "no:asyncio", "tests"),
    # Its own test client, and what needs packages that have nothing to do with serving.
    *("--ignore=tests/test_testclient.py", "--ignore=tests/middleware/test_opentelemetry.py"),
]
ASGIREF = ["-o", "asyncio_default_fixture_loop_scope=function", "tests/test_wsgi.py"]


@pytest.mark.parametrize(
    ("project", "arguments", "least"), [("starlette", STARLETTE, 450), ("asgiref", ASGIREF, 5)]
)
def test_applications(
    serve: Serve, tmp_path: Path, project: str, arguments: list[str], least: int
) -> None:
    python = conformance.environment()
    results = tmp_path / "results.json"
    server = serve(
        "wire:app",
        *("--app-dir", str(conformance.FILES), "--no-access-log"),
        python=str(python),
        environment=conformance.wire_environment(project, arguments, results),
    )
    # Many of their applications raise on purpose.
    server.tolerates_tracebacks = True
    assert server.get("/begin").status == 204
    server.wait_for_line("^wire: finished", deadline=DEADLINE)
    found = conformance.outcomes(results)
    wired = [outcome for outcome in found if outcome.calls]
    passed = sum(not outcome.has_failed for outcome in wired)
    print(f"{project}: {passed} of {len(wired)} tests pass over the wire")
    assert passed >= least
    problems = conformance.unexplained(project, found)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("app", ["httpbin:app", "httpbin_app:app"], ids=["wsgi", "adapter"])
def test_requests(serve: Serve, tmp_path: Path, app: str) -> None:
    python = conformance.environment()
    server = serve(app, python=str(python))
    done = subprocess.run(
        [
            *(str(python), "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"),
            *("-p", "httpbin_plugin", "--basetemp", str(tmp_path / "pytest"), "tests"),
        ],
        cwd=conformance.sources("requests"),
        env={
            **os.environ,
            "HTTPBIN_URL": server.url,
            "PYTHONPATH": str(conformance.FILES),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) passed", done.stdout)
    assert found
    print(f"requests: {found[1]} tests pass against httpbin")
    assert int(found[1]) >= 190
