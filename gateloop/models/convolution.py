"""A short causal depthwise convolution that steps, splits and resets like the recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """y_n = Σ_j w_j ⊙ x_{n−j} for j < width, within a segment; starts close to the identity.

    forward: x (batch, length, channels), tail (batch, width − 1, channels) the inputs before x,
    reset (batch, length) bool or None → (y, tail), both differentiable.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.taps_WC = nn.Parameter(0.02 * torch.randn(width, channels))
        with torch.no_grad():
            self.taps_WC[0] += 1.0

    def forward(self, x_BLC: Tensor, tail: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        length, reach = x_BLC.shape[1], self.width - 1
        window = torch.cat([tail.to(x_BLC.dtype), x_BLC], dim=1)
        if reset is None:
            segment = None
        else:
            segment = torch.cat([reset.new_zeros(reset.shape[0], reach), reset], dim=1).cumsum(1)
        y_BLC = self.taps_WC[0] * x_BLC
        for back in range(1, self.width):
            shifted = window[:, reach - back : reach - back + length]
            if segment is not None:
                same = segment[:, reach:] == segment[:, reach - back : reach - back + length]
                shifted = shifted * same.unsqueeze(-1)
            y_BLC = y_BLC + self.taps_WC[back] * shifted
        tail = window[:, window.shape[1] - reach :]
        if segment is not None:
            same = segment[:, -1:] == segment[:, segment.shape[1] - reach :]
            tail = tail * same.unsqueeze(-1)
        return y_BLC, tail
