"""Scores of a model on an evaluation: every token once, summed in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from gateloop.data import IGNORE, Batch, Evaluation, horizon
from gateloop.errors import Interrupted
from gateloop.models.language_model import LanguageModel
from gateloop.names import ModeName
from gateloop.training.cross_entropy import losses_and_hits
from gateloop.training.feed import tensors
from gateloop.training.job import ALONE, Job

TURNS = 16  # batches that a process scores before the sums are put together
first = itemgetter(0)


@dataclass
class Tally:
    """Sums by an integer place (a position in the window, a distance since the last reset)."""

    loss: np.ndarray = field(default_factory=lambda: np.zeros(0))
    correct: np.ndarray = field(default_factory=lambda: np.zeros(0))
    count: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, place: np.ndarray, loss: np.ndarray, correct: np.ndarray) -> None:
        size = int(place.max()) + 1
        weights = (loss, correct, None)
        sums = (np.bincount(place, each, size).astype(np.float64) for each in weights)
        self.join(Tally(*sums))

    def join(self, other: Tally) -> None:
        for name in ("loss", "correct", "count"):
            short, long = sorted((getattr(self, name), getattr(other, name)), key=len)
            total = long.copy()
            total[: len(short)] += short
            setattr(self, name, total)

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
    model: LanguageModel,
    evaluation: Evaluation,
    *,
    mode: ModeName,
    sequences: int,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    job: Job = ALONE,
) -> Scores:
    """Score ``evaluation`` with ``sequences`` sequences at once, in the model's own precision.

    The processes of a job take the batches by turns, each batch once; a state that is carried from
    batch to batch cannot be shared, and the first process alone scores. The batches' sums are added
    in the order of the batches whoever has scored them, so that their number changes no bit.

    Raises Interrupted on every process, with nothing half-done, once ``stop()`` is true between two
    batches of any.
    """
    was_training = model.training
    model.eval()
    by_position, by_distance = Tally(), Tally()
    state: Any = None
    mine: list[tuple[int, Tally, Tally]] = []
    stopped = False

    def share() -> None:
        found = job.all((stopped, mine.copy()))
        mine.clear()
        if any(theirs for theirs, _ in found):
            raise Interrupted("evaluation stopped")
        for _, position, distance in sorted(chain(*(part for _, part in found)), key=first):
            by_position.join(position)
            by_distance.join(distance)

    try:
        for number, batch in enumerate(evaluation.batches(sequences)):
            stopped = stopped or stop()
            if number % (TURNS * job.size) == 0 or (stopped and job.size == 1):
                share()
            taker = 0 if evaluation.carry else number % job.size
            if taker == job.rank and not stopped:
                position, distance, after = score(model, batch, state, mode=mode, device=device)
                mine.append((number, position, distance))
                state = after if evaluation.carry else None
        share()
    finally:
        model.train(was_training)
    return Scores(summarise(evaluation, by_position, by_distance), by_position, by_distance)


def score(
    model: LanguageModel, batch: Batch, state: Any, *, mode: ModeName, device: torch.device | str
) -> tuple[Tally, Tally, Any]:
    """One batch's sums by position and by distance, and the state after it."""
    inputs = {name: part.to(device) for name, part in tensors(batch).items()}
    x_BLD, after = model.features(inputs["inputs"], state, reset=inputs.get("reset"), mode=mode)
    targets, head = inputs["targets"].flatten(), model.head
    losses_N, hits_N = losses_and_hits(x_BLD.flatten(0, 1), head.weight, head.bias, targets)
    scored = batch.targets_BL != IGNORE
    loss, correct = (part.cpu().numpy()[scored.ravel()] for part in (losses_N, hits_N))
    position = np.broadcast_to(np.arange(scored.shape[1]), scored.shape)[scored]
    by_position, by_distance = Tally(), Tally()
    by_position.add(position, loss, correct)
    if batch.distance_BL is not None:
        by_distance.add(batch.distance_BL[scored], loss, correct)
    return by_position, by_distance, after


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
