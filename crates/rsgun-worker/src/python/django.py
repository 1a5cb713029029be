"""Finds the application of a Django project by its settings, and loads all of it.

A project says what its application is by ASGI_APPLICATION, which only those have that
want to be served so, and WSGI_APPLICATION, which Django's own templates set. Where it
says neither, there still are the modules that every project has beside its settings.
"""

import importlib.util
import os
import sys

from rsgun._loader import LoadError, import_failure, import_named

SETTINGS = {"asgi": "ASGI_APPLICATION", "wsgi": "WSGI_APPLICATION"}
"""By the name of the module that has such an application."""


def application(name, app_dir, interface):
    """Returns the application that belongs to the settings `name`, as MODULE:ATTRIBUTE.

    `interface` is what ``--interface`` says. Raises LoadError.
    """
    kinds = [kind for kind in SETTINGS if interface == "auto" or interface.startswith(kind)]
    if not kinds:
        raise LoadError(
            "ModuleNotFound",
            f"a Django project is no {interface.upper()} application: leave --interface out, or "
            "name the application, such as main:app",
            None,
        )
    try:
        settings = import_named(name, os.path.abspath(app_dir or "."))
    except LoadError as error:
        kind, message, traceback = error.args
        message = f'DJANGO_SETTINGS_MODULE names "{name}": {message}'
        raise LoadError(kind, message, traceback) from None
    for kind in kinds:
        path = getattr(settings, SETTINGS[kind], None)
        if path:
            return _target(name, SETTINGS[kind], path)
    modules = [
        f"{package}{kind}"
        for package in _packages(name)
        # As Django itself serves a project.
        for kind in reversed(kinds)
    ]
    for module in modules:
        if importlib.util.find_spec(module):
            return f"{module}:application"
    raise LoadError(
        "ModuleNotFound",
        f'DJANGO_SETTINGS_MODULE names "{name}", but these settings have no '
        f"{' or '.join(SETTINGS[kind] for kind in kinds)}, and there is no module "
        f"{' or '.join(modules)}: name the application, such as main:app",
        None,
    )


def import_views(app_dir):
    """Imports the views of a project, if the application is one of Django's.

    Django does so at the first request. Code that cannot be imported would be found by
    the users then, and not by the worker that a reload starts first to try the new code.

    Raises LoadError.
    """
    if not {"django.core.handlers.wsgi", "django.core.handlers.asgi"} & sys.modules.keys():
        return
    from django.apps import apps
    from django.conf import settings

    if not (apps.ready and settings.configured and getattr(settings, "ROOT_URLCONF", None)):
        return
    from django.urls import get_resolver

    try:
        _ = get_resolver().url_patterns
    except BaseException as error:
        problem = f'importing the views of "{settings.ROOT_URLCONF}" failed'
        raise import_failure(problem, error, os.path.abspath(app_dir or ".")) from None


def _target(name, setting, path):
    module, _, attribute = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not module or not attribute:
        raise LoadError(
            "AttributeMissing",
            f'{setting} of the settings "{name}" is {path!r} and not of the form '
            '"project.wsgi.application"',
            None,
        )
    return f"{module}:{attribute}"


def _packages(name):
    """Yields the packages around a module with a dot behind each, the inmost first."""
    package, _, _ = name.rpartition(".")
    if not package:
        yield ""
    while package:
        yield f"{package}."
        package, _, _ = package.rpartition(".")
