"""``reproduce --launcher local``: an experiment's runs as submitit's jobs on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from gateloop.compose import compose
from gateloop.identity import run_id
from tests.end_to_end.test_reproduce import ENVIRONMENT, EXPERIMENT, Study, wait_for

ONE = {"rows": [{"label": "GRU", "overrides": ["model=gru"]}], "seeds": [0]}


def test_interrupted_then_finished(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    overrides = [*EXPERIMENT["overrides"], "trainer.max_steps=80", "trainer.validate_every=80"]
    study = Study(tmp_path, **ONE, overrides=overrides)
    first = subprocess.Popen(
        study.command("--launcher", "local"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")))
    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C on a terminal
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 75, errors
    assert not study.runs(), "a job goes on"
    (log,) = tmp_path.glob("runs/.logs/*.log")
    assert "gateloop: interrupted " in log.read_text(encoding="utf-8")

    done = study.run("--launcher", "local")
    assert done.returncode == 0, done.stderr
    assert [row[-2] for row in study.results()] == ["measured"]
    assert "going on from step " in log.read_text(encoding="utf-8")
    assert not (tmp_path / "runs" / ".launcher").exists()


def test_a_job_that_fails_brings_its_code_and_its_log(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    study = Study(tmp_path, **ONE)
    folder = run_id(compose([*EXPERIMENT["overrides"], "model=gru", "seed=0"]))
    (tmp_path / "runs" / folder).mkdir(parents=True)
    (tmp_path / "runs" / folder / "stranger").touch()  # so it is no run's folder
    done = study.run("--launcher", "local")
    assert done.returncode == 1
    assert "failed: GRU · seed 0, exit 2; the end of runs/.logs/" in done.stderr
    assert "holds stranger but no config.yaml" in done.stderr.split("\nfailed: ")[-1]
