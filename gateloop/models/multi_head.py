"""What the models with a matrix for a state have in common: heads and the sizes of a head."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gateloop.models.time_mixer import TimeMixer


class MultiHead(TimeMixer):
    """A recurrence over a matrix for each head, (batch, length, d_model) to the same.

    The state is one tensor of shape (batch, *state_shape). Where ``d_key`` or ``d_value`` is not
    given, the heads together have the class's share of ``d_model`` as keys or values.
    """

    key_share: ClassVar[float] = 1.0
    value_share: ClassVar[float] = 1.0

    def __init__(
        self, d_model: int, *, heads: int = 4, d_key: int | None = None, d_value: int | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.d_key = d_key or max(1, round(self.key_share * d_model / heads))
        self.d_value = d_value or max(1, round(self.value_share * d_model / heads))
        self.state_shape = (heads, self.d_key, self.d_value)

    def by_head(self, x: Tensor) -> Tensor:
        """(batch, length, channels) to (batch, length, heads, channels of a head)."""
        return x.unflatten(-1, (self.heads, -1))


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()
