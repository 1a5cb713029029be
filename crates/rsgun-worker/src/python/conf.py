"""Evaluates a gunicorn.conf.py: what it sets, and the hooks that it has."""

import ast
import importlib
import inspect
import json
import os
import sys
import types

from rsgun._loader import LoadError, trim

PREFIX = "rsgun_"

hooks = {}
"""The functions of the file by the names of their hooks."""

values = {}
"""What the file has set of the settings, as it has them."""


def evaluate(path, module, settings, signatures):
    """Runs the file at `path`, or imports `module`.

    `settings` are the names of settings, `signatures` the parameters of each hook and how
    many of them it must have at least. Returns the path, the settings as JSON, and the names
    of the hooks. Raises LoadError if it cannot be evaluated.
    """
    directory = os.getcwd()
    if directory not in sys.path[:1]:
        sys.path.insert(0, directory)
    if module is None:
        path = os.fspath(path)
        source = _read(path)
        namespace = _run(path, source)
    else:
        path, source, namespace = _import(module)
    lines = _lines(source)
    assigned = []
    for name, value in namespace.items():
        where = f"{path}, line {lines[name]}: {name}" if name in lines else f"{path}: {name}"
        if name in signatures:
            if value is not None:
                hooks[name] = _hook(where, value, *signatures[name])
        elif name in settings or name.startswith(PREFIX):
            values[name] = value
            assigned.append({"name": name, "line": lines.get(name), "value": _plain(value)})
    return path, json.dumps(assigned), list(hooks)


def _fail(message, error=None):
    raise LoadError("Configuration", message, trim(error) if error else None) from None


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        _fail(f"cannot read the configuration file {path}: {error.strerror}")


def _run(path, source):
    module = types.ModuleType("__config__")
    module.__file__ = path
    what = f"the configuration file {path}"
    if not path.endswith(".py"):
        what += ", which is read as Python since its name does not end in .toml,"
    # Classes of the file find their module there when they are pickled.
    sys.modules["__config__"] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102
    except SyntaxError as error:
        _fail(f"{what} is not valid Python", error)
    except BaseException as error:
        _fail(f"{what} raised {type(error).__name__}", error)
    return module.__dict__


def _import(name):
    """Returns the path of a module, its source, and what it has set."""
    try:
        module = importlib.import_module(name)
    except SyntaxError as error:
        _fail(f"the configuration module {name} is not valid Python", error)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            _fail(
                f"there is no module {error.name!r} for python:{name}: name the file instead, as "
                f"in `-c path/to/{name.rpartition('.')[2]}.py`, or put the directory to import "
                "from into the variable PYTHONPATH"
            )
        _fail(f"the configuration module {name} raised {type(error).__name__}", error)
    path = getattr(module, "__file__", None) or f"python:{name}"
    # What is not a source file has no lines to tell.
    return path, _read(path) if path.endswith(".py") else b"", vars(module)


def _lines(source):
    """Returns the last line that assigns each name of the module."""
    lines = {}

    def visit(node):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            lines[node.name] = node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            lines[node.id] = node.lineno
        elif not isinstance(node, ast.Lambda):
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(ast.parse(source))
    return lines


def _plain(value):
    """Returns a value in the shape of the `Value` of the settings."""
    text = _text(value)
    kinds = [
        (value is None, "Nothing"),
        (isinstance(value, bool), {"Switch": bool(value is True)}),
        (isinstance(value, int), {"Number": str(value)}),
        (isinstance(value, float), {"Decimal": repr(value)}),
        (text is not None, {"Text": text}),
        (isinstance(value, type), {"Class": _text(_qualified(value)) or "?"}),
    ]
    for fits, plain in kinds:
        if fits:
            return plain
    if isinstance(value, (list, tuple, set, frozenset)):
        texts = [_text(item) for item in value]
        if None not in texts:
            return {"List": texts}
    return {"Other": type(value).__name__}


def _qualified(value):
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def _text(value):
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return str(value)


def _hook(where, value, parameters, least):
    """Returns the function of a hook, if it can be called as one."""
    if isinstance(value, str):
        value = _imported(where, value)
    if not callable(value):
        _fail(f"{where} is a hook, and so must be a function, not {type(value).__name__}")
    count = _arity(value)
    if count is not None and not least <= count <= len(parameters):
        most = len(parameters)
        numbers = str(most) if least == most else f"{least} to {most}"
        _fail(
            f"{where} is called with {', '.join(parameters)}: it must have {numbers} "
            f"parameter{'' if most == 1 else 's'}, not {count}"
        )
    return _shortened(value, count) if count and count < len(parameters) else value


def _imported(where, name):
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        _fail(f"{where} names {name!r}, which cannot be imported", error)


def _arity(function):
    """Returns the number of positional parameters, as gunicorn counts them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters)


def _shortened(function, count):
    def call(*arguments):
        function(*arguments[:count])

    return call
