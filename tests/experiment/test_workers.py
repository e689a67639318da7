"""Cores and GPUs are handed out once each; a launcher that is full is asked again later."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.experiment import workers
from gateloop.experiment.plan import Job, Setting, Stage
from gateloop.experiment.workers import Pool, Seat, Task, seats
from gateloop.launching.launcher import Full

CORES = os.sched_getaffinity(0)


@pytest.mark.parametrize("workers", range(1, len(CORES) + 1))
def test_seats_share_all_cores_and_no_core_twice(workers: int) -> None:
    shares = [seat.cores for seat in seats(workers)]
    assert len(shares) == workers and all(shares)
    assert sorted(core for share in shares for core in share) == sorted(CORES)


def test_more_workers_than_cores() -> None:
    with pytest.raises(InputError, match=f"--workers 999: there are {len(CORES)} cores; take at"):
        seats(999)


def test_one_seat_for_each_visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert [seat.gpu for seat in seats(None)] == ["3"]
    assert {seat.gpu for seat in seats(len(CORES))} == {"3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [seat.gpu for seat in seats(None)] == [None]


def test_a_seat_has_as_many_gpus_as_a_run_has_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert [seat.gpu for seat in seats(2, devices=2)] == ["0,1", "2,3"]
    assert [seat.gpu for seat in seats(1, devices=5)] == ["0,1,2,3,4"]
    assert [seat.gpu for seat in seats(1, devices=6)] == [None]  # the run says what is lacking


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_one_of_several_processes_starts_no_grid(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(InputError, match=f"{name}=2: .*; start it once"):
        seats(1)


class Narrow:
    """A launcher that takes one at a time, and ends it at once."""

    def __init__(self) -> None:
        self.started: list[Path] = []
        self.asked = 0
        self.open = True

    def start(self, command: Sequence[str], log: Path, seat: Seat) -> subprocess.Popen[bytes]:
        self.asked += 1
        if not self.open:
            raise Full("sbatch: error: no more")
        self.open = False
        self.started.append(log)
        return subprocess.Popen([sys.executable, "-c", ""])


def test_a_full_launcher_is_asked_again_a_while_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("", "row", Stage.final, 0, Setting(), (), compose([]), "{}")
    tasks = [Task(job, tmp_path / name) for name in ("a", "b", "c")]
    launcher = Narrow()
    monkeypatch.setattr(workers, "FULL", 0.0)
    with Pool(seats(1) * 3, [], launcher) as pool:
        pool.offer(tasks)
        pool.start()
        assert launcher.started == [tasks[0].log] and launcher.asked == 2
        assert pool.refusal == " · sbatch: error: no more" and len(pool.waiting) == 2

        launcher.open = True
        pool.start()
        assert launcher.started == [task.log for task in tasks[:2]]

        monkeypatch.setattr(workers, "FULL", 60.0)
        pool.start()
        asked = launcher.asked
        launcher.open = True
        pool.start()
        assert launcher.asked == asked and len(launcher.started) == 2, "not a minute later"
