"""HGRN2: a gated linear RNN with state expansion (Qin et al., arXiv 2404.07904)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.models.multi_head import MultiHead, wide
from gateloop.models.time_mixer import State, TimeMixer, gate_logits
from gateloop.names import ModeName
from gateloop.recurrence import gated_linear_recurrence

NORM_EPS = 1e-5


class HGRN2(MultiHead):
    """The forget gate f is the transition and 1 − f the key; then RMSNorm and projection.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor
    (batch, heads, d_key, d_value), float32, or float64 in a float64 model.

    f = lb + (1 − lb) σ(x W_f), k = 1 − f, q = silu(x W_q) d_key^(−1/2), v = x W_v. The lower bound
    lb of layer l is s_1 + … + s_l, where s is the softmax of the parameters Γ over the layers: 0 in
    the first layer and more the deeper. Each layer has its own row of Γ, ``lower_bound``; a layer
    that no stack has joined has none and lb = 0.
    """

    lower_bound: nn.Parameter | None

    def __init__(
        self, d_model: int, *, heads: int = 4, d_key: int | None = None, d_value: int | None = None
    ) -> None:
        super().__init__(d_model, heads=heads, d_key=d_key, d_value=d_value)
        keys, values = heads * self.d_key, heads * self.d_value
        self.query = nn.Linear(d_model, keys, bias=False)
        self.forget = nn.Linear(d_model, keys, bias=False)
        self.value = nn.Linear(d_model, values, bias=False)
        self.norm = nn.RMSNorm(values, eps=NORM_EPS)
        self.output = nn.Linear(values, d_model, bias=False)
        for projection in (self.query, self.forget, self.value, self.output):
            nn.init.xavier_uniform_(projection.weight, gain=2**-2.5)
        self.register_parameter("lower_bound", None)
        self.layer = 0
        # a list, for a module in an attribute would become a part of this one
        self.stack: list[HGRN2] = []

    def join(self, layer: int, mixers: Sequence[TimeMixer]) -> None:
        """Take a place among the layers, and a row of Γ (zeros) where there are several."""
        self.layer, self.stack = layer, [mixer for mixer in mixers if isinstance(mixer, HGRN2)]
        if len(self.stack) > 1:
            weight = self.forget.weight
            self.lower_bound = nn.Parameter(weight.new_zeros(self.heads, self.d_key))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """(lb, 1 − lb) of this layer, each (heads, d_key), both to full relative precision."""
        rows = [wide(mixer.lower_bound) for mixer in self.stack if mixer.lower_bound is not None]
        share_NHK = torch.stack(rows).softmax(0)
        below, above = share_NHK[1 : self.layer + 1], share_NHK[self.layer + 1 :]
        return below.sum(0), share_NHK[0] + above.sum(0)

    def gates(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """(log f, 1 − f), each (batch, length, heads, d_key), never made in 16 bits."""
        logit = self.by_head(gate_logits(self.forget, x_BLD))
        if self.layer == 0:
            return F.logsigmoid(logit), torch.sigmoid(-logit)
        least_HK, rest_HK = self.bounds()
        k = rest_HK * torch.sigmoid(-logit)
        # each logarithm where its argument is exact: near one through k, else through f
        log_f = torch.log(least_HK + rest_HK * torch.sigmoid(logit))
        return torch.where(k < 0.5, torch.log1p(-k.clamp_max(0.5)), log_f), k

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        state = state or self.init_state(x_BLD.shape[0])
        log_f, k_BLHK = self.gates(x_BLD)
        y_BLHV, hidden = gated_linear_recurrence(
            F.silu(self.by_head(self.query(x_BLD))) * self.d_key**-0.5,
            k_BLHK,
            self.by_head(self.value(x_BLD)),
            log_f,
            None,
            mode=ModeName(mode or ModeName.auto).value,
            state=state[0],
            reset=reset,
        )
        return self.output(self.norm(wide(y_BLHV.flatten(-2)))), (hidden,)
