"""Trials are claimed once, and what a killed process leaves is taken up once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from gateloop.errors import InputError
from gateloop.sweeping.file import Sweep, load_sweep
from gateloop.sweeping.journal import OUTCOME, Study
from tests.sweeping.small import environment, write

# one process that claims what it can, says so, and waits to be killed
HOLDER = """
import sys, time
from pathlib import Path
from gateloop.sweeping.file import load_sweep
from gateloop.sweeping.journal import Study
study = Study(load_sweep("small.yaml"), Path("runs"))
for _ in range(int(sys.argv[1])):
    study.claim(int(sys.argv[2]))
print("claimed", flush=True)
time.sleep(600)
"""
GRID = {"optimizer.lr": {"values": [0.1, 0.2, 0.3]}, "model.layers": {"min": 1, "max": 2}}


@contextmanager
def study_of(folder: Path, **given: Any) -> Iterator[Study]:
    study = Study(sweep_in(folder, **given), folder / "runs")
    try:
        yield study
    finally:
        study.close()


def sweep_in(folder: Path, **given: Any) -> Sweep:
    return load_sweep(str(write(folder, **given)))


def killed(folder: Path, claims: int, number: int) -> None:
    """A process that claimed trials of ``folder``'s sweep and was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(claims), str(number)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "claimed\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def end(study: Study, trial: Any, value: float) -> None:
    trial.set_user_attr(OUTCOME, "measured")
    study.study.tell(trial, value)


def test_no_more_trials_than_asked_for(tmp_path: Path) -> None:
    with study_of(tmp_path) as study:
        trials = [study.claim(3) for _ in range(3)]
        assert None not in trials and study.claim(3) is None
        for trial in trials:
            end(study, trial, 1.0)
        assert study.is_done(3) and not study.is_done(4)
        assert study.claim(4) is not None
    assert len({str(trial.params) for trial in trials if trial}) == 3


def test_what_a_killed_process_leaves_is_taken_up_once(tmp_path: Path) -> None:
    write(tmp_path)
    killed(tmp_path, 2, 4)
    with study_of(tmp_path) as first:
        left = [trial.params for trial in first.trials()]
        again = [first.claim(4) for _ in range(2)]
        assert [trial.params for trial in again if trial] == left
        with study_of(tmp_path) as second:  # what lives is not taken up
            fresh = [second.claim(4) for _ in range(2)]
            assert None not in fresh and second.claim(4) is None
            states = Counter(trial.state for trial in second.study.get_trials())
    assert states == {TrialState.FAIL: 2, TrialState.RUNNING: 4}


def test_killed_at_any_line_nothing_is_lost_and_nothing_twice(tmp_path: Path) -> None:
    """The journal cut off after every line, and in the middle of it, as a kill leaves it."""
    write(tmp_path, method="grid", varied=GRID)
    killed(tmp_path, 2, 6)
    with study_of(tmp_path, method="grid", varied=GRID) as study:
        trial = study.claim(6)
        assert trial is not None
        trial.report(2.0, 1)
        end(study, trial, 1.0)
    journal = tmp_path / "runs/.sweeps/small/journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    sweep = sweep_in(tmp_path, method="grid", varied=GRID)
    points = {(point["optimizer.lr"], point["model.layers"]) for point in sweep.points()}
    for cut in range(1, len(lines)):
        journal.write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        study = Study(sweep, tmp_path / "runs")
        while (trial := study.claim(6)) is not None:
            end(study, trial, 1.0)
        assert study.is_done(6), cut
        settings = [trial.params for trial in study.ended()]
        study.close()
        ended = {(float(s["optimizer.lr"]), s["model.layers"]) for s in settings}
        assert (len(settings), ended) == (6, points), cut


def test_a_grid_is_gone_through_in_order(tmp_path: Path) -> None:
    with study_of(tmp_path, method="grid", varied=GRID) as study:
        found = [study.claim(6) for _ in range(6)]
        assert study.claim(7) is None
        settings = [trial.params for trial in found if trial]
    points = sweep_in(tmp_path, method="grid", varied=GRID).points()
    assert settings == [{**point, "optimizer.lr": str(point["optimizer.lr"])} for point in points]


def test_a_second_start_proposes_other_settings(tmp_path: Path) -> None:
    """Random trials by two processes, and of a study that was begun before."""
    settings = []
    for _ in range(2):
        with study_of(tmp_path) as study, study_of(tmp_path) as other:
            for worker in (study, other):
                trial = worker.claim(9)
                assert trial is not None
                settings.append(str(trial.params))
                end(worker, trial, 1.0)
    assert len(set(settings)) == 4


def test_bayes_learns(tmp_path: Path) -> None:
    with study_of(tmp_path, method="bayes") as study:
        rates = []
        for _ in range(40):
            trial = study.claim(40)
            assert trial is not None
            assert isinstance(study.study.sampler, TPESampler)
            rates.append(trial.params["optimizer.lr"])
            end(study, trial, (rates[-1] - 0.02) ** 2)
    distances = [abs(rate - 0.02) for rate in rates]
    assert median(distances[20:]) < median(distances[:10]) / 1.5


def test_another_sweep_of_that_name(tmp_path: Path) -> None:
    with study_of(tmp_path):
        pass
    with study_of(tmp_path, run_cap=7, fixed={"tracker": "none"}):  # no other trials than before
        pass
    for given in (
        {"method": "bayes"},
        {"fixed": {"data.length": 16}},
        {"varied": {"optimizer.lr": {"values": [0.1, 0.2]}}},
    ):
        with pytest.raises(InputError, match="holds the trials of another sweep of this name: its"):
            Study(sweep_in(tmp_path, **given), tmp_path / "runs")


@pytest.mark.parametrize("line", [b"{not JSON}\n", b"{}\n", b"[]\n"])
def test_a_damaged_journal_is_one_line(tmp_path: Path, line: bytes) -> None:
    with study_of(tmp_path) as study:
        study.claim(1)
    lines = study.path.read_bytes().splitlines(keepends=True)
    study.path.write_bytes(b"".join([lines[0], line, *lines[1:]]))
    with pytest.raises(InputError, match=r"journal.log: no journal \(.*; restore it, or") as caught:
        Study(sweep_in(tmp_path), tmp_path / "runs")
    assert "\n" not in str(caught.value)


def test_hyperband_has_something_to_compare(tmp_path: Path) -> None:
    stop = {"type": "hyperband", "min_iter": 3}
    with pytest.raises(InputError, match="comes after 3 validations, and a run has 3 of them"):
        Study(sweep_in(tmp_path, early_terminate=stop), tmp_path / "runs")
    stop = {"type": "hyperband", "max_iter": 9, "s": 2}
    with study_of(tmp_path, early_terminate=stop) as study:
        assert study.study.pruner._min_resource == 1


def test_what_optuna_has_not(tmp_path: Path) -> None:
    bell = {"optimizer.lr": {"distribution": "log_normal", "mu": 0.1, "sigma": 0.1}}
    with pytest.raises(InputError, match="--local has no log_normal; take one of categorical"):
        Study(sweep_in(tmp_path, varied=bell), tmp_path / "runs")
