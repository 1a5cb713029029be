"""What docs/deployment.md tells applications behind a proxy to do: its very code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import ROOT

pytestmark = rsgun_only

FASTAPI = """
from fastapi import Request


@app.get("/")
def seen(request: Request):
    return [request.url.scheme, request.client and request.client.host, request.url.hostname]
"""

FLASK = """
from flask import request


@app.get("/")
def seen():
    return [request.scheme, request.remote_addr, request.host]
"""

DJANGO = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["shop.example"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
    SECURE_PROXY_SSL_HEADER=SECURE_PROXY_SSL_HEADER,
    USE_X_FORWARDED_HOST=USE_X_FORWARDED_HOST,
)


def seen(request):
    answer = [request.scheme, request.META["REMOTE_ADDR"], request.get_host()]
    return JsonResponse(answer, safe=False)


urlpatterns = [path("", seen)]
app = get_wsgi_application()
"""


@pytest.mark.parametrize(
    ("mark", "rest", "client"),
    [
        ("from fastapi", FASTAPI, "203.0.113.9"),
        ("from flask", FLASK, "203.0.113.9"),
        ("SECURE_PROXY", DJANGO, ""),
    ],
    ids=["fastapi", "flask", "django"],
)
def test_the_client_behind_a_proxy_is_known(
    serve: Callable[..., Server], tmp_path: Path, mark: str, rest: str, client: str
) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    [code] = re.findall(rf"^```python\n({mark}.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "main.py").write_text(code + rest)
    socket = str(tmp_path / "app.sock")
    server = serve("main:app", "--app-dir", str(tmp_path), "--uds", socket)
    headers = [
        ("Host", "shop.example"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example"),
    ]
    with server.connect(socket) as connection:
        connection.request("/", headers=headers)
        answer = json.loads(connection.response().body)
    assert answer == ["https", client, "shop.example"]
