"""The trials on an experiment's page."""

from __future__ import annotations

from pathlib import Path

from gateloop.experiment.archive import Outcome, State
from gateloop.experiment.plan import Job, plan
from gateloop.experiment.record import Record
from gateloop.experiment.schema import Column, Experiment, Panel, Row, Tuning
from gateloop.table.content import tabulate
from gateloop.table.markdown import markdown

EXPERIMENT = Experiment(
    "T",
    "p",
    [Column("test/accuracy", "accuracy")],
    [Row("tried", ["model=gru"]), Row("not begun", ["model=lstm"])],
    panels=[Panel("1×", ["trainer.max_steps=6"]), Panel("3×", ["trainer.max_steps=18"])],
    tuning=Tuning({"optimizer.lr": [0.001, 0.01]}, ["trainer.max_steps=3"]),
    name="mine",
)


def page(begun: list[str]) -> str:
    """The page where every trial of the rows ``begun`` has run, and nothing else has."""

    def score(job: Job) -> float | None:
        lr = job.config.optimizer.lr
        return lr if job.row in begun and job.config.trainer.max_steps == 3 else None

    def outcome(job: Job) -> Outcome:
        if score(job) is None:
            return Outcome(State.missing)
        return Outcome(State.measured, Record(Path(), {"metrics": {}, "status": "finished"}))

    cells = plan(EXPERIMENT, score)
    return markdown(tabulate(EXPERIMENT, cells, outcome, score, {}), [])


def test_rows_without_a_trial_are_left_out() -> None:
    assert "## Trials" not in page([])
    trials = page(["tried"]).partition("## Trials")[2].partition("## Runs")[0]
    assert "| tried |" in trials and "not begun" not in trials


def test_trials_that_two_panels_share_stand_there_once() -> None:
    trials = page(["tried"]).partition("## Trials")[2].partition("## Runs")[0]
    assert [line for line in trials.splitlines() if "tried" in line] == [
        "| 1× | tried | **0.001** | 0.01 |"
    ]
