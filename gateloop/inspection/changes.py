"""What is taken away from a model's transitions, by name."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gateloop.inspection.channels import longest
from gateloop.inspection.transitions import TURN, Change, Made, observe
from gateloop.models.language_model import LanguageModel
from gateloop.recurrence.operator import LEAST_LOG_AMPLITUDE

AS_TRAINED = "as trained"
LONGEST = 8  # channels of each layer, by memory, whose phases are also frozen by themselves


def changes_of(
    model: LanguageModel, tokens_BL: np.ndarray, reset: int | None, modulus: int | None
) -> dict[str, Change]:
    """Name → change. Means, and which memories are longest, are the model's on ``tokens_BL``.

    ``reset``: the token at which amplitudes are clamped; ``modulus``: 2π/modulus is what phases
    are rounded to. None: not done.
    """
    layers = observe(model, tokens_BL)
    amplitudes = [torch.from_numpy(x.log_amplitude_BLHK).exp().mean((0, 1)) for x in layers]
    phases = [torch.from_numpy(x.phase_BLHK) for x in layers]
    means = [torch.polar(torch.ones_like(p), p).mean((0, 1)).angle() for p in phases]
    everything = [torch.ones(mean.shape, dtype=torch.bool) for mean in means]
    few = [torch.zeros(mean.shape, dtype=torch.bool) for mean in means]
    for layer, chosen_HK in zip(layers, few, strict=True):
        chosen_HK.view(-1)[longest(layer, tokens_BL != reset, LONGEST).copy()] = True

    found: dict[str, Change] = {AS_TRAINED: _nothing}
    if reset is not None:
        found["amplitude 1 at resets"] = _amplitude_at(reset, 0.0)
        found["amplitude 0 at resets"] = _amplitude_at(reset, LEAST_LOG_AMPLITUDE)
    found["amplitude 1 everywhere"] = _amplitude_one
    found["amplitudes at their means"] = _mean_amplitude(amplitudes)
    found["phase 0 everywhere"] = _no_phase
    found["phases at their means"] = _mean_phase(means, everything)
    found[f"the same, {LONGEST} longest memories"] = _mean_phase(means, few)
    found["the same, all others"] = _mean_phase(means, [~chosen for chosen in few])
    if modulus is not None:
        found[f"phases rounded to 2π/{modulus}"] = _rounded(TURN / modulus)
    found["transitions in another order"] = _other_order
    return found


def _nothing(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
    return log_amplitude, phase


def _amplitude_at(token: int, log_value: float) -> Change:
    def change(_: int, tokens_BL: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        marks_BLHK = tokens_BL.eq(token)[:, :, None, None]
        return torch.where(marks_BLHK, log_value, log_amplitude), phase

    return change


def _amplitude_one(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
    return torch.zeros_like(log_amplitude), phase


def _mean_amplitude(amplitudes: list[Tensor]) -> Change:
    def change(layer: int, _: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        frozen_HK = amplitudes[layer].log().to(log_amplitude.dtype)
        return frozen_HK[None, None], phase

    return change


def _no_phase(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
    return log_amplitude, None if phase is None else torch.zeros_like(phase)


def _mean_phase(means: list[Tensor], chosen: list[Tensor]) -> Change:
    """Circular means in the chosen channels; of half turns, the more frequent."""

    def change(layer: int, _: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        if phase is None:
            return log_amplitude, None
        frozen_HK = means[layer]
        if phase.dtype == torch.bool:
            frozen_HK = frozen_HK.abs() > TURN / 4
        return log_amplitude, torch.where(chosen[layer], frozen_HK, phase)

    return change


def _rounded(unit: float) -> Change:
    def change(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        if phase is None or phase.dtype == torch.bool:
            return log_amplitude, phase
        return log_amplitude, (phase / unit).round() * unit

    return change


def _other_order(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
    """One order of the steps for every layer and sequence; fixed transitions have none."""
    return _shuffled(log_amplitude), None if phase is None else _shuffled(phase)


def _shuffled(part: Tensor) -> Tensor:
    if part.shape[1] == 1:
        return part
    return part[:, torch.randperm(part.shape[1], generator=torch.Generator().manual_seed(0))]
