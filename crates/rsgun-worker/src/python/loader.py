"""Finds the application that the user has named."""

import ast
import difflib
import importlib
import inspect
import os
import sys
import traceback

APPLICATIONS = ("application", "app")
"""What an application is called when no name is given, in this order."""

packages = set()
"""The top-level names of the modules that applications were asked of."""

FACTORIES = ("create_app", "make_app")
"""What a function that makes the application is usually called."""


class LoadError(Exception):
    """The application cannot be loaded.

    Args: the kind (a name of ``FailureKind``), a message for the user, and the
    traceback of the application's own code, or None.
    """

    def __str__(self):
        _, message, frames = self.args
        return f"{message}\n{frames}" if frames else message


def trim(error):
    """Returns the traceback text of `error` without the frames of the server.

    What is left are the frames of the application; the machinery of an import
    between them is left out by Python itself.
    """
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    # Names of files may hold bytes that are no text.
    return text.encode("utf-8", "backslashreplace").decode()


def _is_ours(filename):
    return filename.startswith(("<rsgun", "<frozen importlib", "<string>")) or (
        filename.endswith(os.path.join("importlib", "__init__.py"))
    )


def prepare(app_dir, more, captures):
    """Puts the directory of the application, and `more` of them, first on ``sys.path``.

    With `captures` the output of the application goes to a log file, where it must
    appear when it is printed, and not when a buffer is full.
    """
    if captures and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    for path in [*reversed(more), app_dir]:
        find_first(path)
    sys.argv = ["rsgun"]


def find_first(app_dir):
    """Puts a directory first on ``sys.path``."""
    directory = os.path.abspath(app_dir or ".")
    if directory not in sys.path[:1]:
        sys.path.insert(0, directory)


def load(target, app_dir, factory):
    """Imports `target` (``MODULE:ATTRIBUTE``) and returns the application.

    The module may be a path to a file. The attribute may be a call with literal
    arguments. Without one the module's ``application``, then ``app`` is taken.

    Raises LoadError for everything that can go wrong.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name:
        raise LoadError(
            "ModuleNotFound",
            f'"{target}" names no module: write MODULE:ATTRIBUTE, such as main:app',
            None,
        )
    directory = os.path.abspath(app_dir or ".")
    written = module_name
    if module_name.endswith(".py"):
        module_name, directory = _module_of_file(os.path.join(directory, module_name))
        find_first(directory)
    attribute, call = _parse(target, attribute)
    packages.add(module_name.partition(".")[0])
    module = import_named(module_name, directory)
    where = f'module "{module_name}" ({getattr(module, "__file__", None) or "built in"})'
    use = "called" if call is not None else "--factory" if factory else "served"
    app = _resolve(module, where, written, attribute, use)
    if call is not None:
        arguments, keywords = call
        app = _call_factory(app, f'"{target}"', "the call", *arguments, **keywords)
    return finish(app, f'"{target}"', factory)


def finish(app, name, factory):
    """Returns the application that `app` is, or makes, if it is a factory.

    Raises LoadError, which calls it by its `name`.
    """
    if factory:
        app = _call_factory(app, name, _option(name))
    if not callable(app) and not callable(getattr(app, "__rsgi__", None)):
        hint = ""
        if not factory:
            hint = "; an application is a callable object"
        raise LoadError(
            "NotCallable",
            f"{name} is {_describe(app)} and cannot be called{hint}",
            None,
        )
    return app


def _module_of_file(path):
    """Returns the name of the module in a file, and the directory to import it from."""
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise LoadError("ModuleNotFound", f"there is no file {path}", None)
    directory, name = os.path.split(path)
    parts = [] if name == "__init__.py" else [name[: -len(".py")]]
    while os.path.isfile(os.path.join(directory, "__init__.py")):
        directory, package = os.path.split(directory)
        parts.insert(0, package)
    return ".".join(parts), directory


def _parse(target, text):
    """Splits an attribute into its dotted name, and the arguments if it is a call."""
    if "(" not in text:
        return text, None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise LoadError(
            "AttributeMissing",
            f'"{text}" in "{target}" is neither the name of an attribute nor a call: {error.msg}',
            None,
        ) from None
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name | ast.Attribute):
        raise LoadError(
            "AttributeMissing",
            f'"{text}" in "{target}" is not a call of the form NAME(arguments)',
            None,
        )
    try:
        arguments = [ast.literal_eval(argument) for argument in tree.args]
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except ValueError:
        keywords = {None: None}
    if None in keywords:
        raise LoadError(
            "AttributeMissing",
            f"the arguments in \"{target}\" must be literals, such as 'prod' or debug=True",
            None,
        )
    return ast.unparse(tree.func), (arguments, keywords)


def _describe(value):
    kind = type(value).__name__
    return f"a{'n' if kind[:1] in 'aeiouAEIOU' else ''} {kind}"


def import_named(name, directory):
    """Imports a module of the application, which should be found from `directory` on.

    Raises LoadError.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            message = _no_module(name, missing, directory)
            raise LoadError("ModuleNotFound", message, None) from None
        raise import_failure(f'importing "{name}" failed', error, directory) from None
    except BaseException as error:
        raise import_failure(f'importing "{name}" failed', error, directory) from None


