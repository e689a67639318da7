"""What it costs in loss and accuracy to take something away from the transitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gateloop.data import Batch, Evaluation
from gateloop.inspection.transitions import TURN, Change, Made, changed, observe
from gateloop.models.language_model import LanguageModel
from gateloop.names import ModeName
from gateloop.recurrence.operator import LEAST_LOG_AMPLITUDE
from gateloop.training.evaluation import evaluate

AS_TRAINED = "as trained"
AT_ONCE = 32  # sequences; the first batch of them gives the means
LAYERS = 4  # up to so many, each is also intervened in by itself


@dataclass(frozen=True)
class Effect:
    """Loss in nats per scored step and accuracy on ``test``; ``layer`` None: in every layer."""

    intervention: str
    layer: int | None
    test: str
    tokens: int
    loss: float
    accuracy: float


def effects(
    model: LanguageModel,
    tests: list[Evaluation],
    sequences: int,
    *,
    mode: ModeName,
    reset: int | None = None,
    modulus: int | None = None,
) -> list[Effect]:
    """The model as trained, then under each intervention, on the first ``sequences`` of each test.

    On the first test, the main one, also in one layer at a time. ``reset``: the token at which
    the model should forget; ``modulus``: what it counts by. Where None, what concerns them is
    left out.
    """
    tests = [first_of(test, sequences) for test in tests]
    first = next(iter(tests[0].batches(AT_ONCE))).inputs_BL
    if reset is not None and not (first == reset).any():
        reset = None
    changes = interventions(model, first, reset, modulus)
    layers = len(model.mixers)
    found = []
    for test in tests:
        for name, change in changes.items():
            found.append(_effect(model, name, change, None, test, mode))
    if 1 < layers <= LAYERS:
        for name, change in changes.items():
            if name != AS_TRAINED:
                for layer in range(layers):
                    found.append(_effect(model, name, change, layer, tests[0], mode))
    return found


def _effect(
    model: LanguageModel,
    name: str,
    change: Change,
    layer: int | None,
    test: Evaluation,
    mode: ModeName,
) -> Effect:
    def here(place: int, tokens_BL: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        if layer is not None and layer != place:
            return log_amplitude, phase
        return change(place, tokens_BL, log_amplitude, phase)

    with changed(model, here):
        scores = evaluate(model, test, mode=mode, sequences=AT_ONCE).metrics
    return Effect(name, layer, test.name, int(scores["tokens"]), scores["loss"], scores["accuracy"])


def first_of(test: Evaluation, sequences: int) -> Evaluation:
    """The first ``sequences`` of a test; counts of its text go, as they are the whole text's."""

    def batches(size: int) -> Iterator[Batch]:
        left = sequences
        for batch in test.batches(size):
            if left <= 0:
                return
            parts = {
                name: None if part is None else part[:left] for name, part in vars(batch).items()
            }
            yield Batch(**parts)
            left -= len(batch.inputs_BL)

    return replace(test, batches=batches, words=None, bytes=None)


def interventions(
    model: LanguageModel, tokens_BL: np.ndarray, reset: int | None, modulus: int | None
) -> dict[str, Change]:
    """Name → change. The means are those of the model as trained on ``tokens_BL``."""
    layers = observe(model, tokens_BL)
    amplitudes = [torch.from_numpy(x.log_amplitude_BLHK).exp().mean((0, 1)) for x in layers]
    phases = [torch.from_numpy(x.phase_BLHK) for x in layers]
    means = [torch.polar(torch.ones_like(p), p).mean((0, 1)).angle() for p in phases]

    def as_trained(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        return log_amplitude, phase

    def at(token: int, value: float) -> Change:
        def change(_: int, tokens_BL: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
            marks_BLHK = tokens_BL.eq(token)[:, :, None, None]
            return torch.where(marks_BLHK, value, log_amplitude), phase

        return change

    def amplitude_one(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        return torch.zeros_like(log_amplitude), phase

    def mean_amplitude(layer: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        frozen_HK = amplitudes[layer].log().clamp_min(LEAST_LOG_AMPLITUDE)
        return frozen_HK[None, None].to(log_amplitude.dtype), phase

    def no_phase(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        return log_amplitude, None if phase is None else torch.zeros_like(phase)

    def mean_phase(layer: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        if phase is None:
            return log_amplitude, None
        frozen_BLHK = means[layer][None, None]
        return log_amplitude, (
            frozen_BLHK.abs() > TURN / 4 if phase.dtype == torch.bool else frozen_BLHK
        )

    def rounded(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        assert modulus is not None
        if phase is None or phase.dtype == torch.bool:
            return log_amplitude, phase
        unit = TURN / modulus
        return log_amplitude, (phase / unit).round() * unit

    def other_order(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        """One order for every layer and sequence; fixed transitions have none."""
        return _shuffled(log_amplitude), None if phase is None else _shuffled(phase)

    found: dict[str, Change] = {AS_TRAINED: as_trained}
    if reset is not None:
        found["amplitude 1 at resets"] = at(reset, 0.0)
        found["amplitude 0 at resets"] = at(reset, LEAST_LOG_AMPLITUDE)
    found["amplitude 1 everywhere"] = amplitude_one
    found["amplitudes at their means"] = mean_amplitude
    found["phase 0 everywhere"] = no_phase
    found["phases at their means"] = mean_phase
    if modulus is not None:
        found[f"phases rounded to multiples of 2π/{modulus}"] = rounded
    found["transitions in another order"] = other_order
    return found


def _shuffled(part: Tensor) -> Tensor:
    if part.shape[1] == 1:
        return part
    return part[:, torch.randperm(part.shape[1], generator=torch.Generator().manual_seed(0))]
