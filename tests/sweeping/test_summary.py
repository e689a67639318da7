"""What a sweep's folder of results says, from trials that ended in every way."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from gateloop.sweeping import summary
from gateloop.sweeping.file import Sweep, load_sweep
from gateloop.sweeping.journal import OUTCOME
from gateloop.sweeping.outcome import best
from tests.sweeping.small import RATE, write

VARIED: dict[str, Any] = {"optimizer.lr": RATE, "model.layers": {"values": [1, 2]}}
DISTRIBUTIONS = {
    "optimizer.lr": FloatDistribution(0.001, 0.1, log=True),
    "model.layers": CategoricalDistribution(["1", "2"]),
}
# (learning rate, layers, outcome, value)
TRIALS = [(0.001 * (1 + i), str(1 + i % 2), "measured", 2.0 + abs(i - 4)) for i in range(10)] + [
    (0.05, "1", "stopped early", 1.0),
    (0.06, "2", "diverged", None),
    (0.07, "1", "not causal", 0.5),
    (0.08, "2", "failed", None),
]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(str(write(tmp_path, name="A | small one", varied=VARIED)))


def study(trials: list[Any], direction: Any = "minimize") -> optuna.Study:
    made = optuna.create_study(direction=direction)
    states = {"measured": TrialState.COMPLETE, "failed": TrialState.FAIL}
    for number, (rate, layers, outcome, value) in enumerate(trials):
        made.add_trial(
            create_trial(
                state=states.get(outcome, TrialState.PRUNED),
                value=value,
                params={"optimizer.lr": rate, "model.layers": layers},
                distributions=DISTRIBUTIONS,
                user_attrs={OUTCOME: outcome, "run": f"run-{number}", "seconds": 6.0},
            )
        )
    return made


def written(sweep: Sweep, made: optuna.Study, folder: Path) -> dict[str, bytes]:
    where = summary.write(sweep, made, made.trials, folder)
    return {path.name: path.read_bytes() for path in where.iterdir()}


def test_the_page(sweep: Sweep, tmp_path: Path) -> None:
    files = written(sweep, study(TRIALS), tmp_path)
    page = files["table.md"].decode()
    assert "# Sweep: A \\| small one" in page
    counted = "14 trials: 10 measured, 1 stopped early, 1 not causal, 1 diverged, 1 failed."
    assert counted in page
    assert "val/loss 2, trial 4, run `run-4`; the median of what is measured is 4" in page
    command = next(
        line for line in page.splitlines() if line.startswith("    python -m gateloop.run")
    )
    assert " model.layers=1 optimizer.lr=0.005 " in command and "'data.test_lengths=[8]'" in command
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip("| ") for row in rows] == [*map(str, range(1, 11)), "", "", "", ""]
    assert [row[1] for row in rows[10:]] == ["stopped early", "not causal", "diverged", "failed"]
    for name in ("history.png", "importance.png"):
        assert f"]({name})" in page and files[name].startswith(b"\x89PNG")
    lines = list(csv.DictReader(files["table.csv"].decode().splitlines()))
    assert [line["val/loss"] for line in lines[10:]] == [""] * 4
    assert lines[4] == {
        "trial": "4",
        "outcome": "measured",
        "val/loss": "2.0",
        "optimizer.lr": "0.005",
        "model.layers": "1",
        "validations": "",
        "seconds": "6.0",
        "run": "run-4",
    }


def test_the_same_trials_give_the_same_bytes(sweep: Sweep, tmp_path: Path) -> None:
    made = study(TRIALS)
    first = written(sweep, made, tmp_path / "a")
    assert first == written(sweep, made, tmp_path / "a") == written(sweep, made, tmp_path / "b")
    assert len(first) == 6


def test_few_trials_say_nothing_of_importance(sweep: Sweep, tmp_path: Path) -> None:
    written(sweep, study(TRIALS), tmp_path)
    assert set(written(sweep, study(TRIALS[:7]), tmp_path)) == {
        "table.md",
        "table.csv",
        "history.png",
        "history.svg",
    }
    nothing = written(sweep, study(TRIALS[10:]), tmp_path)
    assert set(nothing) == {"table.md", "table.csv"}
    assert "No trial is measured." in nothing["table.md"].decode()


def test_only_what_is_measured_can_be_the_best(sweep: Sweep) -> None:
    assert best(study(TRIALS[10:]).trials, sweep) is None
    found = best(study(TRIALS).trials, sweep)
    assert found is not None and found.number == 4


def test_where_the_highest_is_the_best(tmp_path: Path) -> None:
    metric = {"name": "val/accuracy", "goal": "maximize"}
    sweep = load_sweep(str(write(tmp_path, metric=metric, varied=VARIED)))
    made = study(TRIALS, "maximize")
    found = best(made.trials, sweep)
    assert found is not None and found.number == 9
    assert "the highest val/accuracy of its validations" in summary.page(sweep, made.trials, [])