def import_failure(problem, error, directory):
    """Returns the LoadError of an import that has raised."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and "." not in missing:
        problem += (
            f': there is no module "{missing}" in {sys.executable}'
            f"{_near_modules(missing, directory, cutoff=0.8)}; "
            "install it there, or name another interpreter with --python"
        )
    return LoadError("ImportRaised", problem, trim(error))


def _no_module(name, missing, directory):
    parent, _, attribute = missing.rpartition(".")
    if name == missing and hasattr(sys.modules.get(parent), attribute):
        return (
            f'there is no module "{missing}", but the module "{parent}" has "{attribute}": '
            f"write {parent}:{attribute}"
        )
    return (
        f'there is no module "{missing}": looked in {directory} and on sys.path'
        f"{_near_modules(missing, directory)}; "
        "name the directory of the application with --app-dir"
    )


def _near_modules(name, directory, cutoff=0.6):
    try:
        entries = os.listdir(directory)
    except OSError as error:
        return f" (the directory cannot be read: {error.strerror})"
    stems = [entry[:-3] for entry in entries if entry.endswith(".py")]
    near = difflib.get_close_matches(name, stems, n=1, cutoff=cutoff)
    return f' (did you mean "{near[0]}"?)' if near else ""


def _resolve(module, where, written, attribute, use):
    """Returns what the user has named, with `written` before the colon.

    `where` describes the module. `use` is what becomes of the attribute: it is "served",
    "called" by the user's parentheses, or called because of "--factory".
    """
    if not attribute:
        for candidate in APPLICATIONS:
            if hasattr(module, candidate):
                return getattr(module, candidate)
        raise LoadError(
            "AttributeMissing",
            f'{where} has neither "application" nor "app"{_suggest(module, written, use)}',
            None,
        )
    value = module
    seen = written + ":"
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            near = difflib.get_close_matches(part, _public_callables(value), n=3, cutoff=0.5)
            hint = _suggest(module, written, use, [seen + name for name in near])
            raise LoadError(
                "AttributeMissing", f'{where} has no attribute "{attribute}"{hint}', None
            ) from None
        seen += part + "."
    return value


def _suggest(module, written, use, near=()):
    """Ends a message about a missing attribute with what to write instead.

    `near` are those that are spelt alike. Who has forgotten how the application is called
    has often written nothing like it, so what the module has is offered too.
    """
    callables = _public_callables(module)
    apps = [
        f"{written}:{name}"
        for name in callables
        if name in APPLICATIONS or _takes_requests(getattr(module, name))
    ]
    factories = [f"{written}:{name}" for name in callables if name in FACTORIES]
    if use == "served":
        names = [name for name in near if name in apps] or apps or near or factories
        names = [f"{name}()" if name in factories else name for name in names]
    else:
        names = [name for name in near if name not in apps] or factories
        if use == "called":
            names = [f"{name}()" for name in names]
        names = names or apps
    if not names:
        return f": name the application as {written}:NAME"
    hint = ", did you mean " + " or ".join(f'"{name}"' for name in names[:3])
    if use == "--factory" and names is apps:
        hint += " without --factory"
    return hint + "?"


def _public_callables(value):
    return [name for name in dir(value) if not name.startswith("_") and _can_call(value, name)]


def _can_call(value, name):
    try:
        return callable(getattr(value, name))
    except Exception:  # what a property or a module's __getattr__ raises
        return False


def _takes_requests(value):
    """Whether its parameters have the names that ASGI or WSGI gives them.

    The applications of all frameworks keep to them. So do some classes, such as
    Starlette's Request, which are none.
    """
    if inspect.isclass(value):
        return False
    try:
        names = tuple(inspect.signature(value).parameters)
    except Exception:  # nothing to inspect, or a proxy of what does not exist yet
        return False
    return names[-2:] == ("receive", "send") or names[-1:] == ("start_response",)


def _option(name):
    # Objects of a program have no name in quotation marks, and no command line.
    return "--factory" if name.startswith('"') else "factory=True"


def _call_factory(factory, name, option, *arguments, **keywords):
    """Calls what is called by its `name`, because of an `option`."""
    if not callable(factory):
        raise LoadError(
            "NotCallable",
            f"{name} is {_describe(factory)} and not a function that makes the "
            f"application: leave out {option}",
            None,
        )
    try:
        made = factory(*arguments, **keywords)
    except BaseException as error:
        if isinstance(error, TypeError) and error.__traceback__.tb_next is None:
            # The call itself has failed: no line of the factory has run.
            message = _misfit(factory, name, option, error)
            raise LoadError("NotCallable", message, None) from None
        title = f"the factory {name}" if name.startswith('"') else "the factory"
        raise LoadError("FactoryRaised", f"{title} failed", trim(error)) from None
    if inspect.iscoroutine(made):
        made.close()
        raise LoadError(
            "NotCallable",
            f"{name} is asynchronous; a function that makes the application cannot be",
            None,
        )
    return made


def _misfit(factory, name, option, error):
    text = f"{name} cannot be called so: {error}; "
    if inspect.isroutine(factory) or inspect.isclass(factory):
        return f"{text}if it is the application itself, leave out {option}"
    return f"{text}it is {_describe(factory)} and not a function: leave out {option}"
