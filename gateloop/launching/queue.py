"""SLURM's queue, through its own commands."""

from __future__ import annotations

import os
import subprocess
import time

SOON = 1.0  # seconds between two questions where an answer is waited for
PATIENCE = 60.0  # seconds for an answer


class Queue:
    """This user's jobs that have not ended, asked for every ``seconds``.

    The queue alone says whether a job has ended: a job that is requeued leaves results behind as
    if it had.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.names: dict[str, str] = {}
        self.known = self.tried = float("-inf")

    def holds(self, job: str, since: float) -> bool:
        """Whether ``job``, there since the monotonic time ``since``, is waiting or running.

        The answer may be ``seconds`` old. While SLURM does not answer, nothing ends.
        """
        self._refresh(self.seconds)
        return job in self.names or self.known <= since

    @property
    def answers(self) -> bool:
        """Whether SLURM has answered the last time it was asked."""
        return self.known == self.tried

    def name(self, job: str) -> str | None:
        """The name of a job that has not ended, by the last answer."""
        self._refresh(SOON)
        return self.names.get(job)

    def _refresh(self, seconds: float) -> None:
        """Ask again where the last time is longer ago than ``seconds``."""
        if time.monotonic() - self.tried <= seconds:
            return
        self.tried = time.monotonic()
        try:
            done = _slurm(
                "squeue", "--all", "--noheader", "--format=%A|%j", f"--user={os.getuid()}"
            )
        except (OSError, subprocess.SubprocessError):
            return
        if done.returncode == 0:
            lines = (line.partition("|") for line in done.stdout.splitlines())
            self.names = {job: name for job, _, name in lines}
            self.known = self.tried

    def end(self, job: str) -> None:
        """Take ``job`` out where it waits; where it runs, ask it to save and end.

        A job that is just being started hears neither: to be called until it has ended.
        """
        self.seconds = min(self.seconds, SOON)
        for how in ("--state=PENDING", "--signal=TERM"):
            try:
                _slurm("scancel", "--quiet", how, job)
            except (OSError, subprocess.SubprocessError):
                continue


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,  # Ctrl-C is not for it
        check=False,
    )
