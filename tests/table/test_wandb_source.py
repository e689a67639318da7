"""W&B's runs as records. The server is not reached; what a run sends to it is the real thing."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.experiment.plan import recipe_of
from gateloop.experiment.record import Record, checked
from gateloop.identity import identity, run_id
from gateloop.keys import plain, values
from gateloop.table import wandb_source
from gateloop.table.wandb_source import as_record, fetch

CONFIG = compose(["model=gru", "data=wt2", "optimizer.lr=0.004", "seed=3"])
ID = run_id(CONFIG, "fingerprint", "wt2-partial")


def sent(**changes: Any) -> dict[str, Any]:
    """A run as the server has it."""
    settings = {name: plain(value) for name, value in values(CONFIG).items()}
    return {
        "id": "abc",
        "config": {**settings, "run_id": ID},
        "summary": {
            "test/perplexity": 33.5,
            "test/causality_gap": 1e-6,
            "val/loss": 3.0,
            "run/parameters": 1000,
            "run/train_seconds": 12.5,
            "run/device": "a GPU",
            "_wandb": {"runtime": 20},
        },
        "commit": "0123456789",
        "history": [
            {"val/loss": 3.0, "trainer/global_step": 20},
            {"val/loss": 4.0, "trainer/global_step": 10},
        ],
        **changes,
    }


def test_a_run_is_the_record_that_its_folder_gives() -> None:
    content = as_record(sent())
    assert content is not None
    record = checked(Record(Path(), content))
    assert record.recipe == recipe_of(identity(CONFIG, "whatever"))
    assert (record.id, content["data"], content["seed"]) == (ID, "wt2-partial", 3)
    assert content["metrics"] == {"test/perplexity": 33.5, "test/causality_gap": 1e-6}
    assert content["curves"] == {"val/loss": {"steps": [10, 20], "values": [4.0, 3.0]}}
    assert record.causal and record.lowest("val/loss") == 3.0
    assert (content["parameters"], content["train_seconds"]) == (1000, 12.5)
    assert (content["device"], content["commit"]) == ("a GPU", "0123456789")


def test_nested_settings_are_the_same() -> None:
    nested: dict[str, Any] = {}
    for name, value in sent()["config"].items():
        *path, last = name.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    assert as_record(sent(config=nested)) == as_record(sent())


@pytest.mark.parametrize("gap", [0.5, "NaN", None])
def test_what_looks_ahead(gap: object) -> None:
    content = as_record(sent(summary={"test/causality_gap": gap}))
    assert content is None if gap is None else content is not None and content["causal"] is False


@pytest.mark.parametrize("lacking", ["run_id", "model.name", "data.name"])
def test_somebody_elses_runs_are_passed_over(lacking: str) -> None:
    run = sent()
    del run["config"][lacking]
    assert as_record(run) is None


def fake_wandb(
    monkeypatch: pytest.MonkeyPatch, runs: list[dict[str, Any]], key: bool = True
) -> None:
    class Run(types.SimpleNamespace):
        def history(self, samples: int, keys: list[str], pandas: bool) -> list[dict[str, Any]]:
            assert pandas is False
            return [row for row in self.rows if all(name in row for name in keys)]

    class Api:
        def runs(self, path: str, filters: object, lazy: bool) -> list[Run]:
            if path == "me/absent":
                raise ValueError("Could not find project <Project me/absent>\nand more")
            return [
                Run(
                    id=run["id"],
                    config=run["config"],
                    summary_metrics=run["summary"],
                    commit=run["commit"],
                    rows=run["history"],
                )
                for run in runs
            ]

    module = types.SimpleNamespace(
        Api=Api, login=lambda prompt: key, errors=types.SimpleNamespace(Error=RuntimeError)
    )
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    monkeypatch.setattr(wandb_source, "find_spec", lambda name: name)


def test_a_run_that_is_none_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = sent(id="newer")
    newer["config"] = {**newer["config"], "model.not_yet_there": 1}
    renamed = sent(id="renamed", config={**sent()["config"], "run_id": "gru-wt2-s4-01234567"})
    fake_wandb(monkeypatch, [newer, sent(id="good"), renamed, sent(config={}, id="foreign")])
    (record,), faults = fetch("me/project")
    assert record.content["tracker"] == "good"
    assert [fault.partition(":")[2][:20] for fault in faults] == [
        "me/project/newer: no",
        "me/project/renamed: ",
    ]
    assert "model.not_yet_there" in faults[0] and "is not this config's" in faults[1]


@pytest.mark.parametrize("given", ["project", "a/b/c", "/b", "a b/c", ""])
def test_a_wrong_name(given: str) -> None:
    with pytest.raises(InputError, match="expected entity/project"):
        fetch(given)


def test_no_package_no_credentials_no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wandb(monkeypatch, [])
    with pytest.raises(InputError, match=r"me/absent: Could not find project <Project me/absent>$"):
        fetch("me/absent")
    fake_wandb(monkeypatch, [], key=False)
    with pytest.raises(InputError, match="no credentials; run `wandb login`"):
        fetch("me/project")
    monkeypatch.setattr(wandb_source, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install wandb"):
        fetch("me/project")


def test_what_a_run_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own client, offline: its config, summary and rows are what as_record takes."""
    pytest.importorskip("wandb")
    from gateloop.training.tracking import close_tracker, open_tracker

    settings = {name: plain(value) for name, value in values(CONFIG).items()}
    tracker = open_tracker(CONFIG.tracker, tmp_path, ID, settings)
    assert tracker is not None
    run = tracker.experiment
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(run, "log", lambda row, **_: rows.append(row))
    tracker.log_metrics({"val/loss": 3.5}, step=7)
    summary = {"parameters": 10, "device": "d", "metrics": {"test/causality_gap": 0.0}}
    finish = run.finish
    monkeypatch.setattr(run, "finish", lambda: None)  # the summary cannot be asked for afterwards
    close_tracker(tracker, summary)
    server = {
        "id": run.id,
        "config": run.config.as_dict(),
        "summary": dict(run.summary._as_dict()),
        "history": rows,
    }
    finish()
    content = as_record(server)
    assert content is not None and content["id"] == ID and content["parameters"] == 10
    assert content["curves"]["val/loss"] == {"steps": [7], "values": [3.5]}
    assert recipe_of(content["identity"]) == recipe_of(identity(CONFIG))
