"""Experiment files: where they are found, and what a mistake in one says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateloop.errors import InputError
from gateloop.experiment.schema import Best, load_experiment
from gateloop.files import packed

GOOD: dict[str, Any] = {
    "title": "T",
    "prediction": "a beats b",
    "columns": [{"metric": "test/accuracy", "title": "accuracy", "best": "highest"}],
    "rows": [{"label": "a", "overrides": ["model=gateloop"]}, {"label": "b"}],
}


def write(folder: Path, name: str = "mine.yaml", **changes: object) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump({**GOOD, **changes}, allow_unicode=True), encoding="utf-8")
    return str(path)


def test_a_file(tmp_path: Path) -> None:
    found = load_experiment(write(tmp_path))
    assert found.name == "mine" and found.seeds == [0]
    assert found.columns[0].best is Best.highest
    assert [row.label for row in found.rows] == ["a", "b"]
    assert [panel.label for panel in found.panels] == [""]


@pytest.mark.parametrize("path", sorted(packed("experiments").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_ones_load_by_path_and_by_name(path: Path) -> None:
    by_name = load_experiment(path.stem)
    assert by_name == load_experiment(str(path)) == load_experiment(f"experiments/{path.name}")


def test_what_a_command_is_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a shipped one, else the file, without folders that are only this machine's."""
    assert load_experiment("experiments/wt2.yaml").given == "wt2"
    assert load_experiment(write(tmp_path)).given == "path/to/mine.yaml"
    monkeypatch.chdir(tmp_path)
    assert load_experiment("mine.yaml").given == "mine.yaml"
    assert load_experiment("./mine.yaml").given == "./mine.yaml"


def test_none_of_that_name() -> None:
    with pytest.raises(InputError, match=r"memory_horizn: no such experiment.*memory_horizon\?"):
        load_experiment("memory_horizn")


TUNING = {"grid": {"optimizer.lr": [1e-3, 1e-2]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "rows: empty"),
        (
            {"panels": [{"label": "p", "metrics": {"acuracy": ""}}]},
            r"panels\[0\].metrics: acuracy: choose one of accuracy; did you mean accuracy",
        ),
        *(
            ({"columns": [{**GOOD["columns"][0], "digits": n}]}, rf"columns\[0\].digits: {n}; must")
            for n in (-1, 13)
        ),
        ({"seeds": []}, "seeds: empty"),
        ({"prediction": " \n"}, "prediction: empty; write down what you expect"),
        ({"rows": [{"label": "a"}, {"label": "a"}]}, "rows: 'a' is there twice"),
        ({"seeds": [1, 1]}, "seeds: '1' is there twice"),
        ({"panels": [{"label": "x"}, {"label": "x"}]}, "panels: 'x' is there twice"),
        ({"rows": [{"label": "a", "variants": {"v": []}}]}, r"rows\[0\]\.variants: without tuning"),
        ({"tuning": {"grid": {}}}, "tuning.grid: empty"),
        ({"tuning": {"grid": {"optimizer.lr": []}}}, r"tuning\.grid\.optimizer\.lr: empty"),
        ({"tuning": {**TUNING, "extend": "optimizer.lrr"}}, "tuning.extend: optimizer.lrr is no"),
        ({"tuning": {**TUNING, "extend": "optimizer.lr", "factor": 1}}, "must be above 1"),
        ({"tuning": {**TUNING, "times": -1}}, "tuning.times: -1; must be 0 or more"),
        (  # all is tuned by val/loss: the lowest accuracy would be the worst
            {"tuning": {**TUNING, "metric": "val/accuracy"}},
            "tuning.metric: no such key; there are grid, overrides, seed, extend",
        ),
    ],
)
def test_a_contradiction_is_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as raised:
        load_experiment(path)
    assert str(raised.value).startswith(path) and "\n" not in str(raised.value)


def test_a_name_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="small letters, digits and underscores"):
        load_experiment(write(tmp_path, name="My results.yaml"))
