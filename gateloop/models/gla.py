"""Gated linear attention (Yang et al., arXiv 2312.06635, section 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.models.multi_head import MultiHead, wide
from gateloop.models.time_mixer import State, gate_logits
from gateloop.names import ModeName
from gateloop.recurrence import gated_linear_recurrence

GATE_RANK = 16
GATE_TEMPERATURE = 16.0
NORM_EPS = 1e-5


class GLA(MultiHead):
    """A real decay for each key from the input; RMSNorm of each head, SiLU gate, projection.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor
    (batch, heads, d_key, d_value), float32, or float64 in a float64 model.

    log a_n = logsigmoid(x W₁ W₂ + b) / 16 with W₁ of rank 16; q scaled by d_key^(−1/2).
    """

    key_share = 0.5

    def __init__(
        self, d_model: int, *, heads: int = 4, d_key: int | None = None, d_value: int | None = None
    ) -> None:
        super().__init__(d_model, heads=heads, d_key=d_key, d_value=d_value)
        keys, values = heads * self.d_key, heads * self.d_value
        self.query = nn.Linear(d_model, keys, bias=False)
        self.key = nn.Linear(d_model, keys, bias=False)
        self.value = nn.Linear(d_model, values, bias=False)
        self.decay = nn.Sequential(
            nn.Linear(d_model, GATE_RANK, bias=False), nn.Linear(GATE_RANK, keys)
        )
        self.gate = nn.Linear(d_model, values, bias=False)
        self.norm = nn.RMSNorm(self.d_value, eps=NORM_EPS)
        self.output = nn.Linear(values, d_model, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=2**-2.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def log_decay(self, x_BLD: Tensor) -> Tensor:
        """(batch, length, heads, d_key), at most 0, never made in 16 bits."""
        return self.by_head(F.logsigmoid(gate_logits(self.decay, x_BLD))) / GATE_TEMPERATURE

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        state = state or self.init_state(x_BLD.shape[0])
        y_BLHV, hidden = gated_linear_recurrence(
            self.by_head(self.query(x_BLD)) * self.d_key**-0.5,
            self.by_head(self.key(x_BLD)),
            self.by_head(self.value(x_BLD)),
            self.log_decay(x_BLD),
            None,
            mode=ModeName(mode or ModeName.auto).value,
            state=state[0],
            reset=reset,
        )
        y = self.norm(wide(y_BLHV)).flatten(-2) * F.silu(self.gate(x_BLD))
        return self.output(y), (hidden,)
