"""Finds out what kind of application an object is, by how it is to be called.

``app(scope, receive, send)`` is ASGI 3; ``app(scope)``, which returns something to be
called with ``(receive, send)``, is ASGI 2; ``app(environ, start_response)`` is WSGI. An
object with ``__rsgi__(scope, protocol)`` is RSGI, whatever else it is: only frameworks that
prefer that have it. A coroutine function is too, if it is called so by name.

What makes an application can look like one: ``create_app(config=None)`` can be called as
ASGI 2 is, and would fail with every request. So nothing is an application that could do
without the arguments of a request, unless the names of its parameters say so.
"""

import contextlib
import functools
import inspect

COUNTS = {"asgi2": 1, "wsgi": 2, "rsgi": 2, "asgi3": 3}
"""The number of arguments."""
TITLES = {
    "asgi": "an ASGI",
    "asgi2": "an ASGI 2",
    "asgi3": "an ASGI 3",
    "rsgi": "an RSGI",
    "wsgi": "a WSGI",
}
ASYNC_NAMES = {"receive", "send"}
RSGI_NAMES = {"protocol", "proto"}
WSGI_NAMES = {"environ", "env", "start_response"}
REQUEST_NAMES = {"request", "req"}
WRAPPERS_MAX = 5


class Unclear(Exception):
    """The object could be several kinds of application, or none; says why."""


class Maker(Unclear):
    """It makes an application, as it seems."""


class InterfaceError(Exception):
    """The application is not of the kind that it should be.

    Args: the kind (a name of ``FailureKind``), a message for the user, and None.
    """


def classify(app, name, stated, made):
    """Returns the application and its interface: ``asgi3``, ``asgi2``, ``rsgi`` or ``wsgi``.

    `name` is what the user calls it, `stated` what ``--interface`` says, `made` whether
    a factory has made it. An application of ASGI 2 is returned as one of ASGI 3.
    """
    if stated in ("auto", "rsgi") and _has_entry(app):
        return app, "rsgi"
    try:
        found = detect(app)
    except Unclear as problem:
        if not _is_believed(app, stated, isinstance(problem, Maker)):
            message = _refusal(name, problem, stated, made)
            raise InterfaceError("NotCallable", message, None) from None
        found = stated
    if stated in ("asgi2", "asgi3") and _may_take(app, COUNTS[stated]):
        found = stated
    if (stated, found) == ("rsgi", "wsgi") and not _names(_signatures(app)) & WSGI_NAMES:
        # The arguments are as many.
        found = stated
    is_other = stated == "asgi" and found in ("rsgi", "wsgi")
    if found != stated and (stated in COUNTS or is_other):
        raise InterfaceError(
            "NotCallable",
            f"{name} is called as {TITLES[found]} application is, but --interface or "
            f"--worker-class says that it is {TITLES[stated]} application: leave that out",
            None,
        )
    return (_single(app) if found == "asgi2" else app), found


def _refusal(name, problem, stated, made):
    if made:
        text = f"what the factory has made is not recognised as an application: {problem}"
    elif isinstance(problem, Maker):
        # Objects of a program have no name in quotation marks, and no command line.
        option = "--factory" if name.startswith('"') else "factory=True"
        return (
            f"{name} is not recognised as an application: {problem}; "
            f"a function or class that makes the application is served with {option}"
        )
    else:
        text = f"{name} is not recognised as an application: {problem}"
    if stated in COUNTS:
        return f"{text}; it cannot be {stated}, as --interface or --worker-class says"
    return f"{text}; otherwise say what it is with --interface asgi3, asgi2, rsgi or wsgi"


def _is_believed(app, stated, may_make):
    """Whether an object of which nothing else is known may be what `stated` says."""
    if stated not in COUNTS or (stated == "wsgi" and may_make):
        # A worker class is stated out of habit, and says nothing about what makes the
        # application.
        return False
    return _may_take(app, COUNTS[stated])


def _has_entry(app):
    """Whether it has what an RSGI server calls instead of it; a class has it for others."""
    return not inspect.isclass(app) and callable(getattr(app, "__rsgi__", None))


def detect(app, depth=0):
    """Returns ``asgi3``, ``asgi2``, ``rsgi`` or ``wsgi``; raises Unclear."""
    mark = _mark_of(app)
    if mark:
        return mark
    if inspect.isclass(app):
        return _detect_class(app)
    if _is_coroutine_function(app):
        return _detect_coroutine_function(app)
    return _by_parameters(app, depth)


def _mark_of(app):
    """Returns what the marks of asgiref say."""
    if getattr(app, "_asgi_single_callable", False):
        return "asgi3"
    if getattr(app, "_asgi_double_callable", False):
        return "asgi2"
    return None


