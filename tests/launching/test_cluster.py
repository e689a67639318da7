"""Jobs through submitit on this machine: real processes, the path that SLURM's jobs take."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gateloop.errors import CRASHED, FINISHED, INTERRUPTED, InputError
from gateloop.launching.cluster import PROGRAMS, Cluster
from gateloop.launching.launcher import Full
from gateloop.launching.seat import seats
from gateloop.launching.settings import load_settings
from gateloop.launching.submitted import Job, worst
from tests.launching.test_job import SAVES

SEAT = seats(1)[0]


@pytest.fixture(autouse=True)
def _submitit_is_here() -> None:
    pytest.importorskip("submitit")


def start(folder: Path, code: str, *options: str) -> Job:
    cluster = Cluster(load_settings("local", options), folder / ".launcher")
    return cluster.start([sys.executable, "-c", code], folder / ".logs" / "run.log", SEAT)


def end(job: Job, seconds: float = 60) -> int:
    until = time.monotonic() + seconds
    while (code := job.poll()) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    return code


def until_it_says(job: Job, text: str) -> None:
    until = time.monotonic() + 60
    while not job.log.exists() or text not in job.log.read_text():
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.02)


def test_a_job_keeps_to_its_seat_and_leaves_nothing_but_its_log(tmp_path: Path) -> None:
    code = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
    job = start(tmp_path, code)
    assert end(job) == FINISHED
    assert job.log.read_text() == f"{sorted(SEAT.cores)} {len(SEAT.cores)}\n"
    assert [path.name for path in tmp_path.iterdir()] == [".logs"]


def test_asked_to_end_it_saves_first(tmp_path: Path) -> None:
    job = start(tmp_path, SAVES)
    until_it_says(job, "ready\n")
    job.terminate()
    job.wait()
    assert job.poll() == INTERRUPTED
    assert job.log.read_text() == "ready\nsaved\n"


def test_when_its_time_is_up_it_saves_and_is_interrupted(tmp_path: Path) -> None:
    job = start(tmp_path, SAVES, "minutes=1", "grace_seconds=58")  # two seconds
    assert end(job) == INTERRUPTED
    assert job.log.read_text() == "ready\nsaved\n"


def test_a_job_that_is_killed_is_a_crash_with_its_own_log(tmp_path: Path) -> None:
    job = start(tmp_path, f"import os; os.kill(os.getppid(), {int(signal.SIGKILL)})")
    assert end(job) == CRASHED
    shown = job.log.read_text()
    assert "Loading pickle" in shown and shown.endswith("ended without a result\n")


def test_only_texts_and_numbers_and_a_function_by_name_are_pickled(tmp_path: Path) -> None:
    job = start(tmp_path, SAVES)
    until_it_says(job, "ready\n")
    (pickled,) = job.folder.glob("*_submitted.pkl")
    content = pickled.read_bytes()
    assert b"gateloop.launching.job" in content and b"cloudpickle" not in content
    job.terminate()
    job.wait()


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0], 0), ([0, 75], 75), ([75, 1, 2], 1), ([0, 2], 2), ([-9, 75], -9), ([0, 0, 0], 0)],
)
def test_one_code_for_all_of_a_jobs_processes(codes: list[int], code: int) -> None:
    assert worst(codes) == code


def test_without_slurm_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(InputError, match=r"sbatch is not on this machine; start where"):
        Cluster(load_settings("slurm"), tmp_path / ".launcher")


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> Cluster:
    """A launcher beside SLURM's commands, each a script that says what is given here."""
    there = folder / "bin"
    there.mkdir()
    for name in PROGRAMS:
        script = there / name
        script.write_text(f"#!/bin/sh\n{programs.get(name, 'exit 1')}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{there}{os.pathsep}{os.environ['PATH']}")
    return Cluster(load_settings("slurm"), folder / ".launcher")


def left(folder: Path) -> Path:
    """What submitit leaves of a job 7 whose submitter was killed."""
    submitted = folder / ".launcher" / "run" / "7_submitted.pkl"
    submitted.parent.mkdir(parents=True)
    submitted.write_bytes(b"")
    return submitted


def test_a_job_of_which_the_queue_says_nothing_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, submitted = slurm(tmp_path, monkeypatch), left(tmp_path)
    with pytest.raises(Full, match="squeue does not answer"):
        cluster.start(["true"], tmp_path / "run.log", SEAT)
    assert submitted.exists()


def test_after_a_job_is_taken_over_a_refusal_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(tmp_path)
    cluster = slurm(tmp_path, monkeypatch, squeue="echo '7|run'", sbatch="echo full >&2; exit 1")
    assert cluster.start(["true"], tmp_path / "run.log", SEAT).poll() is None
    with pytest.raises(Full):
        cluster.start(["true"], tmp_path / "other.log", SEAT)


def test_without_submitit_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateloop.launching.cluster.find_spec", lambda name: None)
    with pytest.raises(InputError, match="submitit is not installed; pip install"):
        Cluster(load_settings("local"), tmp_path / ".launcher")
