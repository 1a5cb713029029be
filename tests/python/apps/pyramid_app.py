"""A Pyramid application: routes, a session, a stream, files, and exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import FileResponse, Response
from pyramid.session import SignedCookieSessionFactory
from pyramid.tweens import EXCVIEW


def item(request: Request) -> dict[str, Any]:
    return {
        "number": int(request.matchdict["number"]),
        "query": dict(request.GET),
        "host": request.host,
        "url": request.route_url("item", number=1),
    }


def echo(request: Request) -> Any:
    return request.json_body


def upload(request: Request) -> dict[str, Any]:
    file = request.POST["file"]
    return {
        "name": file.filename,
        "size": len(file.file.read()),
        "field": request.POST["field"],
    }


def count(request: Request) -> Response:
    request.session["count"] = request.session.get("count", 0) + 1
    return Response(str(request.session["count"]))


def stream(request: Request) -> Response:
    def generate() -> Iterator[bytes]:
        for number in range(1000):
            yield f"{number}\n".encode()

    return Response(app_iter=generate(), content_type="text/plain")


def file(request: Request) -> FileResponse:
    return FileResponse(Path(__file__), request=request)


def away(request: Request) -> None:
    raise HTTPFound(request.route_path("item", number=7))


def fails(request: Request) -> None:
    raise RuntimeError("on purpose")


def clean_up_tween(handler: Any, registry: Any) -> Any:
    """Every request is cleaned up, also when its view has failed."""

    def tween(request: Request) -> Response:
        request.add_finished_callback(lambda request: print("finished", request.path, flush=True))
        return handler(request)

    return tween


def main(global_config: dict[str, str] | None = None, **settings: str) -> Any:
    """The factory, in the form that Pyramid's templates have."""
    with Configurator(settings=settings) as config:
        config.set_session_factory(SignedCookieSessionFactory("secret"))
        config.add_tween(f"{__name__}.clean_up_tween", over=EXCVIEW)
        for name, view, pattern in (
            ("item", item, "/items/{number}"),
            ("echo", echo, "/echo"),
            ("upload", upload, "/upload"),
            ("count", count, "/count"),
            ("stream", stream, "/stream"),
            ("file", file, "/file"),
            ("away", away, "/away"),
            ("fails", fails, "/fails"),
        ):
            config.add_route(name, pattern)
            renderer = "json" if view in (item, echo, upload) else None
            config.add_view(view, route_name=name, renderer=renderer)
        config.add_static_view("static", str(Path(__file__).parent))
        return config.make_wsgi_app()


app = main()
