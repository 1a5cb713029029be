__version__: str

def _main(mode: str, channel: int, extension: str) -> None:
    """Run this process as the fork server or as a worker; called by the bootstrap alone."""