def _detect_class(app):
    # An instance is made for each request; what it can do tells how it goes on.
    if hasattr(app, "__await__") and _may_take(app, 3):
        return "asgi3"
    call = _call_of(app)
    if call is None:
        if hasattr(app, "__iter__") and _may_take(app, 2):
            return "wsgi"
        return _by_parameters(app)
    # Its first argument is the instance.
    if _may_take(app, 1) and _may_take(call, 3) and _is_second_half(app, call):
        return "asgi2"
    kind = "a class, and its instances look like applications"
    if _may_take(app, 0):
        raise Maker(f"it is {kind}")
    raise Unclear(f"it is {kind}: name an instance, or a function that makes one with --factory")


def _call_of(kind):
    """Returns the ``__call__`` that instances of a class have; None if they have none."""
    owners = (base for base in kind.__mro__ if "__call__" in vars(base))
    return None if next(owners, None) is None else kind.__call__


def _is_second_half(app, call):
    """Whether a class begins what its ``__call__(receive, send)`` ends."""
    if inspect.iscoroutinefunction(call):
        return True
    names = _names(_signatures(app) + _signatures(call))
    return "scope" in names or bool(names & ASYNC_NAMES)


def _is_coroutine_function(value):
    while isinstance(value, functools.partial):
        value = value.func
    if inspect.iscoroutinefunction(value):
        return True
    if inspect.isclass(value):
        return hasattr(value, "__await__") or inspect.iscoroutinefunction(_call_of(value))
    if inspect.isfunction(value) or inspect.ismethod(value):
        return False
    return inspect.iscoroutinefunction(getattr(value, "__call__", None))  # noqa: B004


def _detect_coroutine_function(app):
    if _may_take(app, 3):
        return "asgi3"
    signature = _signatures(app)[0]
    if _takes(signature, 2) and _names([signature]) & RSGI_NAMES:
        return "rsgi"
    if _takes(signature, 0):
        raise Unclear(
            f"it is asynchronous and called as {signature}, and so neither an application, "
            "which takes (scope, receive, send), nor a function for --factory, which is not "
            "asynchronous"
        )
    raise Unclear(
        f"it is asynchronous and called as {signature}, but an application takes "
        "(scope, receive, send)"
    )


def _by_parameters(app, depth=0):
    signatures = _signatures(app)
    if not signatures:
        raise Unclear("it does not tell what arguments it takes")
    signature = signatures[0]
    fits = {count for count in range(4) if _takes(signature, count)}
    names = _names([signature])
    if fits == {2} or (2 in fits and _is_wsgi_by_name(fits, names)):
        return "wsgi"
    if fits == {3} or (3 in fits and _is_asgi_by_name(fits, names)):
        return "asgi3"
    if fits == {1} and names <= REQUEST_NAMES:
        # `tornado.web.Application`: would be ASGI 2 by its number of arguments.
        raise Unclear(
            f"it is called as {signature}, as applications of Tornado are, which is not "
            "served: use Tornado's own server, or an ASGI application"
        )
    may_make = _may_make(app)
    if 0 not in fits and 1 in fits and ("scope" in names or (fits == {1} and not may_make)):
        return "asgi2"
    takes_anything = _takes(signature, WRAPPERS_MAX * max(COUNTS.values()))
    if (0 not in fits or takes_anything) and depth < WRAPPERS_MAX:
        kinds = _wrapped(app, depth) or (_server_of(app, depth) if takes_anything else set())
        if len(kinds) == 1:
            return kinds.pop()
    called = f"it is called as {signature}"
    if 0 in fits and not takes_anything:
        raise Maker(f"it can be called without arguments, as {signature}")
    if fits == {1} and may_make:
        raise Unclear(
            f"{called}; if it makes the application, name it as a call with its argument, "
            "such as main:create_app('production')"
        )
    raise Unclear(called)


def _is_wsgi_by_name(fits, names):
    if "start_response" in names:
        return True
    # Other names may well be those of a function that makes applications for several
    # environments.
    return ("environ" in names and 0 not in fits) or ("env" in names and not fits & {0, 1})


def _is_asgi_by_name(fits, names):
    return names >= ASYNC_NAMES or (0 not in fits and bool(names & ASYNC_NAMES))


def _may_make(value):
    """Whether it could make applications, which functions and classes do."""
    while isinstance(value, functools.partial):
        value = value.func
    return inspect.isroutine(value) or inspect.isclass(value)


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


def _server_of(app, depth):
    """Returns the kind of the application that an object has as its ``server``, if it has.

    Objects of Dash say nothing else about what they pass on, to Flask or to FastAPI.
    """
    with contextlib.suppress(Exception):  # what a property or its __getattr__ raises
        server = getattr(app, "server", None)
        if callable(server):
            return {detect(server, depth + 1)}
    return set()


def _signatures(value):
    """Returns the signature that decorators say, and the real one; none if it is unknown."""
    found = []
    for follow_wrapped in (True, False):
        with contextlib.suppress(TypeError, ValueError):
            found.append(inspect.signature(value, follow_wrapped=follow_wrapped))
    return found


def _names(signatures):
    return {name.lower().strip("_") for each in signatures for name in each.parameters}


def _may_take(value, count):
    """Whether it can be called with as many arguments, as far as one can see."""
    signatures = _signatures(value)
    return not signatures or any(_takes(each, count) for each in signatures)


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
