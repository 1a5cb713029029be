"""The one step that pyproject.toml cannot express: both artifacts from one cargo build.

setuptools-rust builds an extension by selecting its crate alone. That selection has
other features than `cargo build`, so everything would be compiled twice, and it leaves
a second copy of the extension in the target directory, which grows stale and which a
binary that was built later would load. Here the extension is taken from the same
`cargo build --release` that makes the binary.
"""

import json
import subprocess

from setuptools import setup
from setuptools.errors import CompileError
from setuptools_rust import RustBin, RustExtension
from setuptools_rust.build import build_rust

LIBRARY = "rsgun_worker"


class BuildRust(build_rust):
    """Builds the extension as the dependency of the binary that it is."""

    def build_extension(self, ext: RustExtension):
        """Return the modules that were built, each with its path, and no other files."""
        if isinstance(ext, RustBin):
            return super().build_extension(ext)
        command = [self.cargo, "build", "--release", "--message-format=json-render-diagnostics"]
        command += ext.cargo_manifest_args
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if finished.returncode != 0:
            raise CompileError(f"`{' '.join(command)}` failed with code {finished.returncode}")
        for line in finished.stdout.splitlines():
            message = json.loads(line)
            if message["reason"] == "compiler-artifact" and message["target"]["name"] == LIBRARY:
                for path in message["filenames"]:
                    if path.endswith(".so"):
                        return [(ext.name, path)], None
        raise CompileError(f"`{' '.join(command)}` made no shared library {LIBRARY}")


setup(cmdclass={"build_rust": BuildRust})
