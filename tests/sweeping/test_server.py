"""The W&B client for real, against a server on this machine; and what is said without one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from gateloop.errors import InputError
from gateloop.sweeping.server import _shares, check_path
from tests.sweeping.small import FIXED, content, run, write
from tests.sweeping.wandb_server import Server

RATES = (0.01, 0.02)
WORKERS = min(2, len(os.sched_getaffinity(0)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_on_a_server(tmp_path: Path) -> None:
    """Created, its two trials run by two agents, and what they measured has arrived; then an
    agent that joins is given the first again, whose run is finished."""
    write(tmp_path, method="bayes")
    trials = [{**FIXED, "optimizer.lr": rate} for rate in RATES]
    with Server(trials) as server:
        done = run(
            tmp_path,
            "small.yaml",
            "--count=2",
            f"--workers={WORKERS}",
            "--project=tuning",
            "--set=seed=1",
            "--set=tracker.group=no",
            **server.environment,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        server.trials.append((3, trials[0]))
        joined = run(tmp_path, "--join=tester/tuning/sweep123", "--count=1", **server.environment)
        assert joined.returncode == 0, joined.stderr[-3000:]
    assert "--join tester/tuning/sweep123" in done.stdout
    (sent,) = server.calls["UpsertSweep"]
    assert sent["projectName"] == "tuning" and sent["entityName"] in (None, "tester")
    expected = content(method="bayes")
    expected["parameters"] |= {"seed": {"value": 1}, "tracker.group": {"value": "no"}}
    assert yaml.safe_load(sent["config"]) == expected
    assert {"Viewer", "SweepWithRuns", "CreateAgent", "Heartbeat", "UpsertBucket"} <= set(
        server.calls
    )
    assert server.unknown == [] and server.trials == []
    assert {call["project"] for call in server.calls["UpsertBucket"]} == {"tuning"}

    folders = {}
    for folder in (tmp_path / "runs").glob("gateloop-*"):
        manifest = json.loads((folder / "manifest.json").read_text())
        folders[manifest["identity"]["optimizer.lr"]] = folder
    assert sorted(folders) == list(RATES)
    for number, rate in enumerate(RATES, start=1):
        history = server.history[f"trial{number}"]
        arrived = [
            (row["trainer/global_step"], row["val/loss"]) for row in history if "val/loss" in row
        ]
        lines = (folders[rate] / "metrics.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if "val/loss" in row]
        assert arrived == [(row["step"], pytest.approx(row["val/loss"])) for row in rows]
        assert [step for step, _ in arrived] == [0, 1, 2]
        assert server.summary[f"trial{number}"]["run/id"] == folders[rate].name
        configs = [
            json.loads(call["config"])
            for call in server.calls["UpsertBucket"]
            if call.get("name") == f"trial{number}" and call.get("config")
        ]
        assert configs[0]["run_id"]["value"] == folders[rate].name
        assert configs[0]["optimizer.lr"]["value"] == rate
    again, first = (
        [
            (row["trainer/global_step"], row["val/loss"])
            for row in server.history[trial]
            if "val/loss" in row
        ]
        for trial in ("trial3", "trial1")
    )
    assert again == first
    assert server.summary["trial3"]["test/loss"] == server.summary["trial1"]["test/loss"]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (
            ["small.yaml"],
            {"WANDB_MODE": "online"},
            "no W&B credentials; run `wandb login` or set WANDB_API_KEY, or take --local",
        ),
        (["small.yaml"], {"WANDB_MODE": "offline"}, "WANDB_MODE=offline: a sweep on the server is"),
    ],
)
def test_without_credentials(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    write(tmp_path)
    done = run(tmp_path, *arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path)
    with Server([]) as server:
        environment = server.environment
    done = run(tmp_path, "small.yaml", WANDB_HTTP_TIMEOUT="1", **environment)
    assert done.returncode == 2
    assert "gateloop: W&B: " in done.stderr and "; or take --local" in done.stderr


def test_trials_are_shared_out() -> None:
    assert _shares(None, 2) == [None, None]
    assert _shares(5, 2) == [3, 2] and _shares(1, 2) == [1, 0]


def test_what_is_no_path() -> None:
    check_path("entity/project/id")
    with pytest.raises(InputError, match="--join abcd: expected ENTITY/PROJECT/ID"):
        check_path("abcd")
