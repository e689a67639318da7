"""One layer: time mixing, then channel mixing, each with a residual and a norm."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.model_config import ModelConfig
from gateloop.models.norm import layer_norm
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ChannelMixingName, ModeName, NormPlacement


class ChannelMixing(nn.Module):
    """The paper's two-layer GELU MLP, (batch, length, d_model) to the same."""

    def __init__(self, d_model: int, d_channel: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_channel)
        self.activation = nn.GELU()
        self.down = nn.Linear(d_channel, d_model)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BLD)))


class GatedChannelMixing(nn.Module):
    """SwiGLU or GEGLU (arXiv 2002.05202): down(f(gate x) ⊙ up x), without biases."""

    def __init__(self, d_model: int, d_channel: int, kind: ChannelMixingName) -> None:
        super().__init__()
        self.activation = F.silu if kind is ChannelMixingName.swiglu else F.gelu
        self.up = nn.Linear(d_model, d_channel, bias=False)
        self.gate = nn.Linear(d_model, d_channel, bias=False)
        self.down = nn.Linear(d_channel, d_model, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x_BLD)) * self.up(x_BLD))


def channel_mixing(kind: ChannelMixingName, d_model: int, d_channel: int) -> nn.Module:
    if kind is ChannelMixingName.gelu:
        return ChannelMixing(d_model, d_channel)
    return GatedChannelMixing(d_model, d_channel, kind)


class Block(nn.Module):
    """Time mixing and channel mixing with pre- or post-norm and dropout on each branch."""

    def __init__(self, config: ModelConfig, time_mixing: TimeMixer, d_channel: int) -> None:
        super().__init__()
        d_model = config.d_model
        self.time_mixing = time_mixing
        self.channel_mixing = channel_mixing(config.channel_mixing, d_model, d_channel)
        self.time_norm = layer_norm(config.norm, d_model)
        self.channel_norm = layer_norm(config.norm, d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.pre = config.norm_placement is NormPlacement.pre

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
