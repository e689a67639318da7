"""A run that goes on from a checkpoint trains as the uninterrupted one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.small import config, resumed, rows, train

STEPS = "trainer.max_steps=6 trainer.checkpoint_every=3 trainer.log_every=1".split()


@pytest.mark.parametrize(("before", "after"), [(8, 8), (4, 4), (8, 4), (8, 2), (4, 2), (2, 4)])
def test_resumed_with_another_micro_batch(before: int, after: int, tmp_path: Path) -> None:
    """At step 3 of 6: an odd number of micro-batches, which starts no step of two or four."""
    options = ("trainer.precision=float64", f"data.micro_batch_size={before}")
    train(config(*STEPS, *options), tmp_path)
    other = config(*STEPS, options[0], f"data.micro_batch_size={after}")
    found = rows(resumed(tmp_path, 3, other))
    tolerance = 0.0 if before == after else 1e-9  # rounding
    whole = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [row["step"] for row in whole]
    for here, there in zip(found, whole, strict=True):
        for name in here.keys() & {"train/loss", "train/gradient_norm", "val/loss"}:
            assert here[name] == pytest.approx(there[name], rel=tolerance, abs=0.0), here["step"]
