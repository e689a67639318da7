"""What runs inside a job passes signals on and brings the exit code back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateloop.errors import CRASHED, INTERRUPTED
from gateloop.launching.holding import no_interrupt
from tests.end_to_end.processes import ROOT

JOB = """
import json, sys
from gateloop.launching.job import run_in_job
command, log, requeues = json.loads(sys.argv[1])
sys.exit(run_in_job(command, log, {"FROM_SEAT": "yes"}, requeues=requeues))
"""
# A run in small: it saves on SIGTERM and says so, and knows no other signal.
SAVES = """
import signal, sys, time
def save(number, frame):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
DEAF = "import time; print('ready', flush=True); time.sleep(60)"


class Job:
    """``run_in_job`` in a process, as submitit would call it under ``executor``.

    SLURM signals every process of a job, submitit on this machine only its own.
    """

    def __init__(self, folder: Path, code: str, executor: str = "local", **more: str) -> None:
        import json

        self.log = folder / "logs" / "run.log"
        arguments = json.dumps([[sys.executable, "-c", code], str(self.log), 3])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SUBMITIT_EXECUTOR": executor, **more}
        self.signals_all = executor == "slurm"
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, arguments], env=environment, start_new_session=True
        )

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def when_ready(self, *numbers: signal.Signals) -> int:
        while "ready\n" not in self.said:
            assert self.process.poll() is None
            time.sleep(0.02)
        for number in numbers:
            if self.signals_all:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_the_exit_code_and_the_output_come_back(code: int, tmp_path: Path) -> None:
    job = Job(tmp_path, f"import os; print(os.environ['FROM_SEAT']); raise SystemExit({code})")
    assert job.process.wait(timeout=60) == code
    assert job.said == "yes\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_either_signal_asks_to_save(number: signal.Signals, tmp_path: Path) -> None:
    job = Job(tmp_path, SAVES)
    assert job.when_ready(number) == INTERRUPTED
    assert job.said == "ready\nsaved\n"


def test_what_cannot_take_the_signal_yet_has_lost_nothing(tmp_path: Path) -> None:
    assert Job(tmp_path, DEAF).when_ready(signal.SIGTERM) == INTERRUPTED


def test_a_crash_after_the_signal_is_a_crash(tmp_path: Path) -> None:
    job = Job(tmp_path, SAVES.replace("sys.exit(75)", "sys.exit(1)"))
    assert job.when_ready(signal.SIGUSR2) == CRASHED


def test_the_command_hears_ctrl_c_though_submitit_does_not(tmp_path: Path) -> None:
    with no_interrupt():
        job = Job(tmp_path, "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))")
    job.process.wait(timeout=60)
    assert job.said == "set()\n"


def test_the_command_is_deaf_to_what_slurm_sends_to_every_process(tmp_path: Path) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN)"
    job = Job(tmp_path, code)
    job.process.wait(timeout=60)
    assert job.said == "True\n"


def test_lightning_does_not_find_itself_in_a_job_of_one_process(tmp_path: Path) -> None:
    code = "import os; print('SLURM_NTASKS' in os.environ)"
    job = Job(tmp_path, code, "slurm", SLURM_NTASKS="1")
    job.process.wait(timeout=60)
    assert job.said == "False\n"


@pytest.mark.parametrize(
    ("number", "restarts", "asked"),
    [
        (signal.SIGUSR2, "2", True),
        (signal.SIGUSR2, "3", False),  # as often as it may
        (signal.SIGTERM, "0", False),  # whoever sends it has decided already
    ],
)
def test_slurm_is_asked_once_and_only_when_time_is_up(
    number: signal.Signals, restarts: str, asked: bool, tmp_path: Path
) -> None:
    job = Job(tmp_path, SAVES, "slurm", **slurm(tmp_path, SLURM_RESTART_COUNT=restarts))
    code = job.when_ready(number)
    assert asked_for(tmp_path) == ("requeue 7\n" if asked else "")
    at_its_limit = number == signal.SIGUSR2 and not asked
    assert code == (CRASHED if at_its_limit else INTERRUPTED)
    assert ("requeued 3 times already (requeues=3); it is saved" in job.said) == at_its_limit
    assert job.said.startswith("ready\nsaved\n")


def test_the_first_of_a_jobs_processes_asks_for_all(tmp_path: Path) -> None:
    job = Job(tmp_path, SAVES, "slurm", **slurm(tmp_path, SLURM_PROCID="1", SLURM_NTASKS="2"))
    job.log = job.log.with_name("run.log.1")
    assert job.when_ready(signal.SIGUSR2) == INTERRUPTED
    assert asked_for(tmp_path) == ""


def slurm(folder: Path, **more: str) -> dict[str, str]:
    """A job's environment, with a ``scontrol`` that only writes down what it is asked."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>"{folder}/asked"\n')
    (programs / "scontrol").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "PATH": path, **more}


def asked_for(folder: Path) -> str:
    calls = folder / "asked"
    return calls.read_text() if calls.exists() else ""
