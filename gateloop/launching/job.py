"""What runs inside a job: the command, the signals that it gets, and the one request to requeue."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from gateloop.errors import CRASHED, INTERRUPTED

TIME_IS_UP = signal.SIGUSR2  # sent before the time limit; SIGTERM means that others end the job


def run_in_job(
    command: Sequence[str],
    log: str,
    variables: dict[str, str],
    cores: Sequence[int] = (),
    requeues: int = 0,
) -> int:
    """Run ``command`` in this job, its output appended to ``log``; returns its exit code.

    Of a job's several processes number n above 0 writes to ``log``.n instead, and asks for nothing.
    ``variables`` come over the environment, ``cores`` are those to keep to. SIGTERM and SIGUSR2 ask
    the command to save and end. Only after SIGUSR2, and only if the command then says that it can
    go on (75), is SLURM asked to requeue this job: whoever sends SIGTERM (scancel, a preemption, a
    requeue) has decided by himself what becomes of it. After ``requeues`` restarts the code is 1
    instead. A job of this machine has no queue: it ends, and whoever started it starts it again.
    Called in the main thread, whose handlers for the two signals it replaces for good.
    """
    asked: set[int] = set()
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.add(number)
        # SLURM has sent SIGTERM to every process of the step; two of them mean hurry.
        if process is not None and not (in_slurm and number == signal.SIGTERM):
            process.terminate()

    in_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"  # not by chance inside some job
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(TIME_IS_UP, pass_on)
    if cores:
        os.sched_setaffinity(0, cores)
    rank = int(os.environ.get("SLURM_PROCID", 0)) if in_slurm else 0
    path = Path(f"{log}.{rank}" if rank else log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(variables),
            start_new_session=not in_slurm,  # a cluster may know its processes by their group
            preexec_fn=_set_signals,
        )
        if asked:
            process.terminate()
        code = process.wait()
        if code == -signal.SIGTERM and asked:  # before it could take the signal, or after it saved
            code = INTERRUPTED
        if code == INTERRUPTED and asked == {TIME_IS_UP} and in_slurm and rank == 0:
            code = _requeue(requeues, output.fileno())
    if rank and path.stat().st_size == 0:
        path.unlink()
    return code


def _environment(variables: dict[str, str]) -> dict[str, str]:
    environment = {**os.environ, **variables}
    if environment.get("SLURM_NTASKS") == "1":
        # Lightning takes a process with this variable for one of SLURM's many, and would answer
        # SIGUSR1 with a requeue of its own.
        del environment["SLURM_NTASKS"]
    return environment


def _set_signals() -> None:
    # SLURM signals every process of a step; the command knows SIGTERM and SIGINT alone.
    signal.signal(TIME_IS_UP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _requeue(most: int, log: int) -> int:
    """Ask SLURM to start this job again; the exit code that is then this attempt's."""
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) >= most:
        os.write(
            log,
            f"gateloop: the job was requeued {most} times already (requeues={most}); "
            "it is saved, and the same command goes on\n".encode(),
        )
        return CRASHED
    subprocess.run(
        ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        check=False,  # where SLURM refuses, who started the job finds it ended with 75
    )
    return INTERRUPTED
