"""Runs as processes of their own, or a cluster's jobs: several at once, each on a seat."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateloop.errors import FINISHED, INTERRUPTED, WRONG_INPUT
from gateloop.experiment.corpus import mark_of
from gateloop.experiment.plan import Job, merged
from gateloop.experiment.record import FAILURE
from gateloop.files import clear_disk_errors, write_json_atomic
from gateloop.launching.holding import signals_held
from gateloop.launching.launcher import Full, Launched, Launcher
from gateloop.launching.processes import Processes
from gateloop.launching.seat import Seat, seats

__all__ = ["Ended", "Pool", "Running", "Seat", "Task", "seats"]

LOGS = ".logs"  # in runs_dir: a run's folder holds only what the run writes
TRIES = 2
FULL = 60.0  # seconds until a cluster that takes no more is asked again
HELD_ELSEWHERE = 10.0  # seconds until a run that another process holds is asked for again
TAIL = 15  # lines of a failed run's log that are shown


@dataclass(eq=False)
class Task:
    """A job on its way: where its run is kept, how often it was started, when it may start."""

    job: Job
    folder: Path
    tries: int = 0
    not_before: float = 0.0

    @property
    def log(self) -> Path:
        return self.folder.parent / LOGS / f"{self.folder.name}.log"


@dataclass(eq=False)
class Running:
    task: Task
    seat: Seat
    process: Launched
    started: float = field(default_factory=time.monotonic)

    def progress(self) -> tuple[int, float]:
        """(steps done, tokens per second lately), as the run's own metrics say."""
        try:
            with open(self.task.folder / "metrics.jsonl", "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 4096))
                rows = [json.loads(line) for line in file.read().splitlines()[-6:] if line]
        except (OSError, ValueError):
            return 0, 0.0
        speeds = [row["tokens_per_second"] for row in rows if row.get("tokens_per_second")]
        return max((row.get("step", 0) for row in rows), default=0), speeds[-1] if speeds else 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, the last lines of its log, whether it may go on."""

    task: Task
    code: int
    seconds: float
    tail: str = ""
    again: bool = False


class Pool:
    """Starts tasks on free seats and says how they ended.

    ``extra``: what every run is given that its own arguments do not say. ``launcher``: how they
    are started, by default as processes of this machine.
    """

    def __init__(
        self, seats: Sequence[Seat], extra: Sequence[str], launcher: Launcher | None = None
    ) -> None:
        self.free, self.extra = deque(seats), list(extra)
        self.launcher: Launcher = launcher or Processes()
        self.waiting: list[Task] = []
        self.running: list[Running] = []
        self.refusal = ""  # of a launcher that takes no more just now; for a line of progress
        self.not_before = 0.0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        """Ask every run to save and end, and wait for it."""
        for running in self.running:
            running.process.terminate()
        for running in self.running:
            running.process.wait()

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def offer(self, tasks: Sequence[Task]) -> None:
        """What to start next, in this order, in place of what was offered before."""
        started = [running.task for running in self.running]
        self.waiting = [task for task in tasks if task not in started]

    def ended(self) -> list[Ended]:
        """The processes that have ended since the last call; their seats are free."""
        found = []
        for running in list(self.running):
            code = running.process.poll()
            if code is not None:
                self.running.remove(running)
                self.free.append(running.seat)
                found.append(self._ended(running, code))
        return found

    def start(self) -> None:
        """Start as many of the tasks on offer as there are free seats.

        Raises InputError where the launcher can start none.
        """
        now = time.monotonic()
        for task in [task for task in self.waiting if task.not_before <= now]:
            if not self.free or now < self.not_before:
                break
            try:
                with signals_held():  # what has started is in ``running``, and ended with it
                    self.running.append(self._start(task, self.free[0]))
            except Full as error:
                self.not_before = now + FULL
                self.refusal = f" · {error}"
                break
            self.refusal = ""
            self.free.popleft()
            self.waiting.remove(task)

    def _ended(self, running: Running, code: int) -> Ended:
        task, seconds = running.task, time.monotonic() - running.started
        if code == FINISHED or _diverged(task.folder):
            return Ended(task, code, seconds)
        if code == INTERRUPTED:  # another process holds it, or somebody ended it
            task.not_before = time.monotonic() + HELD_ELSEWHERE
            task.tries -= 1
            return Ended(task, code, seconds, again=True)
        tail = _tail(task.log)
        if task.tries < TRIES and code != WRONG_INPUT:
            return Ended(task, code, seconds, tail, again=True)
        identity = json.loads(task.job.recipe)
        made_from = mark_of(task.job.config.data, fetch=False)
        identity |= {} if made_from is None else {"fingerprint": made_from}
        failure = {"identity": identity, "code": code, "log": tail}
        with clear_disk_errors(task.folder):
            task.folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(task.folder / FAILURE, failure)
        return Ended(task, code, seconds, tail)

    def _start(self, task: Task, seat: Seat) -> Running:
        arguments = merged(self.extra, task.job.arguments)
        command = [sys.executable, "-m", "gateloop.run", *arguments]
        process = self.launcher.start(command, task.log, seat)
        with clear_disk_errors(task.folder):
            (task.folder / FAILURE).unlink(missing_ok=True)
        task.tries += 1
        return Running(task, seat, process)


def _diverged(folder: Path) -> bool:
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("status") == "diverged"


def _tail(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-TAIL:])
