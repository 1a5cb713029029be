"""The servers that go through the chaos test, each with what can be done to it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from .chaos import Account, Chaos
from .processes import look
from .server import Server, free_port
from .target import APPS, binary
from .waiting import eventually
from .wire import Connection

WORKERS = 3
"""Before any TTIN or TTOU."""
WORKERS_MAX = 5

Actions = dict[str, Callable[[], object]]


class Contestant:
    """A running server in the chaos test."""

    def __init__(self, name: str, folder: Path, *arguments: str) -> None:
        self.name = name
        self.port = free_port()
        self.path: str | None = str(folder / "chaos.sock")
        self.workers = WORKERS
        makers = {"rsgun": self._rsgun, "gunicorn": self._gunicorn, "granian": self._granian}
        command = makers[name.split(maxsplit=1)[0]]()
        self.server = Server([*command, *arguments], cwd=folder, environment=self._environment())
        eventually(self._answers, f"{name} serves", 60)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def _environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(APPS)}

    def _rsgun(self) -> list[str]:
        return [
            *(str(binary()), "--python", sys.executable, "--app-dir", str(APPS)),
            *("-b", f"127.0.0.1:{self.port}", "-b", f"unix:{self.path}", "-w", str(WORKERS)),
            *("--no-access-log", "--max-requests", "200", "chaos_app:app"),
        ]

    def _gunicorn(self) -> list[str]:
        worker = {"gunicorn": "asgi", "gunicorn uvicorn": "uvicorn_worker.UvicornWorker"}
        return [
            *(sys.executable, "-m", "gunicorn", "-k", worker[self.name], "-w", str(WORKERS)),
            *("-b", f"127.0.0.1:{self.port}", "-b", f"unix:{self.path}", "--no-control-socket"),
            *("--max-requests", "200", "--log-level", "warning", "chaos_app:app"),
        ]

    def _granian(self) -> list[str]:
        # It listens at one address, and has no limit of requests.
        self.path = None
        return [
            *(sys.executable, "-m", "granian", "--interface", "asgi", "--no-access-log"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", str(WORKERS)),
            *("--respawn-failed-workers", "--log-level", "warning", "chaos_app:app"),
        ]

    def _answers(self) -> bool:
        try:
            with Connection.open(self.address) as connection:
                return connection.get("/", close=True).status == 200
        except OSError:
            return False

    def worker_pids(self) -> list[int]:
        """The processes that may hold connections."""
        if self.name.startswith("rsgun"):
            return [process.pid for process in self.server.workers()]
        family = self.server.family()
        return [
            process.pid
            for process in family
            if process.parent == self.server.pid and "resource_tracker" not in process.title
        ]

    def actions(self, chaos: Chaos) -> Actions:
        """What can be done to it: every signal that it knows, and the death of its parts."""

        def kill_worker() -> bool:
            pids = sorted(self.worker_pids())
            return bool(pids) and chaos.kill(chaos.random.choice(pids))

        def ttin() -> bool:
            if self.workers == WORKERS_MAX:
                return False
            self.workers += 1
            self.server.send_signal(signal.SIGTTIN)
            return True

        def ttou() -> bool:
            if self.workers == 2:
                return False
            self.workers -= 1
            self.server.send_signal(signal.SIGTTOU)
            return True

        def kill_fork_server() -> bool:
            pids = sorted(process.pid for process in self.server.fork_servers())
            return bool(pids) and chaos.kill(chaos.random.choice(pids))

        def kill_candidate() -> bool:
            pids = [process.pid for process in self.server.titled("^rsgun: candidate")]
            return bool(pids) and chaos.kill(pids[0])

        found: Actions = {
            "HUP": lambda: self.server.send_signal(signal.SIGHUP),
            "worker killed": kill_worker,
        }
        if not self.name.startswith("granian"):
            found |= {"TTIN": ttin, "TTOU": ttou}
        if self.name.startswith("rsgun"):
            found["fork server killed"] = kill_fork_server
            found["candidate killed"] = kill_candidate
            found["USR2"] = lambda: self.server.send_signal(signal.SIGUSR2)
        return found

    def lives(self) -> bool:
        """Whether the master is there still."""
        found = look(self.server.pid)
        return found is not None and found.alive


async def torment(contestant: Contestant, *, seed: int, seconds: float) -> Account:
    """The whole story: everything that can be done to a server, then its stop by TERM."""
    chaos = Chaos(contestant.address, contestant.path, seed=seed)

    async def story() -> None:
        await chaos.mayhem(contestant.actions(chaos), seconds)
        if not contestant.lives():
            return
        before = chaos.account.answered.total()
        await chaos.until(
            lambda: chaos.account.answered.total() > before + 50, "it answers afterwards"
        )
        if contestant.name.startswith("rsgun"):
            await chaos.until(
                lambda: len(contestant.worker_pids()) == contestant.workers,
                f"{contestant.workers} workers, as TTIN and TTOU have made it",
            )
        chaos.may_be_gone = True
        contestant.server.send_signal(signal.SIGTERM)
        await chaos.until(lambda: not contestant.lives(), "its end")
        chaos.account.done["TERM"] += 1

    return await chaos.run(story)
