"""What tells attention where a token stands: a learned table, rotations, data-controlled gates."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.models.time_mixer import gate_logits

ROTARY_BASE = 10_000.0


class LearnedPositions(nn.Module):
    """GPT-2's absolute positions: a row of a table for each place, added to the embedding.

    forward: x (batch, length, d_model), steps (batch,) int64 read before, or None for none →
    (x with its rows, the steps read after it). Places go on when the state is handed over, and do
    not start again at a reset, as in GPT-2's packed training text. The table starts with the
    embedding's own spread. Raises ValueError beyond its last row.
    """

    def __init__(self, rows: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, d_model)
        nn.init.normal_(self.table.weight, std=d_model**-0.5)

    def forward(self, x_BLD: Tensor, steps_B: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, length, _ = x_BLD.shape
        # A fresh sequence is checked without waiting for the device.
        longest = length if steps_B is None else int(steps_B.max()) + length
        if longest > self.table.num_embeddings:
            raise ValueError(
                f"step {longest} is beyond the {self.table.num_embeddings} learned positions "
                "(model.max_length)"
            )
        if steps_B is None:
            steps_B = torch.zeros(batch, dtype=torch.int64, device=x_BLD.device)
            x_BLD = x_BLD + self.table.weight[:length]
        else:
            x_BLD = x_BLD + self.table(steps_B[:, None] + torch.arange(length, device=x_BLD.device))
        return x_BLD, steps_B + length


class RotaryGates(nn.Module):
    """RoPE (arXiv 2104.09864) as transitions: the phase of each pair is fixed, no amplitude."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.pairs = pairs

    def forward(self, x_BLD: Tensor) -> tuple[None, Tensor]:
        """(None, radians a step (1, 1, 1, pairs) float64)."""
        place_P = torch.arange(self.pairs, dtype=torch.float64, device=x_BLD.device)
        return None, (ROTARY_BASE ** (-place_P / self.pairs))[None, None, None]


class DataControlledGates(nn.Module):
    """GateLoop's gates as relative positions of softmax attention (arXiv 2311.01927).

    forward: x (batch, length, d_model) → (log-amplitude (batch, length, heads) ≤ 0, phase (batch,
    length, heads, pairs) in radians), float32, or float64 in a float64 model, whatever autocast
    says. The amplitude is σ of a linear map, the phase a linear map itself.
    """

    def __init__(
        self, d_model: int, heads: int, pairs: int, initial_amplitude: float, phase_scale: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.amplitude = nn.Linear(d_model, heads)
        self.phase = nn.Linear(d_model, heads * pairs)
        odds = math.log(initial_amplitude) - math.log1p(-initial_amplitude)
        nn.init.constant_(self.amplitude.bias, odds)
        nn.init.zeros_(self.phase.bias)
        with torch.no_grad():
            self.phase.weight.mul_(phase_scale)

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        log_amplitude_BLH = F.logsigmoid(gate_logits(self.amplitude, x_BLD))
        return log_amplitude_BLH, gate_logits(self.phase, x_BLD).unflatten(-1, (self.heads, -1))


def turns(phase: Tensor, before: Tensor, length: int) -> Tensor:
    """Φ of each step, modulo a full turn, float64: what went before and the phases since.

    phase (·, length or 1, ·, pairs), before (·, ·, pairs); axes of size 1 stay so.
    """
    phase = phase.double()
    if phase.shape[1] == length:
        sums = phase.cumsum(1)
    else:
        steps = torch.arange(1, length + 1, dtype=torch.float64, device=phase.device)
        sums = steps[:, None, None] * phase
    return (before.unsqueeze(1) + sums).remainder(2 * math.pi)


def rotate(x_BLHK: Tensor, turn: Tensor) -> Tensor:
    """R(Φ) x in x's own dtype: channel j of a head's first half turns with j of its second."""
    angle = turn.to(torch.float64 if x_BLHK.dtype == torch.float64 else torch.float32)
    cosine, sine = angle.cos(), angle.sin()
    first, second = x_BLHK.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.to(x_BLHK.dtype)
