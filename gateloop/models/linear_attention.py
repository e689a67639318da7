"""Causal linear attention (Katharopoulos et al., arXiv 2006.16236, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.models.multi_head import MultiHead, wide
from gateloop.models.time_mixer import State
from gateloop.names import ModeName
from gateloop.recurrence import gated_linear_recurrence

DENOMINATOR_EPS = 1e-6


class LinearAttention(MultiHead):
    """y_n = φ(q_n) Σ φ(k_m)ᵀ v_m / φ(q_n)·Σ φ(k_m), φ(x) = elu(x) + 1, then a projection.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor
    (batch, heads, d_key, d_value + 1), float32, or float64 in a float64 model: a column of ones
    beside the values makes its last column the denominator's Σ φ(k_m), which so is handed over
    and reset with the rest. Numerator and denominator are float32 under autocast as well.
    """

    def __init__(
        self, d_model: int, *, heads: int = 4, d_key: int | None = None, d_value: int | None = None
    ) -> None:
        super().__init__(d_model, heads=heads, d_key=d_key, d_value=d_value)
        self.state_shape = (heads, self.d_key, self.d_value + 1)
        self.query = nn.Linear(d_model, heads * self.d_key)
        self.key = nn.Linear(d_model, heads * self.d_key)
        self.value = nn.Linear(d_model, heads * self.d_value)
        self.output = nn.Linear(heads * self.d_value, d_model)

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        state = state or self.init_state(x_BLD.shape[0])
        q_BLHK = F.elu(wide(self.by_head(self.query(x_BLD)))) + 1
        k_BLHK = F.elu(wide(self.by_head(self.key(x_BLD)))) + 1
        v_BLHV = F.pad(wide(self.by_head(self.value(x_BLD))), (0, 1), value=1.0)
        y_BLHV, hidden = gated_linear_recurrence(
            q_BLHK,
            k_BLHK,
            v_BLHV,
            q_BLHK.new_zeros(1, 1, 1, 1),
            None,
            mode=ModeName(mode or ModeName.auto).value,
            state=state[0],
            reset=reset,
        )
        y = y_BLHV[..., :-1] / (y_BLHV[..., -1:] + DENOMINATOR_EPS)
        return self.output(y.flatten(-2)), (hidden,)
