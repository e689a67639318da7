"""Jobs through submitit: SLURM's, or this machine's on the same path."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateloop.errors import CRASHED, FINISHED, INTERRUPTED, InputError
from gateloop.files import clear_disk_errors
from gateloop.launching.job import run_in_job
from gateloop.launching.launcher import Full
from gateloop.launching.queue import Queue
from gateloop.launching.seat import Seat
from gateloop.launching.settings import Local, Slurm

if TYPE_CHECKING:
    import submitit

JOBS = ".launcher"  # in runs_dir: submitit's files, a folder for each run
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
RESULT_LATE = 15.0  # seconds that a shared file system may take to show a job's result
AGAIN = 5.0  # seconds until a job that goes on is asked to end once more


class Cluster:
    """Starts each command as a job; a Launcher. ``folder`` is on a file system that jobs share.

    What is pickled there for submitit is ``run_in_job`` by its name, and plain texts and numbers.
    Raises InputError where submitit or SLURM is not here.
    """

    def __init__(self, settings: Slurm | Local, folder: Path) -> None:
        self.settings, self.folder = settings, folder.absolute()
        self.queue = Queue(settings.poll_seconds if isinstance(settings, Slurm) else 0)
        self.accepted = False
        if find_spec("submitit") is None:
            raise InputError(
                "--launcher: submitit is not installed; pip install 'gateloop[cluster]'"
            )
        if isinstance(settings, Slurm):
            absent = [
                name for name in ("sbatch", "srun", "squeue", "scancel") if not shutil.which(name)
            ]
            if absent:
                raise InputError(
                    f"--launcher: {absent[0]} is not on this machine; start where jobs can be "
                    "submitted, or leave --launcher out"
                )

    def start(self, command: Sequence[str], log: Path, seat: Seat) -> Job:
        """As ``Launcher.start``; a job of this log that is in the queue already is taken over."""
        folder = self.folder / log.stem
        job = self._left_by_another(folder)
        if job is None:
            with clear_disk_errors(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            job = self._submit(list(command), log.absolute(), seat, folder)
        if isinstance(self.settings, Slurm):
            return SlurmJob(job, log, folder, self.queue)
        return LocalJob(job, log, folder)

    def _left_by_another(self, folder: Path) -> submitit.Job[int] | None:
        """A job in ``folder`` that goes on though whoever submitted it was killed."""
        left = [path.name.partition("_")[0] for path in folder.glob("*_submitted.pkl")]
        if not left or isinstance(self.settings, Local):
            return None
        import submitit

        self.queue.refresh()
        tasks = range(self.settings.nodes * self.settings.tasks_per_node)
        for job in left:
            if self.queue.names.get(job) == folder.name:
                print(f"{folder.name}: job {job} goes on", file=sys.stderr, flush=True)
                return submitit.SlurmJob(folder, job, list(tasks))
        return None

    def _submit(self, command: list[str], log: Path, seat: Seat, folder: Path) -> submitit.Job[int]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it also raises
                executor = self._executor(folder)
                if isinstance(self.settings, Slurm):
                    requeues = self.settings.requeues
                    job = executor.submit(
                        run_in_job, command, str(log), seat.variables, requeues=requeues
                    )
                else:
                    job = executor.submit(
                        run_in_job, command, str(log), seat.variables, cores=seat.cores
                    )
        except (FailedJobError, FailedSubmissionError) as error:
            self._clear(folder)
            said = str(error).strip().partition("\n")[0] or "sbatch failed and says nothing"
            if self.accepted:
                raise Full(said) from error
            raise InputError(f"--launcher: {said}; nothing was started") from error
        self.accepted = True
        return job

    def _executor(self, folder: Path) -> submitit.SlurmExecutor | submitit.LocalExecutor:
        import submitit

        settings = self.settings
        if isinstance(settings, Local):
            local = submitit.LocalExecutor(folder)
            local.update_parameters(
                timeout_min=settings.minutes,
                signal_delay_s=settings.grace_seconds,
                stderr_to_stdout=True,
            )
            return local
        slurm = submitit.SlurmExecutor(folder)
        slurm.update_parameters(
            job_name=folder.name,
            partition=settings.partition,
            account=settings.account,
            time=settings.minutes,
            nodes=settings.nodes,
            ntasks_per_node=settings.tasks_per_node,
            gpus_per_node=settings.gpus_per_node or None,
            cpus_per_task=settings.cpus_per_task,
            mem=f"{round(1024 * settings.memory_gb)}M",
            stderr_to_stdout=True,
            additional_parameters={
                **settings.sbatch,
                "signal": f"USR2@{settings.grace_seconds}",
                "requeue": True,
            },
            # from 22.05 on srun does not take it from sbatch
            srun_args=[f"--cpus-per-task={settings.cpus_per_task}"],
        )
        return slurm

    def _clear(self, folder: Path) -> None:
        """Remove ``folder``, and what is empty without it."""
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()


class Job:
    """A job on its way, and how it ended; a Launched."""

    patience = 0.0  # seconds for its result to show after it has ended

    def __init__(self, job: submitit.Job[int], log: Path, folder: Path) -> None:
        self.job, self.log, self.folder = job, log, folder
        self.since = time.monotonic()
        self.gone: float | None = None
        self.code: int | None = None

    def goes_on(self) -> bool:
        raise NotImplementedError

    def terminate(self) -> None:
        raise NotImplementedError

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
