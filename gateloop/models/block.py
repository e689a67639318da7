"""One layer: time mixing, then channel mixing, each with a residual and a LayerNorm."""

from __future__ import annotations

from torch import Tensor, nn

from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName, NormPlacement


class ChannelMixing(nn.Module):
    """The paper's two-layer GELU MLP, (batch, length, d_model) to the same."""

    def __init__(self, d_model: int, d_channel: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_channel)
        self.activation = nn.GELU()
        self.down = nn.Linear(d_channel, d_model)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BLD)))


class Block(nn.Module):
    """Time mixing and channel mixing with pre- or post-LayerNorm and dropout on each branch."""

    def __init__(
        self,
        time_mixing: TimeMixer,
        d_model: int,
        d_channel: int,
        dropout: float,
        placement: NormPlacement,
    ) -> None:
        super().__init__()
        self.time_mixing = time_mixing
        self.channel_mixing = ChannelMixing(d_model, d_channel)
        self.time_norm = nn.LayerNorm(d_model)
        self.channel_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.pre = placement is NormPlacement.pre

    def forward(
        self, x_BLD: Tensor, state: State | None, reset: Tensor | None, mode: ModeName | None
    ) -> tuple[Tensor, State]:
        mix = self.time_mixing
        if self.pre:
            y_BLD, state = mix(self.time_norm(x_BLD), state, reset=reset, mode=mode)
            x_BLD = x_BLD + self.dropout(y_BLD)
            return x_BLD + self.dropout(self.channel_mixing(self.channel_norm(x_BLD))), state
        y_BLD, state = mix(x_BLD, state, reset=reset, mode=mode)
        x_BLD = self.time_norm(x_BLD + self.dropout(y_BLD))
        x_BLD = self.channel_norm(x_BLD + self.dropout(self.channel_mixing(x_BLD)))
        return x_BLD, state
