"""What ``reproduce`` says before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gateloop.errors import InputError
from gateloop.experiment.plan import plan
from gateloop.experiment.record import keep
from gateloop.experiment.schema import load_experiment
from gateloop.identity import identity, run_id
from gateloop.reproduce import main

EXPERIMENT = """
title: Small
prediction: none
overrides: [model.d_model=8, model.layers=1, trainer.max_steps=6, trainer.validate_every=2]
seeds: [0, 1]
columns: [{metric: test/accuracy, title: accuracy, best: highest}]
rows:
  - {label: GateLoop, overrides: [model=gateloop]}
  - {label: GRU, overrides: [model=gru]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return tmp_path


def dry(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["small.yaml", "--dry-run", *arguments]) == 0
    return capsys.readouterr().out


def test_the_plan(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    said = dry(capsys, "--workers", "1")
    assert said.splitlines()[:3] == ["Small (small)", "GateLoop  0/2", "GRU       0/2"]
    assert re.search(r"^4 runs to do, \S+ FLOPs, about .* with 1 at once$", said, re.MULTILINE)
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    "facts", [{}, {"tokens_per_second": 0, "train_seconds": 0}, {"train_seconds": None}]
)
def test_a_record_without_its_speed_is_left_out_of_the_estimate(
    facts: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = plan(load_experiment("small.yaml"), lambda _: None)[0].final[0]
    record = {
        "id": run_id(job.config),
        "status": "finished",
        "data": "memory_horizon",
        "seed": job.seed,
        "causal": True,
        "metrics": {"test/accuracy": 0.5},
        "identity": identity(job.config),
    }
    keep({**record, **facts}, folder / "results" / "small" / "records")
    said = dry(capsys, "--workers", "1")
    assert "GateLoop  1/2" in said and "3 runs to do" in said


def test_a_cluster_takes_all_runs_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert " with 4 at once" in dry(capsys, "--launcher", "slurm")


def test_one_row_and_other_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    said = dry(capsys, "--only", "GRU", "--seeds", "3", "4", "5")
    assert "GRU  0/3\n3 runs to do" in said and "GateLoop" not in said


def test_a_change_of_what_a_run_is_makes_another_experiment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert re.search(r"\(small_[0-9a-f]{8}\)", dry(capsys, "--set", "trainer.max_steps=7"))
    assert "(small)" in dry(capsys, "--set", "trainer.log_every=7")


def test_a_change_of_the_final_runs_alone_makes_another_experiment(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    tuning = "tuning: {grid: {optimizer.lr: [0.1, 0.2]}, overrides: [trainer.max_steps=4]}\n"
    (folder / "small.yaml").write_text(EXPERIMENT + tuning, encoding="utf-8")
    assert "(small_" in dry(capsys, "--set", "trainer.max_steps=4")


def test_two_texts_are_two_experiments_and_a_change_may_supply_one(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    text = EXPERIMENT.replace("overrides: [", "overrides: [data=text, data.tokenizer=byte, ", 1)
    (folder / "small.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.path=null"):
        main(["small.yaml", "--dry-run"])
    names = [
        re.search(r"\(small_[0-9a-f]{8}\)", dry(capsys, "--set", f"data.path={name}"))
        for name in ("a.txt", "b.txt")
    ]
    assert names[0] and names[1] and names[0][0] != names[1][0]


def test_what_the_table_needs_is_found_wrong_before_the_runs(folder: Path) -> None:
    (folder / "small.yaml").write_text(EXPERIMENT + "reported: [nobody]\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"nobody is no key of results/reported\.yaml"):
        main(["small.yaml"])
    (folder / "small.yaml").write_text(EXPERIMENT, encoding="utf-8")
    words = folder / "results" / "small" / "outcome.md"
    words.parent.mkdir(parents=True)
    words.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"outcome\.md is not UTF-8"):
        main(["small.yaml"])
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "GRRU"], "--only GRRU: no such row; .*GRU"),
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--workers", "999"], "--workers 999: there are .* cores; take at most"),
        (["--set", "trainer.max_stps=3"], "trainer.max_stps=3: .*trainer.max_steps"),
        (["--set", "max_steps"], "max_steps"),
        (["--seeds", "one"], "argument --seeds: .*see python -m gateloop.reproduce --help"),
        (["--seeds", "-1"], "seed=-1: .*≥ 0"),
        (["--launcher", "slrum"], r"--launcher slrum: no such launcher; .*did you mean slurm\?"),
        (
            ["--launcher", "slurm", "--launcher-option", "acount=x"],
            "acount: .*did you mean account",
        ),
        (["--launcher-option", "minutes=3"], "--launcher-option: there is no launcher; give"),
        (["--wrkers", "2"], "unrecognized arguments: --wrkers 2"),
        (["--runs-dir", "a${b}"], r"--runs-dir a\$\{b\}: references are refused"),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        main(["small.yaml", *arguments])
    assert "\n" not in str(raised.value)
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]
