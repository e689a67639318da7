"""Processes of this machine, each on cores of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gateloop.files import clear_disk_errors
from gateloop.launching.seat import Seat


class Processes:
    """Starts each command as a child process; a Launcher."""

    def start(self, command: Sequence[str], log: Path, seat: Seat) -> subprocess.Popen[bytes]:
        before = os.sched_getaffinity(0)
        with clear_disk_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("ab")
        try:
            os.sched_setaffinity(0, seat.cores)  # a child has its parent's
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **seat.variables},
                start_new_session=True,  # Ctrl-C is for this process, which passes it on
            )
        finally:
            os.sched_setaffinity(0, before)
            output.close()
