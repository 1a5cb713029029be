"""Measure rsgun beside its peers: the same Python, alternating rounds, medians.

For each case all servers are started and checked for the right answer; then each in
turn is loaded for some seconds, in an order that moves by one every round, so that a
slow moment of the machine hits all of them. A server with several candidates (granian
with its two event loops) is represented by the one that does best in a short trial.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import environment as environments
import report
from cases import CASES, Case
from load import Sample, Tools, build_websocket_client, require_wrk, run
from processes import BenchmarkError, Server, free_port
from servers import CANDIDATES, SERVERS, Candidate, Environment

WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    environment: Environment
    tools: Tools
    rounds: int
    seconds: float
    pinned: bool

    def cores(self, case: Case) -> tuple[set[int], set[int]]:
        """Return the cores of the server and of the load."""
        cores = sorted(os.sched_getaffinity(0))
        if not self.pinned or case.workers > 1 or len(cores) == 1:
            # Two workers get two cores, and the load what they leave.
            return set(cores[:2]) if self.pinned else set(cores), set(cores)
        # The last core is never the hyper-thread sibling of the first.
        return {cores[0]}, {cores[-1]}


def measure(plan: Plan, case: Case, servers: list[str]) -> dict[str, list[Sample]]:
    """Return the samples of each server's best candidate, by label."""
    candidates = [
        candidate
        for candidate in CANDIDATES
        if candidate.server in servers and case.interface in candidate.interfaces
    ]
    server_cores, load_cores = plan.cores(case)
    with ExitStack() as stack:
        running: dict[str, tuple[Candidate, Server]] = {}
        for candidate in candidates:
            port = free_port()
            command = candidate.command(plan.environment, case, port)
            server = stack.enter_context(Server(candidate.label, command, port, server_cores))
            server.wait_until_right(case.path, case.body)
            running[candidate.label] = candidate, server

        def load(label: str, seconds: float) -> Sample:
            server = running[label][1]
            return run(plan.tools, server, case, seconds, load_cores)

        for label in running:
            load(label, WARM_UP_SECONDS)
        labels = _best_labels([candidate for candidate, _ in running.values()], load, plan.seconds)
        samples: dict[str, list[Sample]] = {label: [] for label in labels}
        for number in range(plan.rounds):
            turn = number % len(labels)
            for label in labels[turn:] + labels[:turn]:
                samples[label].append(load(label, plan.seconds))
        for label in labels:
            running[label][1].wait_until_right(case.path, case.body)
        return samples


def _best_labels(candidates: list[Candidate], load, seconds: float) -> list[str]:
    """Return one label for each server: the candidate with the highest rate."""
    labels = []
    for server in dict.fromkeys(candidate.server for candidate in candidates):
        own = [candidate.label for candidate in candidates if candidate.server == server]
        if len(own) > 1:
            own.sort(key=lambda label: load(label, seconds).requests_per_second)
        labels.append(own[-1])
    return labels


def parse_arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--only", nargs="+", metavar="CASE", help=f"of: {names}; with wildcards")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--rounds", type=int, default=5, help="rounds a case (default 5)")
    parser.add_argument("--seconds", type=float, default=5, help="seconds a run (default 5)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 seconds")
    parser.add_argument("--unpinned", action="store_true", help="leave the cores to the kernel")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument(
        "--readme",
        type=Path,
        nargs="?",
        const=environments.ROOT / "README.md",
        metavar="FILE",
        help="put the table into FILE (default README.md)",
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--python", type=Path, help="interpreter for a new environment")
    parser.add_argument(
        "--environment",
        type=Path,
        default=environments.ROOT / ".venv-bench",
        metavar="DIR",
        help="virtual environment (default .venv-bench)",
    )
    parser.add_argument(
        "--as-it-is", action="store_true", help="install nothing into the environment"
    )
    parser.add_argument(
        "--rsgun",
        type=Path,
        metavar="FILE",
        help="measure this binary instead of the installed one",
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 3, 2
    if options.rounds < 1 or options.seconds < 1:
        parser.error("at least one round of one second")
    options.cases = [
        case
        for case in CASES
        if not options.only or any(fnmatch(case.name, pattern) for pattern in options.only)
    ]
    if not options.cases:
        parser.error(f"no case matches {' '.join(options.only)}: there are {names}")
    return options


def prepare(options: argparse.Namespace) -> Plan:
    """Make the environment and find the tools."""
    wrk = require_wrk()
    directory = options.environment.absolute()
    if options.as_it_is:
        environment = Environment(directory, directory / "bin" / "rsgun")
    else:
        environment = environments.prepare(directory, options.python)
    if options.rsgun:
        environment = Environment(directory, options.rsgun.absolute())
    tools = Tools(wrk, build_websocket_client(directory))
    return Plan(environment, tools, options.rounds, options.seconds, not options.unpinned)


def main() -> int:
    """Run the benchmark and return the exit code."""
    options = parse_arguments()
    try:
        plan = prepare(options)
        machine = environments.describe(plan.environment)
        results: list[report.Result] = []
        samples: dict[str, dict[str, list[Sample]]] = {}
        for case in options.cases:
            print(f"{case.name}: {case.title}", file=sys.stderr, flush=True)
            measured = samples[case.name] = measure(plan, case, options.servers)
            rows = [
                report.Row.of(label.split(" ")[0], label, runs) for label, runs in measured.items()
            ]
            results.append(report.Result(case, rows))
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    verdicts = report.verdicts(results)
    text = f"{report.table(results)}\n\n" + report.conditions(
        machine, plan.rounds, plan.seconds, plan.pinned
    )
    print(text)
    if verdicts:
        print(f"\n{report.bars_table(verdicts)}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        data = report.as_data(results, samples, machine)
        options.json.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    if options.readme:
        report.update_readme(options.readme, text)
    missed = any(not verdict.holds for verdict in verdicts)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
