"""Norms of a layer's input and of the recurrence's read-out. All but one see one position."""

from __future__ import annotations

from torch import Tensor, nn

from gateloop.names import NormName, OutputNorm


class GroupNorm(nn.Module):
    """GroupNorm over the channels of each position, or, as a forensic option, over time as well.

    With ``over_time`` the statistics run over the whole sequence, as one public port of GateLoop
    has it: every position then sees the future through mean and variance. A perplexity measured
    so is not causal, and the audit says so.
    """

    def __init__(self, groups: int, channels: int, *, over_time: bool) -> None:
        super().__init__()
        self.over_time = over_time
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, x_BLC: Tensor) -> Tensor:
        if self.over_time:
            return self.norm(x_BLC.transpose(1, 2)).transpose(1, 2)
        return self.norm(x_BLC.flatten(0, 1)).view_as(x_BLC)


def output_norm(kind: OutputNorm, channels: int, groups: int) -> nn.Module:
    """The norm called ``kind`` for (batch, length, channels)."""
    if kind is OutputNorm.layer:
        return nn.LayerNorm(channels)
    if kind is OutputNorm.rms:
        return nn.RMSNorm(channels, eps=1e-6)
    if kind is OutputNorm.none:
        return nn.Identity()
    return GroupNorm(groups, channels, over_time=kind is OutputNorm.group_over_time)


def layer_norm(kind: NormName, channels: int) -> nn.Module:
    """The norm of a layer's input (or, post, of its residual sum), (batch, length, channels)."""
    if kind is NormName.rms:
        return nn.RMSNorm(channels, eps=1e-6)
    return nn.LayerNorm(channels)
