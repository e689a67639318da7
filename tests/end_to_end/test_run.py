"""What a run says and leaves behind when something is wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.end_to_end.processes import Run

SMALL = (
    "model.d_model=16",
    "data.length=32",
    "data.test_lengths=[32]",
    "data.test_resets=[6]",
    "data.test_samples=16",
    "data.validation_samples=16",
    "trainer.max_steps=20",
    "trainer.checkpoint_every=5",
    "trainer.validate_every=10",
    "tracker=none",
)


def one_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("gateloop: ")]
    return line


def test_divergence_is_named_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    run = Run(tmp_path, *SMALL, "optimizer.lr=1e30", "trainer.gradient_clip=0")
    ended = run.finish()
    assert ended.returncode == 1
    line = one_line(ended.stderr)
    assert "diverged at step" in line and "gradient of" in line
    assert run.summary()["status"] == "diverged"
    for path in run.checkpoints():
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(torch.isfinite(part).all() for part in weights)


def test_divergence_in_the_last_update(tmp_path: Path) -> None:
    last = [argument for argument in SMALL if not argument.startswith("trainer.max_steps")]
    run = Run(tmp_path, *last, "trainer.max_steps=1", "optimizer.lr=1e30")
    ended = run.finish()
    assert ended.returncode == 1, ended.stdout
    assert "diverged at step 1: the loss of its last validation is nan" in one_line(ended.stderr)
    assert "NOT CAUSAL" not in ended.stdout
    assert run.summary()["status"] == "diverged" and not run.checkpoints("*")


@pytest.mark.parametrize("bar", [True, False])
def test_a_run_whose_progress_nobody_reads_goes_on_to_its_end(bar: bool, tmp_path: Path) -> None:
    run = Run(tmp_path, *SMALL, f"trainer.progress={bar}")
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, **run.environment}
    ended = subprocess.run(run.command, cwd=tmp_path, env=environment, stdout=writer, stderr=writer)
    os.close(writer)
    assert ended.returncode == 0
    assert run.summary()["status"] == "finished"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a size-limited tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(tmp_path: Path, small_disk: Path) -> None:
    ended = Run(tmp_path, *SMALL, "model.layers=9", f"runs_dir={small_disk}").finish()
    assert ended.returncode == 2
    assert "no space left" in one_line(ended.stderr).lower()
    (folder,) = small_disk.iterdir()
    assert not list(folder.rglob("*.tmp"))
    for path in (folder / "checkpoints").glob("*.ckpt"):
        torch.load(path, weights_only=True)  # whole, if there is one


def test_scores_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path, *SMALL)
    assert run.finish().returncode == 0
    (run.path / "summary.json").unlink()
    (run.path / "test.json").unlink()
    (run.path / "test.json").mkdir()  # as good as a full disk, and at no other file
    ended = run.finish()
    assert ended.returncode == 2
    assert "test.json" in one_line(ended.stderr)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    import hashlib

    run = Run(tmp_path, *SMALL)
    run.kill_when(lambda: len(run.checkpoints()) > 0)
    for path in run.checkpoints():
        path.unlink()
    content = pickle.dumps(Bomb())
    name = f"step-00000005-{hashlib.blake2b(content, digest_size=8).hexdigest()}.ckpt"
    (run.path / "checkpoints" / name).write_bytes(content)
    ended = run.finish()
    assert not (tmp_path / "executed").exists()
    assert ended.returncode in (0, 2)
    assert name in ended.stderr and "Traceback" not in ended.stderr


def test_trackers_write_beside_the_record(tmp_path: Path) -> None:
    for tracker in ("csv", "tensorboard", "auto"):
        run = Run(tmp_path / tracker, *SMALL[:-1], f"tracker={tracker}")
        ended = run.finish()
        assert ended.returncode == 0, ended.stderr
        assert [row["step"] for row in run.rows() if "train/loss" in row] == [10, 20]
        found = {"csv": "csv/metrics.csv", "tensorboard": "tensorboard/events*", "auto": "wandb/*"}
        assert list(run.path.glob(found[tracker]))


def test_wandb_without_credentials_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, *SMALL[:-1], "tracker=wandb")
    environment = os.environ.pop("WANDB_MODE", None)
    try:
        ended = run.finish()
    finally:
        if environment is not None:
            os.environ["WANDB_MODE"] = environment
    assert ended.returncode == 2
    assert "credentials" in one_line(ended.stderr)


def test_dry_run_needs_no_data_and_writes_nothing(tmp_path: Path) -> None:
    ended = Run(tmp_path, "data=wt103", "size=125m", "dry_run=true").finish()
    assert ended.returncode == 0, ended.stderr
    assert "60,7" in ended.stdout and "not found" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "err"}


def test_summary_has_what_tables_read(tmp_path: Path) -> None:
    run = Run(tmp_path, *SMALL)
    assert run.finish().returncode == 0
    summary = run.summary()
    needed = "id status model data mode seed parameters tokens_seen steps train_seconds "
    needed += "tokens_per_second device checkpoint metrics"
    assert set(needed.split()) <= set(summary)
    assert summary["tokens_seen"] == 20 * 32 * 32
    assert summary["checkpoint"] == run.checkpoints("best")[-1].name
    assert json.loads((run.path / "test.json").read_text())[""]["by_distance"]["count"]


def test_a_resumed_run_continues_its_wandb_curve(tmp_path: Path) -> None:
    run = Run(tmp_path, *SMALL[:-1], "tracker=auto")
    run.kill_when(lambda: len(run.checkpoints()) > 0)
    assert run.finish().returncode == 0
    sessions = list((run.path / "wandb").glob("offline-run-*"))
    assert len(sessions) == 2
    assert all(session.name.endswith(run.path.name) for session in sessions)


def test_the_test_takes_the_best_validation_not_the_last(tmp_path: Path) -> None:
    # Eight samples over and over at a high rate: learned by heart, and soon worse on new ones.
    overfit = ("data.samples=8", "data.batch_size=8", "optimizer.lr=3e-2", "model.d_model=64")
    small = [part for part in SMALL if not part.startswith(("model.d_model", "trainer.max_steps"))]
    run = Run(tmp_path, *small, *overfit, "trainer.max_steps=80", "optimizer.schedule=constant")
    ended = run.finish()
    assert ended.returncode == 0, ended.stderr
    losses = {row["step"]: row["val/loss"] for row in run.rows() if row.get("val/loss")}
    best = min((step for step in losses if step), key=lambda step: losses[step])
    assert best < max(losses), "this run must get worse for the test to mean anything"
    assert run.summary()["checkpoint"].startswith(f"best-{best:08d}-")
