"""What metrics.jsonl says of a step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateloop.derived import tokens_per_step
from gateloop.training import callbacks
from gateloop.training.module import Training
from gateloop.training.optimizer import learning_rate_factor
from tests.training.small import config, rows, train


def test_the_learning_rate_is_that_of_the_steps_own_update(tmp_path: Path) -> None:
    settings = config("trainer.max_steps=5", "trainer.log_every=1", "optimizer.warmup_steps=2")
    train(settings, tmp_path)
    found = [row["lr"] for row in rows(tmp_path / "run") if "lr" in row]
    factors = [learning_rate_factor(updates, settings) for updates in range(5)]
    assert found == pytest.approx([settings.optimizer.lr * factor for factor in factors])


def test_throughput_leaves_validation_and_checkpoints_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def taking(seconds: float, function: Any) -> Any:
        def slow(*arguments: Any, **options: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*arguments, **options)

        return slow

    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(Training, "training_step", taking(2.0, Training.training_step))
    monkeypatch.setattr(callbacks, "evaluate", taking(100.0, callbacks.evaluate))
    slow = SimpleNamespace(**vars(callbacks.checkpoint))
    slow.save = taking(1000.0, slow.save)
    monkeypatch.setattr(callbacks, "checkpoint", slow)
    every = ("trainer.log_every=1", "trainer.validate_every=2", "trainer.checkpoint_every=3")
    settings = config("trainer.max_steps=6", *every)
    train(settings, tmp_path)
    found = rows(tmp_path / "run")
    speeds = [row["tokens_per_second"] for row in found if "tokens_per_second" in row]
    assert speeds == pytest.approx([tokens_per_step(settings) / 2] * 6)
    assert [row["val/seconds"] for row in found if "val/seconds" in row] == [100.0] * 4
    assert now > 2400, "they did take their time"
