"""A run whose processes are interrupted, killed, and changed in number."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.end_to_end.processes import Run

ARGUMENTS = (
    "model.d_model=16",
    "data.length=32",
    "data.batch_size=12",
    "data.test_lengths=[32]",
    "data.test_resets=[6]",
    "data.test_samples=70",
    "data.validation_samples=70",
    "data.test_batch_size=16",  # five batches, for one process or two
    "trainer.max_steps=150",
    "trainer.validate_every=50",
    "trainer.checkpoint_every=10",
    "optimizer.lr=1e-3",  # rounding grows with every step
    "trainer.log_every=1",
    "trainer.device=cpu",
    "trainer.precision=float64",
    "tracker=none",
)
TORCHRUN = ("--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d", "-m", "gateloop.run")


def process(run: Run, rank: int) -> int:
    """The process of that rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            given = (folder / "environ").read_bytes().split(b"\0")
            here = (folder / "cwd").resolve()
        except OSError:  # it has ended, or is another user's
            continue
        if here == run.folder and f"RANK={rank}".encode() in given and b"gateloop.run" in command:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


def strike(run: Run, rank: int, number: signal.Signals, ready: Callable[[], bool]) -> int:
    """Start, and once ready send one rank the signal; the exit code, which comes in a minute."""
    (run.folder / "err").unlink(missing_ok=True)
    started = run.start()
    try:
        while not ready():
            assert started.poll() is None, (run.folder / "err").read_text()
            time.sleep(0.01)
        os.kill(process(run, rank), number)
        return started.wait(timeout=60)
    finally:
        if started.poll() is None:  # a test that fails leaves nothing running
            for each in (process(run, 0), process(run, 1), started.pid):
                os.kill(each, signal.SIGKILL)
            started.wait()


def steps(run: Run) -> list[int]:
    return [int(path.name.split("-")[1]) for path in run.checkpoints()]


def test_interrupted_killed_and_on_other_numbers_of_devices(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", *ARGUMENTS)
    ended = whole.finish()
    assert ended.returncode == 0, ended.stderr

    alone = Run(tmp_path / "run", *ARGUMENTS, "trainer.profile=true")
    two = Run(tmp_path / "run", *ARGUMENTS, "trainer=ddp", "trainer.devices=2")
    under_torchrun = Run(
        tmp_path / "run",
        *(*TORCHRUN, *ARGUMENTS, "trainer.devices=2"),
        module="torch.distributed.run",
    )
    err = two.folder / "err"

    def reached(step: int) -> Callable[[], bool]:
        return lambda: two.has(step, "train/loss")

    # One rank is asked to stop: all stop at one step, and one line says so.
    assert strike(two, 1, signal.SIGTERM, reached(15)) == 75
    first = steps(two)[-1]
    said = err.read_text()
    assert said.count("gateloop:") == 1 and f"gateloop: interrupted at step {first};" in said
    assert two.rows()[-1]["step"] == first

    err.unlink()
    assert alone.kill_when(reached(first + 15), signal.SIGTERM) == 75
    assert f"going on from step {first}\n" in err.read_text()
    second = steps(alone)[-1]
    assert_profiled(alone.path / "profile")

    # One is killed: the others end, one line says so, and only the steps since are lost.
    assert strike(two, 1, signal.SIGKILL, reached(second + 15)) == 1
    said = err.read_text()
    assert f"going on from step {second}\n" in said
    assert "Traceback" not in said and said.count("gateloop:") == 1
    assert "process 1 of 2 was killed by SIGKILL" in said
    assert steps(two)[-1] > second

    ended = under_torchrun.finish()
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("going on from step") == 1
    sessions = json.loads((two.path / "manifest.json").read_text())["sessions"]
    assert [session["devices"] for session in sessions] == [2, 1, 2, 2]
    same_end(two, whole)


def same_end(run: Run, whole: Run) -> None:
    """A run that was on one device and on two ends where the one on one device does."""
    assert run.path.name == whole.path.name
    ended, expected = (torch.load(r.checkpoints()[-1], weights_only=True) for r in (run, whole))
    for name, part in expected["state_dict"].items():
        assert torch.allclose(ended["state_dict"][name], part, rtol=1e-7, atol=1e-9), name
    assert [row["step"] for row in run.rows()] == [row["step"] for row in whole.rows()]
    for here, there in zip(run.rows(), whole.rows(), strict=True):
        for name in here.keys() & {"train/loss", "val/loss"}:
            assert here[name] == pytest.approx(there[name], rel=1e-8), here["step"]
    metrics, others = (r.summary()["metrics"] for r in (run, whole))
    for name in ("test/loss", "test/accuracy", "test/tokens", "test/L32_R6/loss"):
        assert metrics[name] == pytest.approx(others[name], rel=1e-8), name


def assert_profiled(folder: Path) -> None:
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {event.get("name") for event in events}
    assert "aten::mm" in names
    lines = (folder / "operators.md").read_text().splitlines()
    found = [re.match(r"\| `(.+)` \| \d+ \| [\d.]+ \| ([\d.]+)% \|", line) for line in lines[4:]]
    assert len(found) == 10 and all(found)
    shares = [float(row[2]) for row in found if row]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100
    assert {row[1] for row in found if row} <= names


def test_reproduce_starts_no_second_grid(tmp_path: Path) -> None:
    """Its run has two processes, and it has one."""
    overrides = [a for a in ARGUMENTS if not a.startswith("trainer.")]
    overrides += ["trainer.max_steps=4", "trainer.device=cpu", "trainer=ddp", "trainer.devices=2"]
    (tmp_path / "small.yaml").write_text(
        "title: Small\nprediction: None.\nseeds: [0]\n"
        "columns: [{metric: test/accuracy, title: accuracy, best: highest}]\n"
        f"rows: [{{label: one, overrides: {json.dumps(overrides)}}}]\n",
        encoding="utf-8",
    )
    study = Run(tmp_path, "small.yaml", "--workers", "1", module="gateloop.reproduce")
    ended = study.finish()
    assert ended.returncode == 0, ended.stderr
    (run,) = (p for p in (tmp_path / "runs").iterdir() if not p.name.startswith("."))
    (session,) = json.loads((run / "manifest.json").read_text())["sessions"]
    assert session["devices"] == 2 and session["device"].startswith("2 × CPU")
    log = (tmp_path / "runs" / ".logs" / f"{run.name}.log").read_text()
    assert log.count(f"run runs/{run.name}") == 1 and "gateloop:" not in log


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        wrong = Run(tmp_path, *ARGUMENTS, "trainer.devices=3")
        wrong.environment |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        ended = wrong.finish()
        assert (ended.returncode, ended.stdout) == (2, "")
        assert len(ended.stderr.splitlines()) == lines
        assert "torchrun has started 2 processes" in ended.stderr or not lines
    assert not (tmp_path / "runs").exists()
