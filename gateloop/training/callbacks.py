"""What happens between optimiser steps: metrics, validation, checkpoints, in this order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from gateloop.config import Config
from gateloop.data import Source
from gateloop.derived import tokens_per_step
from gateloop.errors import Diverged, Interrupted
from gateloop.training import checkpoint
from gateloop.training.evaluation import evaluate
from gateloop.training.interruption import Interruption
from gateloop.training.job import Job
from gateloop.training.module import Training
from gateloop.training.progress import Progress
from gateloop.training.record import RunFolder


class StepCallback(pl.Callback):
    """A callback that is asked once per optimiser step, not once per micro-batch."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if (index + 1) % trainer.accumulate_grad_batches == 0:
            assert isinstance(module, Training)
            self.after_step(trainer, module, trainer.global_step)

    def after_step(self, trainer: pl.Trainer, module: Training, step: int) -> None:
        """Called after optimiser step number ``step``, counted from 1."""


def log(
    trainer: pl.Trainer,
    folder: RunFolder,
    progress: Progress,
    step: int,
    metrics: dict[str, float],
) -> None:
    """One line of metrics.jsonl, and the same to the terminal and to the tracker if there is one;
    by the first process alone."""
    if trainer.is_global_zero:
        folder.append_metrics({"step": step, **metrics})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        progress.report(step, metrics)


class Clock:
    """Seconds of training steps alone: it stands still while something else is done."""

    def __init__(self) -> None:
        self.since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        now = time.perf_counter()
        elapsed, self.since = now - self.since, now
        return max(elapsed, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.since += time.perf_counter() - started


class Metrics(StepCallback):
    """Loss, learning rate, gradient norm and throughput, every trainer.log_every steps.

    seconds: of all the run's sessions, validations and checkpoints included.
    """

    def __init__(self, config: Config, folder: RunFolder, progress: Progress, clock: Clock) -> None:
        self.config, self.folder, self.progress, self.clock = config, folder, progress, clock
        self.seconds = 0.0
        self.started = 0.0
        self.last_step = 0

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds + time.perf_counter() - self.started}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds += time.perf_counter() - self.started

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.perf_counter()
        self.clock.lap()
        self.last_step = trainer.global_step
        self.progress.start(trainer.global_step)

    def after_step(self, trainer: pl.Trainer, module: Training, step: int) -> None:
        self.progress.advance(step)
        if step % self.config.trainer.log_every and step != self.config.trainer.max_steps:
            return
        tokens = (step - self.last_step) * tokens_per_step(self.config)
        metrics = {
            "train/loss": float(module.step_loss),
            "train/gradient_norm": float(module.gradient_norm),
            "lr": module.learning_rate,
            "tokens": float(step * tokens_per_step(self.config)),
            "tokens_per_second": tokens / self.clock.lap(),
        }
        log(trainer, self.folder, self.progress, step, metrics)
        self.last_step = step


class Validation(StepCallback):
    """Validation every trainer.validate_every steps and after the last; keeps the best weights.

    A validation that an interruption cut off is marked due in the checkpoint and made up first
    thing after the resume, so that the record misses none. Raises Diverged, on every process, where
    the last one's loss is not finite.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        folder: RunFolder,
        interruption: Interruption,
        progress: Progress,
        clock: Clock,
        job: Job,
    ) -> None:
        self.config, self.folder, self.progress, self.clock = config, folder, progress, clock
        self.evaluation = source.evaluations("validation")[0]
        self.interruption, self.job = interruption, job
        self.best_loss, self.best_step = float("inf"), 0
        self.due = True  # the loss before the first step is worth a line

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss, "best_step": self.best_step, "due": self.due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_loss, self.best_step = state["best_loss"], state["best_step"]
        self.due = state["due"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Training)
        self.make_up(trainer, module)

    def after_step(self, trainer: pl.Trainer, module: Training, step: int) -> None:
        settings = self.config.trainer
        self.due = step % settings.validate_every == 0 or step == settings.max_steps
        with self.clock.paused():
            self.validate(trainer, module, step)

    def make_up(self, trainer: pl.Trainer, module: Training) -> None:
        """Run the validation that the checkpoint says is due, if it says so."""
        if self.due:
            # An earlier resume may have made it up too, and been killed before it could save.
            if self.job.first:
                self.folder.cut_back(trainer.global_step, redo="val/loss")
            with self.clock.paused():
                self.validate(trainer, module, trainer.global_step)

    def validate(self, trainer: pl.Trainer, module: Training, step: int) -> None:
        if not self.due or self.job.any(self.interruption.requested):
            return
        started = time.perf_counter()
        model = module.whole_model()
        try:
            scores = evaluate(
                model,
                self.evaluation,
                mode=self.config.mode.name,
                sequences=self.config.data.test_batch_size,
                device=module.device,
                stop=lambda: self.interruption.requested,
                job=self.job,
            )
        except Interrupted:
            return
        self.due = False
        metrics = {f"val/{name}": value for name, value in scores.metrics.items()}
        metrics["val/seconds"] = time.perf_counter() - started
        log(trainer, self.folder, self.progress, step, metrics)
        self.judge(model, step, scores.metrics["loss"])

    def judge(self, model: nn.Module, step: int, loss: float) -> None:
        if step == self.config.trainer.max_steps and not math.isfinite(loss):
            # Of the last update no gradient tells.
            raise Diverged(
                f"training diverged at step {step}: the loss of its last validation is {loss}; "
                "lower optimizer.lr"
            )
        if step and loss < self.best_loss:
            self.best_loss, self.best_step = loss, step
            if self.job.first:
                self.save_best(model, step)

    def save_best(self, model: nn.Module, step: int) -> None:
        content = {"model": model.state_dict(), "step": step, "loss": self.best_loss}
        folder = self.folder.path / "checkpoints"
        checkpoint.save(folder, checkpoint.BEST, step, lambda path: torch.save(content, path))


class Checkpoints(StepCallback):
    """A checkpoint every trainer.checkpoint_every steps, at the end, and when interrupted.

    Comes after the others, so that what it saves includes this step's validation; raises
    Interrupted once everything is on the disk, on every process at the same step.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        interruption: Interruption,
        clock: Clock,
        job: Job,
    ) -> None:
        self.config, self.interruption, self.job = config, interruption, job
        self.clock = clock
        self.folder: Path = folder.path / "checkpoints"

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.interruption.install()  # Lightning has put its own handlers over ours
        if self.job.any(self.interruption.requested):
            self.save_and_leave(trainer)

    def after_step(self, trainer: pl.Trainer, module: Training, step: int) -> None:
        if self.job.any(self.interruption.requested):
            self.save_and_leave(trainer)
        settings = self.config.trainer
        if step % settings.checkpoint_every == 0 or step == settings.max_steps:
            with self.clock.paused():
                self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        if not self.job.first:
            trainer.save_checkpoint("")  # gives its share, if it has one, and writes nothing
            return
        checkpoint.save(
            self.folder,
            checkpoint.STEP,
            trainer.global_step,
            lambda path: trainer.save_checkpoint(path),
        )

    def save_and_leave(self, trainer: pl.Trainer) -> None:
        self.save(trainer)
        raise Interrupted(
            f"interrupted at step {trainer.global_step}; saved, the same command goes on from there"
        )
