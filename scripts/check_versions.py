"""Check that the package has one version: in Cargo.toml, in Python, in the changelog."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Exit with what differs, if anything does."""
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    package = (ROOT / "python/rsgun/__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', package, re.MULTILINE)
    python = found.group(1) if found else "none"
    if cargo != python:
        sys.exit(f"Error: Cargo.toml has version {cargo}, python/rsgun/__init__.py has {python}")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    if "## [Unreleased]" not in changelog and f"## [{cargo}]" not in changelog:
        sys.exit(f"Error: CHANGELOG.md has no section for version {cargo} and none for Unreleased")


if __name__ == "__main__":
    main()
