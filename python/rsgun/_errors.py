"""What the functions of the package raise."""


class ConfigError(ValueError):
    """A setting has a wrong value, or one that does not fit the others.

    The message names the argument, the environment variable, or the line of the file.
    """


class StartupError(RuntimeError):
    """A server did not start.

    It cannot listen or log (code 1), or the application could not be loaded or started
    (4 when the module has no such attribute, else 3).
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """The exit code of a process that ends over it, as `rsgun.run` does."""
