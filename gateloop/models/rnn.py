"""LSTM and GRU, torch's own: references whose gates depend on the state, step after step."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName


class TorchRNN(TimeMixer):
    """One layer of a recurrent network of torch's, and a projection where its width is another.

    forward: x (batch, length, d_model) → (y of the same shape, state), recurrent and without
    resets: a ``reset`` with a true element raises ValueError. The state is what torch's module
    keeps, (batch, d_hidden) each, float32, or float64 in a float64 model; autocast does not reach
    inside. Weights start as torch has them.
    """

    modes = (ModeName.recurrent,)
    supports_reset = False
    network: ClassVar[type[nn.LSTM] | type[nn.GRU]]
    states: ClassVar[int]

    def __init__(self, d_model: int, *, d_hidden: int | None = None) -> None:
        super().__init__()
        self.d_hidden = d_hidden or d_model
        self.recurrent = self.network(d_model, self.d_hidden, batch_first=True)
        self.output = (
            nn.Identity() if self.d_hidden == d_model else nn.Linear(self.d_hidden, d_model)
        )

    def init_state(self, batch: int) -> State:
        """Zeros."""
        weight = self.recurrent.get_parameter("weight_hh_l0")
        return tuple(weight.new_zeros(batch, self.d_hidden) for _ in range(self.states))

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        self.check_mode(mode)
        if reset is not None and reset.any():
            raise ValueError(f"{type(self).__name__} cannot reset its state within a sequence")
        state = state or self.init_state(x_BLD.shape[0])
        # torch has an axis of layers before the batch
        before = tuple(part.unsqueeze(0) for part in state)
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_BLD = x_BLD if x_BLD.dtype == torch.float64 else x_BLD.float()
            y_BLH, after = self.recurrent(x_BLD, before if self.states > 1 else before[0])
        after = after if self.states > 1 else (after,)
        return self.output(y_BLH), tuple(part.squeeze(0) for part in after)


class LSTM(TorchRNN):
    """The LSTM with a forget gate (Hochreiter and Schmidhuber 1997; Gers and others 2000).

    State: output h and cell c.

        i, f, o = σ(W x + U h)   g = tanh(W x + U h)   c ← f c + i g   h ← o tanh c
    """

    network = nn.LSTM
    states = 2


class GRU(TorchRNN):
    """The GRU (arXiv 1406.1078), the reset gate after the product, as cuDNN has it.

    State: output h.

        r, z = σ(W x + U h)   n = tanh(W x + r (U h))   h ← (1 − z) n + z h
    """

    network = nn.GRU
    states = 1
