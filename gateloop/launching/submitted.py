"""A job that submitit has submitted: whether it goes on, and how it ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateloop.errors import CRASHED, FINISHED, INTERRUPTED
from gateloop.files import clear_disk_errors
from gateloop.launching.queue import Queue

if TYPE_CHECKING:
    import submitit

RESULT_LATE = 15.0  # seconds that a shared file system may take to show a job's result
AGAIN = 5.0  # seconds until a job that goes on is asked to end once more


class Job(ABC):
    """A job on its way, and how it ended; a Launched."""

    patience = 0.0  # seconds for its result to show after it has ended

    def __init__(self, job: submitit.Job[int], log: Path, folder: Path) -> None:
        self.job, self.log, self.folder = job, log, folder
        self.since = time.monotonic()
        self.gone: float | None = None
        self.code: int | None = None

    @abstractmethod
    def goes_on(self) -> bool:
        """Whether it has not ended yet."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask it to save and end."""

    def poll(self) -> int | None:
        if self.code is None and not self.goes_on():
            self.gone = self.gone or time.monotonic()
            if self.has_result or time.monotonic() - self.gone > self.patience:
                self.code = self._collect()
        return self.code

    def wait(self) -> None:
        asked = time.monotonic()
        while self.goes_on():
            if time.monotonic() - asked > AGAIN:
                self.terminate()
                asked = time.monotonic()
            time.sleep(0.2)

    @property
    def has_result(self) -> bool:
        """Whether every task of the job has left one; it may be of a start before the last."""
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # makes NFS look again
        tasks = (self.job.task(i) for i in range(self.job.num_tasks))
        return all(task.paths.result_pickle.exists() for task in tasks)

    def _collect(self) -> int:
        """The job's exit code; where it has none, the end of its own log is added to the run's."""
        error: Any = None
        codes = []
        if self.has_result:
            error = self.job.exception()
            codes = [] if error else self.job.results()
        if codes:
            code = worst(codes)
        else:
            code = CRASHED
            self._explain(str(error) if error else f"job {self.job.job_id} ended without a result")
        if code == FINISHED:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()  # with the last of them
        return code

    def _explain(self, line: str) -> None:
        try:
            own = self.job.task(0).paths.stdout.read_text(encoding="utf-8", errors="replace")
        except OSError:
            own = ""
        with clear_disk_errors(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{own.strip()}\ngateloop: {line.strip()}\n")


class SlurmJob(Job):
    """In the queue it goes on, whatever results it has left: it may be there to start again."""

    patience = RESULT_LATE

    def __init__(self, job: submitit.Job[int], log: Path, folder: Path, queue: Queue) -> None:
        super().__init__(job, log, folder)
        self.queue = queue

    def goes_on(self) -> bool:
        return self.queue.holds(self.job.job_id, self.since)

    def terminate(self) -> None:
        self.queue.end(self.job.job_id)


class LocalJob(Job):
    """Submitit's process that watches over the job's; its id is the job's."""

    def goes_on(self) -> bool:
        return not self.job.done()

    def terminate(self) -> None:
        if self.goes_on():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.job.job_id), signal.SIGTERM)


def worst(codes: Sequence[int]) -> int:
    """One exit code for a job's processes: a failure before an interruption before success."""
    failures = [code for code in codes if code not in (FINISHED, INTERRUPTED)]
    return (failures or [code for code in codes if code == INTERRUPTED] or [FINISHED])[0]
