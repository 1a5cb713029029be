"""Finds out what kind of application an object is, by how it is to be called.

``app(scope, receive, send)`` is ASGI 3; ``app(scope)``, which returns something to be
called with ``(receive, send)``, is ASGI 2; ``app(environ, start_response)`` is WSGI.
"""

import contextlib
import functools
import inspect

KINDS = {1: "asgi2", 2: "wsgi", 3: "asgi3"}
"""By the number of arguments."""
SYNC_NAMES = {"environ", "env", "start_response"}
ASYNC_NAMES = {"receive", "send"}
WRAPPERS_MAX = 5


class Unclear(Exception):
    """The object could be several kinds of application, or none; says why."""


class InterfaceError(Exception):
    """The application is not of the kind that it should be.

    Args: the kind (a name of ``FailureKind``), a message for the user, and None.
    """


def classify(app, name, stated):
    """Returns the application and its interface: ``asgi3``, ``asgi2`` or ``wsgi``.

    `name` is what the user calls it, `stated` what ``--interface`` says. An
    application of ASGI 2 is returned as one of ASGI 3.
    """
    found = stated
    if stated in ("auto", "asgi"):
        try:
            found = detect(app)
        except Unclear as problem:
            raise InterfaceError(
                "NotCallable",
                f"{name} is not recognised as an application: {problem}; "
                "otherwise say what it is with --interface asgi3, asgi2 or wsgi",
                None,
            ) from None
    if stated == "asgi" and found == "wsgi":
        raise InterfaceError(
            "NotCallable",
            f"{name} is called as a WSGI application is, but --interface or --worker-class "
            "says that it is an ASGI application",
            None,
        )
    return (_single(app) if found == "asgi2" else app), found


def detect(app, depth=0):
    """Returns ``asgi3``, ``asgi2`` or ``wsgi``; raises Unclear."""
    # The marks that asgiref knows.
    if getattr(app, "_asgi_single_callable", False):
        return "asgi3"
    if getattr(app, "_asgi_double_callable", False):
        return "asgi2"
    if inspect.isclass(app):
        return _detect_class(app)
    if _is_coroutine_function(app):
        return "asgi3"
    return _by_parameters(app, depth)


def _detect_class(app):
    # An instance is made for each request; what it can do tells how it goes on.
    if hasattr(app, "__await__"):
        return "asgi3"
    if _is_coroutine_function(getattr(app, "__call__", None)):  # noqa: B004
        return "asgi2"
    if hasattr(app, "__iter__"):
        return "wsgi"
    return _by_parameters(app)


def _is_coroutine_function(value):
    while isinstance(value, functools.partial):
        value = value.func
    if inspect.iscoroutinefunction(value):
        return True
    if inspect.isfunction(value) or inspect.ismethod(value) or inspect.isclass(value):
        return False
    return inspect.iscoroutinefunction(getattr(value, "__call__", None))  # noqa: B004


def _by_parameters(app, depth=0):
    try:
        # Follows decorators that say what they wrap.
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        raise Unclear("it does not tell what arguments it takes") from None
    fits = [count for count in (1, 2, 3) if _takes(signature, count)]
    if len(fits) == 1:
        return KINDS[fits[0]]
    names = {name.lower() for name in signature.parameters}
    if 2 in fits and names & SYNC_NAMES:
        return "wsgi"
    if 3 in fits and names & ASYNC_NAMES:
        return "asgi3"
    if 1 in fits and "scope" in names:
        return "asgi2"
    if not fits and _takes(signature, 0):
        raise Unclear(
            "it takes no arguments: a function that makes the application is served with --factory"
        )
    wrapped = _wrapped(app, depth) if depth < WRAPPERS_MAX else set()
    if len(wrapped) == 1:
        return wrapped.pop()
    raise Unclear(f"it is called as {signature}")


def _wrapped(app, depth):
    """Returns the kinds of what a wrapper without a signature of its own refers to."""
    kinds = set()
    for cell in getattr(app, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        if callable(value):
            with contextlib.suppress(Unclear):
                kinds.add(detect(value, depth + 1))
    return kinds


def _takes(signature, count):
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _single(app):
    """Makes an application of ASGI 2 callable as one of ASGI 3."""

    async def single(scope, receive, send):
        await app(scope)(receive, send)

    return single
