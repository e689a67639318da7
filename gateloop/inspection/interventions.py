"""What accuracy or loss it costs to take something away from the transitions."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gateloop.data import IGNORE, Batch
from gateloop.inspection.transitions import Change, changed
from gateloop.models.language_model import LanguageModel
from gateloop.training.feed import tensors
from gateloop.training.module import token_losses

Made = tuple[Tensor, "Tensor | None"]


@dataclass(frozen=True)
class Effect:
    """Loss in nats per scored step, and accuracy, under an intervention."""

    name: str
    loss: float
    accuracy: float


@torch.no_grad()
def effects(model: LanguageModel, batches: Iterable[tuple[Batch, np.ndarray]]) -> list[Effect]:
    """The model as it is, then under each intervention, over the same batches.

    Each batch comes with the steps (batch, length) bool at which it should forget; where no batch
    has any, what concerns them is left out.
    """
    batches = list(batches)
    found = []
    for name in INTERVENTIONS:
        if "reset" in name and not any(marks.any() for _, marks in batches):
            continue
        loss = correct = number = 0.0
        for batch, marks_BL in batches:
            change = INTERVENTIONS[name](torch.as_tensor(marks_BL))
            with changed(model, change) if change else nullcontext():
                inputs = tensors(batch)
                logits_BLV, _ = model(inputs["inputs"], reset=inputs.get("reset"))
            scored = inputs["targets"] != IGNORE
            loss += float(token_losses(logits_BLV, inputs["targets"])[scored].double().sum())
            correct += float((logits_BLV.argmax(-1) == inputs["targets"])[scored].sum())
            number += float(scored.sum())
        found.append(Effect(name, loss / number, correct / number))
    return found


def _keep_all(marks_BL: Tensor) -> Change:
    """Amplitude one at the marked steps."""

    def change(_: int, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        return log_amplitude.masked_fill(marks_BL[:, :, None, None], 0.0), phase

    return change


def _forget_all(marks_BL: Tensor) -> Change:
    """Amplitude zero at the marked steps."""

    def change(_: int, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        return log_amplitude.masked_fill(marks_BL[:, :, None, None], -100.0), phase

    return change


def _mean_phase(_: Tensor) -> Change:
    """Every phase at its channel's circular mean over batch and time."""

    def change(_: int, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        if phase is None or phase.dtype == torch.bool:
            return log_amplitude, phase
        mean = torch.polar(torch.ones_like(phase), phase).mean((0, 1), keepdim=True).angle()
        return log_amplitude, mean

    return change


def _mean_amplitude(_: Tensor) -> Change:
    """Every log-amplitude at its channel's mean over batch and time."""

    def change(_: int, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        return log_amplitude.mean((0, 1), keepdim=True), phase

    return change


def _other_order(_: Tensor) -> Change:
    """The transitions of a sequence in another order of time, one order for every layer."""

    def change(_: int, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        order = torch.randperm(
            log_amplitude.shape[1], generator=torch.Generator().manual_seed(0)
        )
        return log_amplitude[:, order], None if phase is None else phase[:, order]

    return change


INTERVENTIONS = {
    "as trained": lambda _: None,
    "amplitude 1 at resets": _keep_all,
    "amplitude 0 at resets": _forget_all,
    "phases at their means": _mean_phase,
    "amplitudes at their means": _mean_amplitude,
    "transitions in another order": _other_order,
}
