"""A run that goes on from a checkpoint trains as the uninterrupted one does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.small import config, train

STEPS = "trainer.max_steps=6 trainer.checkpoint_every=3 trainer.log_every=1".split()


def rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def resumed(folder: Path, at: int, *overrides: str) -> Path:
    """A copy of ``folder/run`` that went on from its checkpoint of step ``at``, with overrides."""
    copy = folder / "resumed"
    later = lambda _, names: [n for n in names if n.startswith("step-") and f"{at:08d}" not in n]  # noqa: E731
    shutil.copytree(folder / "run", copy / "run", ignore=later)
    train(config(*STEPS, *overrides), copy)
    return copy / "run"


@pytest.mark.parametrize(("before", "after"), [(8, 8), (4, 4), (8, 4), (8, 2), (4, 2), (2, 4)])
def test_resumed_with_another_micro_batch(before: int, after: int, tmp_path: Path) -> None:
    """At step 3 of 6: an odd number of micro-batches, which starts no step of two or four."""
    options = ("trainer.precision=float64", f"data.micro_batch_size={before}")
    train(config(*STEPS, *options), tmp_path)
    found = rows(resumed(tmp_path, 3, options[0], f"data.micro_batch_size={after}"))
    tolerance = 0.0 if before == after else 1e-9  # rounding
    whole = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [row["step"] for row in whole]
    for here, there in zip(found, whole, strict=True):
        for name in here.keys() & {"train/loss", "train/gradient_norm", "val/loss"}:
            assert here[name] == pytest.approx(there[name], rel=tolerance, abs=0.0), here["step"]
