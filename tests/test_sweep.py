"""What ``sweep`` says before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateloop.errors import InputError
from gateloop.sweep import main
from gateloop.sweeping import summary
from tests.sweeping.small import write


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


def test_the_overview(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["small.yaml", "--dry-run", "--count", "7"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "small (small)",
        "  optimizer.lr  log_uniform_values, 0.001 to 0.1",
        "random, minimize val/loss, 7 trials",
    ]
    varied: dict[str, Any] = {"model.layers": {"min": 1, "max": 3}}
    write(folder, "grid.yaml", method="grid", varied=varied)
    assert main(["grid.yaml", "--dry-run", "--set", "seed=3"]) == 0
    assert "grid, 3 points, minimize val/loss" in capsys.readouterr().out
    assert main(["gateloop_wt103", "--dry-run"]) == 0
    assert "bayes, hyperband, minimize val/loss, 40 trials" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["grid.yaml", "small.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a sweep file, or --join ENTITY/PROJECT/ID"),
        (["small.yaml", "--join=a/b/c"], "give a sweep file, or --join ENTITY/PROJECT/ID"),
        (["--join=abc"], "--join abc: expected ENTITY/PROJECT/ID"),
        (["--join=a/b/c", "--local"], "--local: a sweep that is joined has its file; leave it out"),
        (["--join=a/b/c", "--set=seed=1"], "--set: a sweep that is joined has its file"),
        (["small.yaml", "--count=0"], "--count 0: must be at least 1"),
        (["small.yaml", "--workers=0"], "--workers 0: must be at least 1"),
        (
            ["small.yaml", "--local", "--count=1", "--workers=999"],
            "--workers 999: there are .* cores; take at",
        ),
        (["small.yaml", "--runs-dir=x"], "--runs-dir: only with --local"),
        (["small.yaml", "--local", "--runs-dir=a${b}"], "--runs-dir .*references are refused"),
        (["small.yaml", "--launcher=slurm"], "--launcher: only with --local"),
        (["small.yaml", "--local", "--count=1", "--launcher=slrum"], "slrum: .*did you mean slurm"),
        (["small.yaml", "--local", "--project=x"], "--project: only where a sweep is created"),
        (["small.yaml", "--local"], "--count: missing; random has no end, say how many"),
        (["normal.yaml", "--local", "--count=1", "--dry-run"], "--local has no normal; take one"),
        (
            ["stops.yaml", "--local", "--count=1", "--dry-run"],
            "the first comparison comes after 9 validations, and a run has 3",
        ),
        (["small.yaml", "--local", "--set=seeed=1"], "seeed=1: .*did you mean seed"),
        (["small.yaml", "--local", "--set=seed"], "seed: not of the form key=value"),
        (["smal.yaml"], "smal.yaml: no such sweep; choose one of "),
        (
            ["small.yaml", "--jion=x"],
            "unrecognized arguments: --jion=x; see python -m gateloop.sweep",
        ),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    bell = {"optimizer.lr": {"distribution": "normal", "mu": 0.1, "sigma": 0.01}}
    write(folder, "normal.yaml", varied=bell)
    write(folder, "stops.yaml", early_terminate={"type": "hyperband", "min_iter": 9})
    there = sorted(folder.iterdir())
    with pytest.raises(InputError, match=message) as raised:
        main(arguments)
    assert "\n" not in str(raised.value)
    assert sorted(folder.iterdir()) == there


def test_missing_data_are_said_before_anything_starts(folder: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        main(["gateloop_wt2", "--local", "--set=data.path=nowhere"])
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--local needs the package optuna; pip install optuna"):
        summary.check_packages()
