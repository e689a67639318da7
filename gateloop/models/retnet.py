"""RetNet's multi-scale retention (Sun et al., arXiv 2307.08621, section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.models.multi_head import MultiHead, wide
from gateloop.models.time_mixer import State
from gateloop.names import ModeName
from gateloop.recurrence import gated_linear_recurrence

# Beside the mean square of the bare read-out. torchscale has the same number beside a read-out
# divided by a scale that differs between its modes, so that they agree only at 0.
NORM_EPS = 1e-6


class Retention(MultiHead):
    """Fixed decay by head, fixed rotation by key pair; RMSNorm of each head, SiLU gate, projection.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor
    (batch, heads, d_key / 2, d_value), complex64, or complex128 in a float64 model.

    With γ_h = 1 − 2^(−5−h) and θ_j = 10000^(−j / (d_key/2 − 1)), head h has a = γ_h e^{−iθ_j}. Its
    d_key real keys stand in d_key / 2 complex ones, k = k_even + i·k_odd and q = q_even − i·q_odd,
    so that Re(q h) is the reference's read-out of rotated queries and keys. Neither γ nor θ is
    trained; they are buffers in float64, which 1 − 2^(−5−h) needs for many heads.

    Raises ValueError where d_key is odd.
    """

    value_share = 27 / 16  # 864 values for 512 channels, and so on in all but one torchscale size
    state_dtype = torch.complex64
    log_decay: Tensor
    angle: Tensor

    def __init__(
        self, d_model: int, *, heads: int = 4, d_key: int | None = None, d_value: int | None = None
    ) -> None:
        super().__init__(d_model, heads=heads, d_key=d_key, d_value=d_value)
        if self.d_key % 2:
            raise ValueError(f"d_key is {self.d_key}; it must be even, for keys rotate in pairs")
        pairs, keys, values = self.d_key // 2, heads * self.d_key, heads * self.d_value
        self.state_shape = (heads, pairs, self.d_value)
        self.query = nn.Linear(d_model, keys, bias=False)
        self.key = nn.Linear(d_model, keys, bias=False)
        self.value = nn.Linear(d_model, values, bias=False)
        self.gate = nn.Linear(d_model, values, bias=False)
        self.norm = nn.RMSNorm(self.d_value, eps=NORM_EPS, elementwise_affine=False)
        self.output = nn.Linear(values, d_model, bias=False)
        for projection in (self.query, self.key, self.value, self.gate):
            nn.init.xavier_uniform_(projection.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.output.weight, gain=2**-1)
        head = torch.arange(heads, dtype=torch.float64)
        log_decay = torch.log1p(-torch.exp2(-5 - head))
        exponent = torch.linspace(0, 1, pairs, dtype=torch.float64)
        angle = torch.exp(-math.log(10000) * exponent)
        self.register_buffer("log_decay", log_decay[None, None, :, None], persistent=False)
        self.register_buffer("angle", angle[None, None, None, :], persistent=False)

    def complex_pairs(self, x_BLC: Tensor) -> Tensor:
        """(batch, length, heads · d_key) to complex (batch, length, heads, d_key / 2)."""
        even, odd = wide(x_BLC).unflatten(-1, (self.heads, -1, 2)).unbind(-1)
        return torch.complex(even, odd)

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        state = state or self.init_state(x_BLD.shape[0])
        q_BLHK = torch.conj_physical(self.complex_pairs(self.query(x_BLD)))
        k_BLHK = self.complex_pairs(self.key(x_BLD)) * self.d_key**-0.5
        real = k_BLHK.real.dtype
        y_BLHV, hidden = gated_linear_recurrence(
            q_BLHK,
            k_BLHK,
            self.by_head(self.value(x_BLD)),
            self.log_decay.to(real),
            -self.angle.to(real),
            mode=ModeName(mode or ModeName.auto).value,
            state=state[0],
            reset=reset,
        )
        y = F.silu(self.gate(x_BLD)) * self.norm(wide(y_BLHV)).flatten(-2)
        return self.output(y), (hidden,)
