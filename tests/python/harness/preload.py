"""Libraries that stand between a server and the C library, for what only happens by chance."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def compile_library(source: str, folder: Path) -> Path:
    """A library from C source, for ``LD_PRELOAD``."""
    compiler = shutil.which("cc")
    assert compiler, "the tests need a C compiler"
    file, library = folder / "preload.c", folder / "preload.so"
    file.write_text(source)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(file), "-ldl"]
    subprocess.run(command, check=True)
    return library
