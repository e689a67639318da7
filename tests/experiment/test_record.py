"""What is kept of a run, and what is said of a file that is none."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from gateloop.experiment.record import Record, checked, keep, load_records, of_run

GOOD: dict[str, Any] = {
    "id": "gateloop-memory_horizon-s0-01234567",
    "status": "finished",
    "data": "memory_horizon",
    "seed": 0,
    "causal": True,
    "metrics": {"test/accuracy": 0.5},
    "identity": {"model.name": "gateloop"},
    "curves": {"val/loss": {"steps": [1, 2], "values": [0.5, None]}},
}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = keep({**GOOD, "device": "é"}, tmp_path)
    (read,), faults = load_records(tmp_path)
    assert read.content == kept.content == {**GOOD, "device": "é"} and not faults
    assert read.where == kept.where == tmp_path / f"{GOOD['id']}.json"


DAMAGED = {
    "": "Expecting value",
    "[1]": "not an object",
    '{"id": "a"': "Expecting",
    "\x80": "",
    "[" * 100_000: "",
    "{}": "id is missing",
    **{
        json.dumps({**GOOD, name: value}): part
        for name, value, part in [
            ("status", "running", "status is 'running'"),
            ("id", "../../x", "'../../x' is no id"),
            ("seed", "0", "seed is missing or of another type"),
            ("seed", True, "seed is missing or of another type"),
            ("causal", None, "causal is missing"),
            ("metrics", [], "metrics is missing"),
            ("parameters", "many", "parameters is of another type"),
            ("train_seconds", "long", "train_seconds is of another type"),
            ("curves", {"val/loss": {"steps": [1], "values": []}}, "curves.val/loss"),
            ("curves", {"val/loss": {"steps": [1], "values": ["x"]}}, "curves.val/loss"),
            ("curves", {"val/loss": 3}, ""),
        ]
    },
}


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_one_line_and_hides_no_other(tmp_path: Path, text: str) -> None:
    keep(GOOD, tmp_path)
    (tmp_path / "broken.json").write_text(text, encoding="latin-1")
    records, (fault,) = load_records(tmp_path)
    assert [record.id for record in records] == [GOOD["id"]]
    assert fault.startswith(f"{tmp_path / 'broken.json'}: no record (")
    assert DAMAGED[text] in fault and "\n" not in fault and len(fault) < 400


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.5", True, 10**400])
def test_what_is_no_finite_number_is_no_metric(value: object) -> None:
    record = checked(Record(Path(), {**GOOD, "metrics": {"m": value}}))
    assert record.metric("m") is None and record.metric("absent") is None


def test_the_lowest_of_a_curve() -> None:
    """After the first step: what the initial weights give is no result of training."""
    curve = {"steps": [0, 1, 2, 3, 4], "values": [0.2, 0.5, math.nan, None, 0.25]}
    record = Record(Path(), {**GOOD, "curves": {"val/loss": curve}})
    assert record.lowest("val/loss") == 0.25
    assert record.lowest("val/accuracy") == math.inf
    assert Record(Path(), {**record.content, "status": "diverged"}).lowest("val/loss") == math.inf


def test_from_a_runs_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert of_run(run) is None
    summary = {k: v for k, v in GOOD.items() if k not in ("identity", "curves")}
    (run / "summary.json").write_text(json.dumps({**summary, "status": "running"}))
    assert of_run(run) is None
    command = ["a=b", "runs_dir=there", "data.path=here"]
    session = {"command": command, "commit": "abc", "dirty": False, "host": "not kept"}
    manifest = {"identity": GOOD["identity"], "data": {"tokens": 3}, "sessions": [{}, session]}
    rows = [{"step": s, "train/loss": 1 / s} for s in range(1, 1001)]
    rows += [{"step": s, "val/loss": 2 / s, "val/tokens": 5} for s in (500, 1000)]
    scores = {"count": [2.0, 1.0] * 40, "loss": [1.0, 4.0] * 40, "accuracy": [None, 1.0] * 40}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (run / "test.json").write_text(json.dumps({"": {"by_position": scores, "by_distance": scores}}))
    record = of_run(run)
    assert record is not None
    checked(Record(run, record))
    assert record["identity"] == GOOD["identity"] and record["facts"] == {"tokens": 3}
    assert record["command"] == ["a=b"]  # nothing of the machine
    assert record["commit"] == "abc" and "host" not in record
    train, val = record["curves"]["train/loss"], record["curves"]["val/loss"]
    assert len(train["steps"]) == 50 and train["steps"][-1] == 1000
    assert train["values"][-1] == 0.001 and set(record["curves"]) == {"train/loss", "val/loss"}
    assert val == {"steps": [500, 1000], "values": [0.004, 0.002]}
    places = record["places"]["by_position"]
    assert places["width"] == 3 and places["count"][:2] == [5.0, 4.0]
    assert places["loss"][:2] == [1.6, 2.5]  # (2·1 + 1·4 + 2·1) / 5, (4 + 2 + 4) / 4
    assert places["accuracy"][:2] == [0.2, 0.5]
