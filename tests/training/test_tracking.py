"""What a tracker shows of a run."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

from gateloop.training.record import RunFolder
from gateloop.training.tracking import close_tracker, hand_over, open_tracker
from tests.training.small import config, resumed, rows, train

SETTINGS = (
    "trainer.max_steps=6 trainer.checkpoint_every=3 trainer.validate_every=3 trainer.log_every=1 "
    "tracker=csv"
).split()
SUMMARY = {"status": "finished", "steps": 6, "metrics": {"test/loss": 1.5}}


Rows = list[dict[str, float]]


def curve(run: Path) -> Rows:
    """The rows of the CSV file, without cells that are empty or no number."""
    with (run / "csv/metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if v not in ("", "nan")} for row in rows]


def recorded(run: Path) -> Rows:
    """The rows of metrics.jsonl, without nulls."""
    return [{k: v for k, v in row.items() if v is not None} for row in rows(run)]


def test_a_csv_file_holds_the_whole_curve_of_a_resumed_run(tmp_path: Path) -> None:
    settings = config(*SETTINGS)
    train(settings, tmp_path)
    assert curve(tmp_path / "run") == recorded(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Experiment logs directory")
        run = resumed(tmp_path, 3, settings)
    assert [row["step"] for row in curve(run)] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert curve(run) == recorded(run)


def test_the_test_stands_at_the_last_step(tmp_path: Path) -> None:
    settings = config("tracker=csv")
    tracker = open_tracker(settings.tracker, tmp_path, "run", {})
    assert tracker is not None
    tracker.log_metrics({"train/loss": 2.0}, step=6)
    close_tracker(tracker, SUMMARY)
    assert curve(tmp_path) == [{"train/loss": 2.0, "step": 6}, {"test/loss": 1.5, "step": 6}]


def test_a_finished_run_handed_over_is_the_run(tmp_path: Path) -> None:
    settings = config(*SETTINGS)
    train(settings, tmp_path)
    folder = RunFolder(tmp_path, "run")
    with folder.locked():
        folder.write_summary(SUMMARY)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Experiment logs directory")
        hand_over(settings, folder)
    assert curve(folder.path) == [*recorded(folder.path), {"test/loss": 1.5, "step": 6}]
