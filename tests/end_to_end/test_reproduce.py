"""An experiment from its file to its table, in real processes, whatever happens to them."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateloop.compose import compose
from gateloop.identity import run_id
from tests.end_to_end.processes import ROOT

SIZES = {
    "data": "memory_horizon",
    "data.length": 16,
    "data.batch_size": 4,
    "data.test_lengths": "[16]",
    "data.test_resets": "[5]",
    "data.test_samples": 8,
    "data.validation_samples": 8,
    "model.d_model": 8,
    "model.layers": 1,
    "trainer.max_steps": 6,
    "trainer.validate_every": 2,
    "tracker": "none",
}
EXPERIMENT: dict[str, Any] = {
    "title": "Small",
    "prediction": "None: it is too small to learn anything.",
    "overrides": [f"{key}={value}" for key, value in SIZES.items()],
    "seeds": [0, 1],
    "columns": [{"metric": "test/accuracy", "title": "accuracy", "best": "highest"}],
    "rows": [
        {"label": "GateLoop", "overrides": ["model=gateloop"]},
        {"label": "GRU", "overrides": ["model=gru"]},
    ],
}
WORKERS = str(min(2, len(os.sched_getaffinity(0))))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Study:
    """``python -m gateloop.reproduce`` on an experiment file in a folder of its own."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        text = yaml.safe_dump({**EXPERIMENT, **changes})
        (folder / "small.yaml").write_text(text, encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gateloop.reproduce", "small.yaml", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self, name: str = "small") -> list[tuple[str, ...]]:
        """What the table says, without what differs between two runs of the same thing."""
        with (self.folder / f"results/{name}/table.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        kept = ("panel", "row", "setting", "metric", "seed", "value", "state", "id")
        return [tuple(row[name] for name in kept) for row in rows]

    def runs(self) -> dict[str, int]:
        """The processes of this study's runs: by a run's id, who holds its lock."""
        found = {}
        for lock in self.folder.glob("runs/*/lock"):
            named = re.search(r"process (\d+)", lock.read_text(encoding="utf-8"))
            if named and Path(f"/proc/{named[1]}").exists():
                found[lock.parent.name] = int(named[1])
        return found


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Run to its end without anything happening to it."""
    study = Study(tmp_path_factory.mktemp("whole"))
    done = study.run("--workers", WORKERS)
    assert done.returncode == 0, done.stderr
    return study


def test_a_plan_then_runs_then_a_table(whole: Study) -> None:
    assert [row[-2] for row in whole.results()] == ["measured"] * 4
    assert len({row[-1] for row in whole.results()}) == 4
    assert len(list(whole.folder.glob("results/small/records/*.json"))) == 4
    assert "| GateLoop | " in (whole.folder / "results/small/table.md").read_text("utf-8")


def test_again_nothing_runs_and_no_byte_changes(whole: Study) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}

    before = files()
    done = whole.run()
    assert done.returncode == 0, done.stderr
    assert "0 runs to do" in done.stdout and done.stdout.count("2/2") == 2
    assert files() == before


def test_without_the_runs_the_table_is_rebuilt_from_the_records(
    whole: Study, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateloop.tables", "small.yaml", f"--runs-dir={tmp_path / 'none'}"],
        cwd=whole.folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs measured" in done.stdout


def test_killed_and_started_again_the_table_is_the_same(whole: Study, tmp_path: Path) -> None:
    """First the whole study is killed in the middle of a run, then one run is, then a SIGTERM."""
    study = Study(tmp_path)
    first = study.start()
    wait_for(study.runs)
    first.kill()
    first.communicate()
    for process in study.runs().values():
        os.kill(process, signal.SIGKILL)

    second = study.start("--workers", WORKERS)
    wait_for(lambda: len(study.runs()) == int(WORKERS))
    cores = [os.sched_getaffinity(process) for process in study.runs().values()]
    assert sum(map(len, cores)) == len(set().union(*cores)), "runs share a core"
    os.kill(next(iter(study.runs().values())), signal.SIGKILL)  # is retried
    wait_for(lambda: len(list(tmp_path.glob("results/small/records/*.json"))) >= 1)
    wait_for(study.runs)
    second.send_signal(signal.SIGTERM)
    _, said = second.communicate()
    assert second.returncode == 75, said
    assert "exit -9, once more" in said
    assert not study.runs(), "runs go on without the study"

    done = study.run()
    assert done.returncode == 0, done.stderr
    assert study.results() == whole.results()


def test_one_failure_stops_no_other_and_is_reported_at_the_end(tmp_path: Path) -> None:
    rows = [
        {"label": "broken", "overrides": ["model=gateloop"]},
        {"label": "diverges", "overrides": ["model=gru", "optimizer.lr=1e30"]},
        {"label": "GRU", "overrides": ["model=gru"]},
    ]
    study = Study(tmp_path, rows=rows, seeds=[0])
    folder = run_id(compose([*EXPERIMENT["overrides"], "model=gateloop", "seed=0"]))
    (tmp_path / "runs" / folder).mkdir(parents=True)
    (tmp_path / "runs" / folder / "stranger").touch()  # so it is no run's folder
    done = study.run()
    assert done.returncode == 1, done.stderr
    assert [row[-2] for row in study.results()] == ["failed", "diverged", "measured"]
    tail = done.stderr.split("\nfailed: ")[-1]
    assert tail.startswith("broken · seed 0, exit 2; the end of ")
    assert "holds stranger but no config.yaml" in tail
    shown = (tmp_path / "results/small/table.md").read_text("utf-8")
    assert "| broken | failed |" in shown and "| diverges | diverged |" in shown
