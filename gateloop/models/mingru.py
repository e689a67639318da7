"""minGRU (Feng and others, arXiv 2410.01201), section 3.1 and appendix B.3 (log space)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.models.time_mixer import State, TimeMixer, gate_logits
from gateloop.names import ModeName
from gateloop.recurrence import gated_linear_recurrence


class MinGRU(TimeMixer):
    """h_n = (1 − z_n) ⊙ h_{n−1} + z_n ⊙ g(h̃_n), z = σ(W_z x), h̃ = W_h x, then W_o h.

    g(x) = x + 1/2 from 0 on and σ(x) below: positive, so that the paper can scan in log space. Here
    only a is: log (1 − z) = −softplus(W_z x). In the recurrence a head is a channel: k = z, q = 1,
    v = g(h̃), all real.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor,
    (batch, expansion · d_model, 1, 1), zero before the first step.
    """

    def __init__(self, d_model: int, *, expansion: int = 1) -> None:
        super().__init__()
        d_hidden = expansion * d_model
        self.state_shape = (d_hidden, 1, 1)
        self.gate = nn.Linear(d_model, d_hidden)
        self.candidate = nn.Linear(d_model, d_hidden)
        self.output = nn.Linear(d_hidden, d_model)

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        (before,) = state or self.init_state(x_BLD.shape[0])
        logit_BLH = gate_logits(self.gate, x_BLD)
        v_BLH = positive(self.candidate(x_BLD))
        h_BLH1, after = gated_linear_recurrence(
            None,
            torch.sigmoid(logit_BLH)[..., None],
            v_BLH[..., None],
            -F.softplus(logit_BLH)[..., None],
            None,
            mode=ModeName(mode or ModeName.auto).value,
            state=before,
            reset=reset,
        )
        return self.output(h_BLH1.squeeze(-1)), (after,)


def positive(x: Tensor) -> Tensor:
    """g: x + 1/2 for x ≥ 0, else σ(x)."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))
