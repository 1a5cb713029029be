"""The chaos test on rsgun and its peers, side by side: `make chaos-table`.

Each server gets the same load and, for the same time, whatever it can stand: reloads,
workers more and fewer, recycling after 200 requests, workers killed, and at the end TERM.
`tests/python/harness/chaos.py` says what counts as lost.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests" / "python"
sys.path.insert(0, str(TESTS))

from harness.chaos import Account  # noqa: E402
from harness.contestants import Contestant, torment  # noqa: E402

SERVERS = ["rsgun", "rsgun --preload", "gunicorn", "gunicorn uvicorn", "granian"]


def main() -> None:
    """Runs one server after the other and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each server")
    parser.add_argument("--seed", type=int, default=1 + secrets.randbelow(1 << 30))
    parser.add_argument("--servers", nargs="+", default=SERVERS)
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:.0f} s each", file=sys.stderr)
    rows = []
    for name in options.servers:
        rows.append(row(name, *run(name, options.seed, options.seconds)))
        print(rows[-1], file=sys.stderr)
    print(
        "| server | answered | lost | died with a killed worker | slowest ms | done to it "
        "| lost how |\n|---|---:|---:|---:|---:|---|---|"
    )
    print("\n".join(rows))


def run(name: str, seed: int, seconds: float) -> tuple[Account | None, str]:
    """Torments one server; its account, or why there is none."""
    kind, _, option = name.partition(" --")
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--{option}"] if option else []
        contestant = Contestant(kind, Path(folder), *arguments)
        try:
            account = asyncio.run(torment(contestant, seed=seed, seconds=seconds))
            remark = "" if "TERM" in account.done else "; the master has died"
            return account, remark
        except BaseExceptionGroup as failed:
            # It did not come back, or did not end.
            return None, "; ".join(str(error) for error in failed.exceptions)
        finally:
            contestant.server.kill()


def row(name: str, account: Account | None, remark: str) -> str:
    """One line of the table."""
    if account is None:
        return f"| {name} | | | | | | {remark} |"
    done = ", ".join(f"{count} {what}" for what, count in sorted(account.done.items()))
    lost = "; ".join(f"{count} {way}" for way, count in sorted(account.lost.items()))
    return (
        f"| {name} | {account.answered.total():,} | {account.lost.total():,} | {account.killed} "
        f"| {account.slowest * 1000:,.0f} | {done} | {lost}{remark} |"
    )


if __name__ == "__main__":
    main()
