"""Causality audit: does a prediction change when the model cannot see what comes after it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gateloop.data import IGNORE, Evaluation
from gateloop.models.language_model import LanguageModel
from gateloop.names import ModeName
from gateloop.training.cross_entropy import token_losses
from gateloop.training.feed import tensors

SEQUENCES = 16


@dataclass(frozen=True)
class Audit:
    """``positions`` scored twice. ``gap``: mean |Δ| of the loss; all losses in nats per token."""

    gap: float
    loss_parallel: float
    loss_prefix: float
    positions: int


def audited_positions(scored_BL: np.ndarray, number: int) -> list[int]:
    """Positions spread evenly over a window, its first and last scored ones among them.

    As few as hold ``number`` scored targets of a batch; all, where the batch has no more.
    """
    scored_L = scored_BL.sum(0)
    places = np.flatnonzero(scored_L)
    chosen = min(-(-number // len(scored_BL)), len(places))
    while True:
        spread = np.linspace(0, len(places) - 1, chosen).round().astype(int)
        if scored_L[places[spread]].sum() >= number or chosen == len(places):
            return [int(place) for place in places[spread]]
        chosen = min(2 * chosen, len(places))


@torch.no_grad()
def audit(
    model: LanguageModel,
    evaluation: Evaluation,
    *,
    mode: ModeName,
    positions: int,
) -> Audit:
    """What scoring from prefixes alone changes.

    At least ``positions`` scored positions, where the evaluation has as many, are scored again
    from their prefixes alone: the model gets the inputs up to there and nothing after.
    """
    model.eval()
    device = next(model.parameters()).device
    losses: list[Tensor] = []  # (2, positions): in parallel, and from the prefix alone
    found = 0
    for batch in evaluation.batches(SEQUENCES):
        inputs = {name: part.to(device) for name, part in tensors(batch).items()}
        tokens, targets, reset = inputs["inputs"], inputs["targets"], inputs.get("reset")
        x_BLD = model.features(tokens, reset=reset, mode=mode)[0]
        together = token_losses(model.head, x_BLD, targets)
        for place in audited_positions(batch.targets_BL != IGNORE, positions - found):
            until = place + 1
            prefix_reset = None if reset is None else reset[:, :until]
            alone = model.features(tokens[:, :until], reset=prefix_reset, mode=mode)[0][:, -1:]
            target = targets[:, place:until]
            scored = target != IGNORE
            both = torch.stack([together[:, place:until], token_losses(model.head, alone, target)])
            losses.append(both[:, scored].double().cpu())
            found += int(scored.sum())
        if found >= positions:
            break
    parallel, prefix = torch.cat(losses, dim=1)
    gap = float((parallel - prefix).abs().mean())
    return Audit(gap, float(parallel.mean()), float(prefix.mean()), found)
