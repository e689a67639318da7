"""A local sweep in real processes, whatever happens to them."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateloop.experiment.board import Board
from gateloop.experiment.workers import Ended
from gateloop.files import is_locked
from gateloop.identity import run_id
from gateloop.sweep import main
from gateloop.sweeping.file import load_sweep
from gateloop.sweeping.journal import OUTCOME, Study
from gateloop.sweeping.local import Local, Open, validations
from gateloop.sweeping.outcome import Outcome
from tests.sweeping.small import command, environment, run, write

WORKERS = str(min(2, len(os.sched_getaffinity(0))))
RATES = [round(0.01 * (1 + i), 3) for i in range(10)]
# how often a line is logged changes no run: the second ten trials are the first ten's runs
TWENTY: dict[str, Any] = {
    "trainer.log_every": {"values": [1, 2]},
    "optimizer.lr": {"values": RATES},
}


def wait_for(what: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def holders(folder: Path) -> list[int]:
    """The processes of ``folder``'s runs."""
    locks = [lock for lock in folder.glob("runs/*/lock") if is_locked(lock)]
    named = (re.search(r"process (\d+)", lock.read_text(encoding="utf-8")) for lock in locks)
    return [int(found[1]) for found in named if found]


def summaries(folder: Path) -> int:
    return len(list(folder.glob("runs/*/summary.json")))


