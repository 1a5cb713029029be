"""Applications of every kind, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

KINDS = """
import functools


async def _reply(send, text):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


def _wsgi_reply(start_response, text):
    start_response("200 OK", [])
    return [text.encode()]


async def asgi3(scope, receive, send):
    assert scope["type"] == "http"
    await _reply(send, "asgi3")


class Asgi3:
    async def __call__(self, scope, receive, send):
        await asgi3(scope, receive, send)


asgi3_instance = Asgi3()
asgi3_partial = functools.partial(asgi3)


def decorated(app):
    @functools.wraps(app)
    def wrapper(*arguments, **keywords):
        return app(*arguments, **keywords)

    return wrapper


def carelessly_decorated(app):
    return lambda *arguments: app(*arguments)


asgi3_decorated = decorated(asgi3)
asgi3_carelessly = carelessly_decorated(asgi3)


class Asgi3Awaited:
    def __init__(self, scope, receive, send):
        self.arguments = scope, receive, send

    def __await__(self):
        return asgi3(*self.arguments).__await__()


def asgi2(scope):
    assert scope["type"] == "http" and scope["asgi"]["version"] == "2.0"

    async def instance(receive, send):
        await _reply(send, "asgi2")

    return instance


class Asgi2:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await asgi2(self.scope)(receive, send)


def wsgi(environ, start_response):
    return _wsgi_reply(start_response, "wsgi")


class Asgi2Careless:
    def __init__(self, context):
        self.context = context

    def __call__(self, receive, send):
        return asgi2(self.context)(receive, send)


class Router:
    def __call__(self, connection):
        return asgi2(connection)

    def method(self, scope):
        return asgi2(scope)

    async def asgi(self, scope, receive, send):
        await asgi3(scope, receive, send)


asgi2_partial = functools.partial(lambda prefix, scope: asgi2(scope), "x")
asgi2_instance = Router()
asgi2_method = Router().method
asgi3_method = Router().asgi


class WithoutSignature:
    __signature__ = "unknown"

    async def __call__(self, *arguments):
        await asgi3(*arguments)


asgi3_without_signature = WithoutSignature()


def endpoint(function):
    @functools.wraps(function)
    async def app(scope, receive, send):
        await _reply(send, await function(scope))

    return app


@endpoint
async def asgi3_with_the_signature_of_another(scope):
    return "asgi3"


class Wsgi:
    def __call__(self, env, start):
        return wsgi(env, start)


app = wsgi
wsgi_instance = Wsgi()
wsgi_partial = functools.partial(lambda prefix, environ, start_response: wsgi(
    environ, start_response), "x")
wsgi_decorated = decorated(wsgi)
wsgi_carelessly = carelessly_decorated(wsgi_instance)


class WsgiIterated:
    def __init__(self, environ, start_response):
        self.parts = wsgi(environ, start_response)

    def __iter__(self):
        return iter(self.parts)


def wsgi_with_more(environ, start_response, debug=False):
    return wsgi(environ, start_response)


class Holder:
    wsgi = staticmethod(wsgi)
    nested = Wsgi()


def create_app(name="plain", *, debug=False, values=()):
    def app(environ, start_response):
        return _wsgi_reply(start_response, f"{name} {debug} {values}")

    return app


def wsgi_with_defaults(environ=None, start_response=None):
    return wsgi(environ, start_response)


def configured(test_config=None):
    return create_app("configured")


def for_environments(env="production", debug=False):
    return create_app(env)


def keyword_only(*, debug=False, **more):
    return create_app()


create_configured = functools.partial(create_app, "configured")


async def create_later():
    return create_app()


async def handler(request):
    return request


def with_a_name(name):
    return create_app(name)


class Framework:
    def __init__(self, *, debug=False, **extra):
        pass

    async def __call__(self, scope, receive, send):
        await asgi3(scope, receive, send)


class SyncFramework:
    def __init__(self, name):
        pass

    def __call__(self, environ, start_response):
        return wsgi(environ, start_response)


class NoApplication:
    def __init__(self, value):
        pass


def opaque(*arguments):
    raise AssertionError("never called")


class WithServer:
    def __init__(self, server):
        self.inner = server

    @property
    def server(self):
        if self.inner is None:
            raise RuntimeError("not yet")
        return self.inner

    def __call__(self, *arguments, **keywords):
        return self.inner(*arguments, **keywords)


wsgi_of_a_server = WithServer(wsgi)
asgi3_of_a_server = WithServer(asgi3_instance)
opaque_without_server = WithServer(None)
opaque_with_another = WithServer(opaque)
"""
"""Each answers with its kind."""


@pytest.fixture
def kinds(module: Callable[[str, str], Path]) -> Path:
    """A directory with the applications in ``kinds.py``."""
    return module("kinds", KINDS).parent
