"""rsgun: a process manager and HTTP server for Python web applications.

The server is the native command `rsgun`, which `python -m rsgun` starts too.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
