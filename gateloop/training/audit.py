"""Causality audit: does a prediction change when the model cannot see what comes after it?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gateloop.data import IGNORE, Evaluation
from gateloop.names import ModeName
from gateloop.training.feed import tensors
from gateloop.training.module import token_losses

POSITIONS = 512
SEQUENCES = 16


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
def causality_gap(
    model: nn.Module,
    evaluation: Evaluation,
    *,
    mode: ModeName,
    positions: int = POSITIONS,
) -> tuple[float, int]:
    """(mean |Δ| of the loss in nats per token, number of positions).

    At least ``positions`` scored positions, where the evaluation has as many, are scored again
    from their prefixes alone: the model gets the inputs up to there and nothing after.
    """
    model.eval()
    device = next(model.parameters()).device
    differences: list[Tensor] = []
    found = 0
    for batch in evaluation.batches(SEQUENCES):
        inputs = {name: part.to(device) for name, part in tensors(batch).items()}
        tokens, targets, reset = inputs["inputs"], inputs["targets"], inputs.get("reset")
        together = token_losses(model(tokens, reset=reset, mode=mode)[0], targets)
        for place in audited_positions(batch.targets_BL != IGNORE, positions - found):
            until = place + 1
            prefix_reset = None if reset is None else reset[:, :until]
            alone = model(tokens[:, :until], reset=prefix_reset, mode=mode)[0][:, -1:]
            target = targets[:, place:until]
            scored = target != IGNORE
            difference = token_losses(alone, target) - together[:, place:until]
            differences.append(difference[scored].abs().double().cpu())
            found += int(scored.sum())
        if found >= positions:
            break
    return float(torch.cat(differences).mean()), found
