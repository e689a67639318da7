"""Jobs through submitit: SLURM's, or this machine's on the same path."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gateloop.errors import InputError
from gateloop.files import clear_disk_errors
from gateloop.launching.holding import no_interrupt
from gateloop.launching.job import run_in_job
from gateloop.launching.launcher import Full
from gateloop.launching.queue import Queue
from gateloop.launching.seat import Seat
from gateloop.launching.settings import Local, Slurm
from gateloop.launching.submitted import Job, LocalJob, SlurmJob

if TYPE_CHECKING:
    import submitit

JOBS = ".launcher"  # in runs_dir: submitit's files, a folder for each run
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")


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
            absent = [name for name in PROGRAMS if shutil.which(name) is None]
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

        tasks = range(self.settings.nodes * self.settings.tasks_per_node)
        for job in left:
            name = self.queue.name(job)
            if not self.queue.answers:  # it may be there, and its files are not to be deleted
                raise Full("squeue does not answer")
            if name == folder.name:
                self.accepted = True  # whatever sbatch says of the next one, this one is not lost
                print(f"{folder.name}: job {job} goes on", file=sys.stderr, flush=True)
                return submitit.SlurmJob(folder, job, list(tasks))
        return None

    def _submit(self, command: list[str], log: Path, seat: Seat, folder: Path) -> submitit.Job[int]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            # submitit prints what it also raises
            with no_interrupt(), contextlib.redirect_stderr(io.StringIO()):
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
