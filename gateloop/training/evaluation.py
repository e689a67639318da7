"""Scores of a model on an evaluation: every token once, summed in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from gateloop.data import IGNORE, Evaluation, horizon
from gateloop.errors import Interrupted
from gateloop.names import ModeName
from gateloop.training.feed import tensors
from gateloop.training.module import token_losses


@dataclass
class Tally:
    """Sums by an integer place (a position in the window, a distance since the last reset)."""

    loss: np.ndarray = field(default_factory=lambda: np.zeros(0))
    correct: np.ndarray = field(default_factory=lambda: np.zeros(0))
    count: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, place: np.ndarray, loss: np.ndarray, correct: np.ndarray) -> None:
        size = max(len(self.count), int(place.max()) + 1)
        for name, weights in (("loss", loss), ("correct", correct), ("count", None)):
            old = getattr(self, name)
            new = np.bincount(place, weights, minlength=size).astype(np.float64)
            new[: len(old)] += old
            setattr(self, name, new)

    def as_lists(self) -> dict[str, list[float | None]]:
        """Mean loss, accuracy and count by place; None where nothing was scored."""

        def mean(total: np.ndarray) -> list[float | None]:
            pairs = zip(total.tolist(), self.count.tolist(), strict=True)
            return [value / number if number else None for value, number in pairs]

        return {
            "loss": mean(self.loss),
            "accuracy": mean(self.correct),
            "count": self.count.tolist(),
        }


@dataclass
class Scores:
    """What an evaluation gave: metrics by name, and the same by position and by distance."""

    metrics: dict[str, float]
    by_position: Tally
    by_distance: Tally


@torch.no_grad()
def evaluate(
    model: nn.Module,
    evaluation: Evaluation,
    *,
    mode: ModeName,
    sequences: int,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """Score ``evaluation`` with ``sequences`` sequences at once, in the model's own precision.

    Raises Interrupted, with nothing half-done, as soon as ``stop()`` is true between two batches.
    """
    was_training = model.training
    model.eval()
    by_position, by_distance = Tally(), Tally()
    state = None
    try:
        for batch in evaluation.batches(sequences):
            if stop():
                raise Interrupted("evaluation stopped")
            inputs = {name: part.to(device) for name, part in tensors(batch).items()}
            logits_BLV, after = model(inputs["inputs"], state, reset=inputs.get("reset"), mode=mode)
            state = after if evaluation.carry else None
            scored = batch.targets_BL != IGNORE
            loss = token_losses(logits_BLV, inputs["targets"]).cpu().numpy()[scored]
            correct = (logits_BLV.argmax(-1) == inputs["targets"]).cpu().numpy()[scored]
            position = np.broadcast_to(np.arange(scored.shape[1]), scored.shape)[scored]
            by_position.add(position, loss, correct)
            if batch.distance_BL is not None:
                by_distance.add(batch.distance_BL[scored], loss, correct)
    finally:
        model.train(was_training)
    return Scores(summarise(evaluation, by_position, by_distance), by_position, by_distance)


def summarise(evaluation: Evaluation, by_position: Tally, by_distance: Tally) -> dict[str, float]:
    """Loss, accuracy and perplexity per token; of a text also per word and per byte."""
    total, tokens = float(by_position.loss.sum()), float(by_position.count.sum())
    metrics = {
        "loss": total / tokens,
        "accuracy": float(by_position.correct.sum()) / tokens,
        "tokens": tokens,
    }
    if evaluation.words is not None and evaluation.bytes is not None:
        metrics["perplexity"] = exponential(total / tokens)
        metrics["word_perplexity"] = exponential(total / evaluation.words)
        metrics["bits_per_byte"] = total / math.log(2) / evaluation.bytes
    if len(by_distance.count):
        reach = horizon(by_distance.correct, by_distance.count)
        metrics["horizon"] = math.nan if reach is None else float(reach)
    return metrics


def exponential(value: float) -> float:
    """e to the value; infinite where a float cannot hold it."""
    return math.exp(value) if value < 700 else math.inf
