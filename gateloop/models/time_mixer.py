"""What every model of this project is to the rest of it: something that mixes time steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from gateloop.names import ModeName

State = tuple[Tensor, ...]


class TimeMixer(nn.Module):
    """(batch, length, d_model) to the same, causally, with a state that continues the sequence.

    ``modes``: the execution modes it admits. ``supports_reset``: takes ``reset`` (batch, length)
    bool, true where nothing before that step counts.
    """

    modes: ClassVar[tuple[ModeName, ...]]
    supports_reset: ClassVar[bool]

    @abstractmethod
    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        """(y of the shape of x, the state after it); ``state`` None is that of a fresh sequence."""

    @abstractmethod
    def init_state(self, batch: int) -> State:
        """A flat tuple of tensors, batch first: what stands before the first step."""

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of parameters by optimiser group; those of ``transition`` have their own rate."""
        return {}
