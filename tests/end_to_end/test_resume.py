"""A run that is killed, wherever it is killed, ends as if it had never been."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from tests.end_to_end.processes import Run, stable

ARGUMENTS = (
    "model.dropout=0.1",
    "model.d_model=16",
    "data.length=64",
    "data.test_lengths=[64]",
    "data.test_resets=[6]",
    "data.test_samples=32",
    "data.validation_samples=2048",  # long enough to be hit by a signal
    "data.micro_batch_size=16",  # accumulated twice
    "trainer.max_steps=60",
    "trainer.validate_every=20",
    "trainer.checkpoint_every=15",
    "trainer.log_every=1",
    "tracker=none",
)


def final_state(run: Run) -> dict[str, object]:
    """Everything a run leaves behind that must not depend on interruptions."""
    last = torch.load(run.checkpoints()[-1], weights_only=True)
    best = torch.load(run.checkpoints("best")[-1], weights_only=True)
    return {
        "rows": [stable(row) for row in run.rows()],
        "summary": {k: v for k, v in stable(run.summary()).items() if k != "checkpoint"},
        "weights": last["state_dict"],
        "moments": last["optimizer_states"][0]["state"],
        "best": best["model"],
        "best_step": best["step"],
    }


def assert_equal(left: object, right: object, where: str = "") -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where  # type: ignore[arg-type]
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where  # type: ignore[union-attr]
        for key in left:
            assert_equal(left[key], right[key], f"{where}/{key}")  # type: ignore[index]
    else:
        assert left == right, where


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("whole"), *ARGUMENTS)
    ended = run.finish()
    assert ended.returncode == 0, ended.stderr
    return run


def test_killed_between_at_and_after_checkpoints_and_in_validation(
    uninterrupted: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path, *ARGUMENTS)
    steps = lambda: {path.name.split("-")[1].lstrip("0") for path in run.checkpoints()}  # noqa: E731
    assert run.kill_when(lambda: run.has(7, "train/loss")) == -signal.SIGKILL  # before the first
    assert run.kill_when(lambda: "15" in steps()) == -signal.SIGKILL  # at one
    assert run.kill_when(lambda: run.has(18, "train/loss")) == -signal.SIGKILL  # after it
    in_validation = lambda: run.has(20, "train/loss") and not run.has(20, "val/loss")  # noqa: E731
    assert run.kill_when(in_validation) == -signal.SIGKILL
    assert not run.has(20, "val/loss"), "the kill came after the validation"
    last_validation = lambda: run.has(60, "train/loss") and not run.has(60, "val/loss")  # noqa: E731
    assert run.kill_when(last_validation) == -signal.SIGKILL
    assert run.finish().returncode == 0
    assert_equal(final_state(run), final_state(uninterrupted))


def test_terminated_in_training_and_in_validation(uninterrupted: Run, tmp_path: Path) -> None:
    run = Run(tmp_path, *ARGUMENTS)
    assert run.kill_when(lambda: run.has(7, "train/loss"), signal.SIGTERM) == 75
    assert len(run.checkpoints()) == 1
    for step in (20, 60):
        ready = lambda step=step: run.has(step, "train/loss") and not run.has(step, "val/loss")  # noqa: E731
        assert run.kill_when(ready, signal.SIGTERM) == 75
        assert not run.has(step, "val/loss"), "the signal came after the validation"
        assert f"-{step:08d}-" in run.checkpoints()[-1].name
    # Ctrl-C right after the validation of step 60 was made up, before anything could be saved.
    run.kill_when(lambda: run.has(60, "val/loss"), signal.SIGINT)
    assert run.finish().returncode == 0
    assert_equal(final_state(run), final_state(uninterrupted))


def test_damaged_checkpoint_falls_back(uninterrupted: Run, tmp_path: Path) -> None:
    run = Run(tmp_path, *ARGUMENTS)
    run.kill_when(lambda: run.has(38, "train/loss"))
    newest, before = run.checkpoints()[-1], run.checkpoints()[-2]
    newest.write_bytes(newest.read_bytes()[:5000])
    ended = run.finish()
    assert ended.returncode == 0
    assert f"{newest.name} is damaged" in ended.stderr
    assert f"going on from step {int(before.name.split('-')[1])}" in ended.stderr
    assert_equal(final_state(run), final_state(uninterrupted))


def test_every_checkpoint_damaged_starts_again(uninterrupted: Run, tmp_path: Path) -> None:
    run = Run(tmp_path, *ARGUMENTS)
    run.kill_when(lambda: run.has(32, "train/loss"))
    for path in run.checkpoints():
        path.write_bytes(b"nothing")
    ended = run.finish()
    assert ended.returncode == 0
    assert ended.stderr.count("is damaged") == 2
    assert_equal(final_state(run), final_state(uninterrupted))


def test_second_process_on_the_same_run(tmp_path: Path) -> None:
    run = Run(tmp_path, *ARGUMENTS)
    first = run.start()
    try:
        while not run.has(1, "train/loss"):
            assert first.poll() is None
        second = run.finish()
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 75
    assert len(second.stderr.splitlines()) == 1
    assert f"process {first.pid}" in second.stderr


def test_finished_run_is_skipped_without_torch(uninterrupted: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in uninterrupted.path.rglob("*") if p.is_file()}
    command = [*uninterrupted.command]
    uninterrupted.command = [command[0], "-X", "importtime", *command[1:]]
    try:
        ended = uninterrupted.finish()
    finally:
        uninterrupted.command = command
    assert ended.returncode == 0
    assert "is finished" in ended.stdout
    imported = {line.split("|")[-1].strip() for line in ended.stderr.splitlines() if "|" in line}
    assert "gateloop.run" in imported or "gateloop.compose" in imported
    assert not {"torch", "pytorch_lightning"} & imported
    assert before == {p: p.stat().st_mtime_ns for p in uninterrupted.path.rglob("*") if p.is_file()}
