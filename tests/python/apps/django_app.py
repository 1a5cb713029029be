"""Django over ASGI, in one file: middleware, template, form, upload, stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import django
from django.conf import settings

settings.configure(
    DEBUG=False,
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {"hello.html": "<p>Hello {{ name }}, for the {{ count }}. time</p>"},
                    )
                ]
            },
        }
    ],
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse  # noqa: E402
from django.shortcuts import render  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


async def ping(request: HttpRequest) -> HttpResponse:
    return HttpResponse("pong")


def sync(request: HttpRequest) -> HttpResponse:
    return HttpResponse("from a thread")


def hello(request: HttpRequest, name: str) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return render(request, "hello.html", {"name": name, "count": request.session["count"]})


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    file: Any = request.FILES["file"]
    return HttpResponse(str(sum(len(chunk) for chunk in file.chunks())))


def guarded(request: HttpRequest) -> HttpResponse:
    return HttpResponse("never reached without a token")


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d;" % number
            await asyncio.sleep(0)

    return StreamingHttpResponse(parts())


async def slow(request: HttpRequest) -> HttpResponse:
    print("django waits", flush=True)
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        print("django was cancelled", flush=True)
        raise
    return HttpResponse("too late")


def error(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("on purpose")


urlpatterns = [
    path("ping", ping),
    path("sync", sync),
    path("hello/<name>", hello),
    path("upload", upload),
    path("guarded", guarded),
    path("stream", stream),
    path("slow", slow),
    path("error", error),
]

app = get_asgi_application()
