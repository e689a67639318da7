"""Runs as processes of their own: several at once, each on cores or a GPU of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateloop.errors import FINISHED, INTERRUPTED, WRONG_INPUT, InputError
from gateloop.experiment.plan import Job, merged
from gateloop.experiment.record import FAILURE
from gateloop.files import clear_disk_errors, write_json_atomic

LOGS = ".logs"  # in runs_dir: a run's folder holds only what the run writes
TRIES = 2
HELD_ELSEWHERE = 10.0  # seconds until a run that another process holds is asked for again
TAIL = 15  # lines of a failed run's log that are shown


@dataclass(frozen=True)
class Seat:
    """What one run has for itself: cores, and a GPU where there are any."""

    cores: tuple[int, ...]
    gpu: str | None = None


def seats(workers: int | None) -> list[Seat]:
    """``workers`` seats with disjoint cores; by default one for each GPU, or a single one.

    Raises InputError where there are more workers than cores.
    """
    cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
    number = workers or max(1, len(gpus))
    if number > len(cores):
        raise InputError(
            f"--workers {number}: there are {len(cores)} cores; take at most {len(cores)}"
        )
    shares = [tuple(cores[i::number]) for i in range(number)]
    return [Seat(share, gpus[i % len(gpus)] if gpus else None) for i, share in enumerate(shares)]


def _gpus() -> list[str]:
    """Indices of the visible GPUs, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [index for index in visible.split(",") if index.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU")]


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
    process: subprocess.Popen[bytes]
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

    ``extra``: what every run is given that its own arguments do not say.
    """

    def __init__(self, seats: Sequence[Seat], extra: Sequence[str]) -> None:
        self.free, self.extra = deque(seats), list(extra)
        self.waiting: list[Task] = []
        self.running: list[Running] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        """Ask every run to save and end, and wait for it."""
        for running in self.running:
            with contextlib.suppress(ProcessLookupError):
                running.process.send_signal(signal.SIGTERM)
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
        """Start as many of the tasks on offer as there are free seats."""
        now = time.monotonic()
        for task in [task for task in self.waiting if task.not_before <= now]:
            if not self.free:
                break
            self.waiting.remove(task)
            self.running.append(self._start(task, self.free.popleft()))

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
        failure = {"identity": json.loads(task.job.key), "code": code, "log": tail}
        with clear_disk_errors(task.folder):
            task.folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(task.folder / FAILURE, failure)
        return Ended(task, code, seconds, tail)

    def _start(self, task: Task, seat: Seat) -> Running:
        environment = {**os.environ, "OMP_NUM_THREADS": str(len(seat.cores))}
        if seat.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = seat.gpu
        arguments = merged(self.extra, task.job.arguments)
        command = [sys.executable, "-m", "gateloop.run", *arguments]
        before = os.sched_getaffinity(0)
        with clear_disk_errors(task.log):
            task.log.parent.mkdir(parents=True, exist_ok=True)
            (task.folder / FAILURE).unlink(missing_ok=True)
            log = task.log.open("ab")
        try:
            os.sched_setaffinity(0, seat.cores)  # a child has its parent's
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this process, which passes it on
            )
        finally:
            os.sched_setaffinity(0, before)
            log.close()
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