def table(folder: Path, name: str = "small") -> list[dict[str, str]]:
    with (folder / f"results/sweeps/{name}/table.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_trials_by_two_workers_killed_half_way(tmp_path: Path) -> None:
    fixed = {"tracker": "none"}
    write(tmp_path, method="grid", varied=TWENTY, fixed=fixed)
    given = ("small.yaml", "--local", "--workers", WORKERS)
    first = start(tmp_path, *given)
    wait_for(lambda: summaries(tmp_path) >= 4)
    wait_for(lambda: holders(tmp_path))
    first.kill()
    for process in holders(tmp_path):
        os.kill(process, signal.SIGKILL)
    first.communicate()

    second = start(tmp_path, *given)
    wait_for(lambda: summaries(tmp_path) >= 6)
    wait_for(lambda: holders(tmp_path))
    second.send_signal(signal.SIGTERM)
    _, said = second.communicate()
    assert second.returncode == 75, said
    assert not holders(tmp_path), "runs go on without the sweep"

    done = run(tmp_path, *given)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path)
    assert Counter(row["outcome"] for row in rows) == {"measured": 20}
    settings = Counter((row["trainer.log_every"], row["optimizer.lr"]) for row in rows)
    assert len(settings) == 20 and set(settings.values()) == {1}
    assert len({row["run"] for row in rows}) == 10  # each reused by a second trial, …
    sessions = [
        len(json.loads(path.read_text())["sessions"])
        for path in tmp_path.glob("runs/*/manifest.json")
    ]
    assert len(sessions) == 10 and max(sessions) <= 3  # … and gone on with only where it was ended
    assert sum(sessions) <= 10 + 2 * int(WORKERS)
    best = min(rows, key=lambda row: float(row["val/loss"]))
    assert f"best val/loss {float(best['val/loss']):.5g}, trial " in done.stdout
    assert f"optimizer.lr={best['optimizer.lr']}" in done.stdout.splitlines()[-1]
    pictures = {path.name for path in (tmp_path / "results/sweeps/small").glob("*.*g")}
    assert pictures == {
        f"{name}.{form}" for name in ("history", "importance") for form in ("png", "svg")
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_stopped_diverges_or_crashes(tmp_path: Path) -> None:
    """Four trials that hyperband can compare with are in the study; then three real ones."""
    rates = [0.01, 0.02, 0.03, 0.04, 1.0e30, 1.0e-9, 0.05]
    given: dict[str, Any] = {
        "method": "grid",
        "varied": {"optimizer.lr": {"values": rates}},
        "fixed": {"tracker": "none", "trainer.max_steps": 4000, "optimizer.warmup_steps": 0},
        "early_terminate": {"type": "hyperband", "max_iter": 6, "s": 1, "eta": 3},
    }
    sweep = load_sweep(str(write(tmp_path, **given)))
    study = Study(sweep, tmp_path / "runs")
    for _ in rates[:4]:
        trial = study.claim(7)
        assert trial is not None
        for place in range(1, 9):
            trial.report(0.5, place)
            assert not trial.should_prune()  # which is what takes it up for comparisons
        trial.set_user_attr(OUTCOME, "measured")
        trial.set_user_attr("run", "by-hand")
        study.study.tell(trial, 0.5)
    study.close()
    broken = tmp_path / "runs" / run_id(sweep.config({"optimizer.lr": "0.05"}))
    broken.mkdir()
    (broken / "stranger").touch()

    done = run(tmp_path, "small.yaml", "--local", "--workers", WORKERS)
    assert done.returncode == 1, done.stderr
    outcomes = {float(row["optimizer.lr"]): row["outcome"] for row in table(tmp_path)}
    assert [outcomes[rate] for rate in rates[4:]] == ["diverged", "stopped early", "failed"]
    tail = done.stderr.split("\nfailed: ")[-1]
    assert tail.startswith("trial 6, python -m gateloop.run ")
    assert "holds stranger but no config.yaml" in tail
    assert "best val/loss 0.5, trial 0:" in done.stdout
    (stopped,) = (row for row in table(tmp_path) if row["outcome"] == "stopped early")
    checkpoints = tmp_path / "runs" / stopped["run"] / "checkpoints"
    assert list(checkpoints.glob("step-*.ckpt")), "it was not asked to save"


def test_two_values_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no check of single values finds fails its trial, and starts no run."""
    monkeypatch.chdir(tmp_path)
    varied = {
        "optimizer.warmup_steps": {"values": [0, 1, 3]},
        "trainer.max_steps": {"values": [4, 2, 5]},
    }
    study = Study(load_sweep(str(write(tmp_path, varied=varied))), tmp_path / "runs")
    study.study.enqueue_trial({"optimizer.warmup_steps": "3", "trainer.max_steps": "2"})
    study.close()
    assert main(["small.yaml", "--local", "--count=1"]) == 1
    assert "1 trial: 1 failed" in capsys.readouterr().out
    assert [row["outcome"] for row in table(tmp_path)] == ["failed"]
    assert not holders(tmp_path) and summaries(tmp_path) == 0
    assert main(["small.yaml", "--local", "--count=1"]) == 1  # it stays so, and is said again
    assert "optimizer.warmup_steps=3 is greater than trainer.max_steps=2" in capsys.readouterr().err


def test_an_exit_without_a_result_is_no_divergence(tmp_path: Path) -> None:
    """A run that ended well and left no summary where it was looked for."""
    sweep = load_sweep(str(write(tmp_path)))
    study = Study(sweep, tmp_path / "runs")
    trial = study.claim(1)
    assert trial is not None
    local = Local(sweep, study, tmp_path / "runs", 1)
    task = local._task(trial)
    ended = Ended(task, code=0, seconds=1.0)
    assert local._outcome(Open(trial, task), ended, False, {}) == (Outcome.failed, None)
    study.close()


def test_a_trial_has_taken_the_time_of_all_its_processes(tmp_path: Path) -> None:
    sweep = load_sweep(str(write(tmp_path)))
    study = Study(sweep, tmp_path / "runs")
    local = Local(sweep, study, tmp_path / "runs", 1)
    for seconds in (7200.0, None):
        trial = study.claim(2)
        assert trial is not None
        task = local._task(trial)
        task.folder.mkdir(parents=True)
        summary = {"status": "finished"} | ({"train_seconds": seconds} if seconds else {})
        (task.folder / "summary.json").write_text(json.dumps(summary))
        local.open[task] = Open(trial, task)
        local._note(Ended(task, code=0, seconds=60.0), Board(live=False))
        assert trial.user_attrs["seconds"] == (seconds or 60.0)
    study.close()


def test_validations_so_far(tmp_path: Path) -> None:
    assert validations(tmp_path, "val/loss") == []
    rows: list[dict[str, Any]] = [
        {"step": 0, "val/loss": 4.0},
        {"step": 1, "train/loss": 3.0},
        {"step": 1, "val/loss/other": 3.0},
        {"step": 2, "val/loss": None},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 3, "val/l')
    first, second = validations(tmp_path, "val/loss")
    assert first == 4.0 and second != second
