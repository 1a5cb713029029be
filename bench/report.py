"""What is made of the samples: medians, ratios, bars, and the tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cases import Bar, Case
from load import Sample

OURS = "rsgun"
BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"


@dataclass(frozen=True)
class Row:
    """One server in one case: medians over the rounds."""

    server: str
    label: str
    requests_per_second: float
    p50_us: float
    p99_us: float
    cpu_us_per_request: float

    @classmethod
    def of(cls, server: str, label: str, samples: list[Sample]) -> Row:
        """Take the median of each column."""

        def median(column: str) -> float:
            return statistics.median(getattr(sample, column) for sample in samples)

        return cls(
            server,
            label,
            median("requests_per_second"),
            median("p50_us"),
            median("p99_us"),
            median("cpu_us_per_request"),
        )


@dataclass(frozen=True)
class Result:
    """All rows of one case."""

    case: Case
    rows: list[Row]

    def row(self, server: str) -> Row | None:
        """Return the row of a server, if it took part."""
        return next((row for row in self.rows if row.server == server), None)


@dataclass(frozen=True)
class Verdict:
    """One bar and whether it holds."""

    case: str
    peer: str
    quantity: str
    ratio: float
    bound: str
    holds: bool


def verdicts(results: Iterable[Result]) -> list[Verdict]:
    """Compare each bar with the ratio of medians, rsgun to peer."""
    found = []
    for result in results:
        ours = result.row(OURS)
        for peer, bar in result.case.bars.items():
            theirs = result.row(peer)
            if ours and theirs:
                found.extend(_judge(result.case.name, peer, bar, ours, theirs))
    return found


def _judge(case: str, peer: str, bar: Bar, ours: Row, theirs: Row) -> Iterable[Verdict]:
    if bar.most_cpu is not None:
        ratio = ours.cpu_us_per_request / theirs.cpu_us_per_request
        yield Verdict(case, peer, "CPU", ratio, f"at most {bar.most_cpu}", ratio <= bar.most_cpu)
    if bar.least_rate is not None:
        ratio = ours.requests_per_second / theirs.requests_per_second
        holds = ratio >= bar.least_rate
        yield Verdict(case, peer, "requests/s", ratio, f"at least {bar.least_rate}", holds)


def table(results: Iterable[Result]) -> str:
    """Return the Markdown table of all cases."""
    lines = [
        "| case | server | requests/s | p50 ms | p99 ms | CPU µs per request "
        "| rsgun's requests/s to theirs | rsgun's CPU to theirs |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        ours = result.row(OURS)
        for index, row in enumerate(result.rows):
            rate = cpu = ""
            if ours and row.server != OURS:
                rate = f"{ours.requests_per_second / row.requests_per_second:.2f}"
                cpu = f"{ours.cpu_us_per_request / row.cpu_us_per_request:.2f}"
            title = result.case.title if index == 0 else ""
            lines.append(
                f"| {title} | {row.label} | {row.requests_per_second:,.0f} "
                f"| {row.p50_us / 1000:.2f} | {row.p99_us / 1000:.2f} "
                f"| {row.cpu_us_per_request:.1f} | {rate} | {cpu} |"
            )
    return "\n".join(lines)


def bars_table(found: list[Verdict]) -> str:
    """Return the Markdown table of the bars."""
    lines = ["| bar | ratio | required | holds |", "|---|---:|---|---|"]
    lines += [
        f"| {one.case}, {one.quantity} to {one.peer}'s | {one.ratio:.2f} | {one.bound} "
        f"| {'yes' if one.holds else '**no**'} |"
        for one in found
    ]
    return "\n".join(lines)


def conditions(machine: dict[str, str], rounds: int, seconds: float, pinned: bool) -> str:
    """Return the sentences that say how the figures were made."""
    where = (
        "The server is pinned to one core and wrk to another; servers with two workers share "
        "two cores with wrk, unpinned."
        if pinned
        else "Nothing is pinned: server and wrk share the cores."
    )
    return (
        f"Medians of {rounds} alternating rounds of {seconds:g} s with wrk on the same machine "
        f"({machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}), CPython "
        f"{machine['python']}, one worker each unless said, request logs off, 64 connections "
        f"unless said. {where} CPU is user and system time of the server's whole process tree. "
        f"Versions: {machine['packages']}."
    )


def update_readme(path: Path, text: str) -> None:
    """Replace what stands between the two markers of a Markdown file."""
    content = path.read_text()
    head, begin, rest = content.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no {BEGIN} ... {END} block")
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def as_data(
    results: list[Result], samples: dict[str, dict[str, list[Sample]]], machine: dict[str, str]
) -> dict[str, object]:
    """Return everything, each single run included, for a JSON file."""
    return {
        "machine": machine,
        "cases": {
            result.case.name: {
                "title": result.case.title,
                "medians": [asdict(row) for row in result.rows],
                "samples": {
                    label: [asdict(sample) for sample in runs]
                    for label, runs in samples[result.case.name].items()
                },
            }
            for result in results
        },
        "bars": [asdict(verdict) for verdict in verdicts(results)],
    }
