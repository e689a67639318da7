"""What every model of this project is to the rest of it: something that mixes time steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gateloop.model_config import ModelConfig
from gateloop.names import ModeName
from gateloop.registry import RECURRENCE_MODES

State = tuple[Tensor, ...]


class TimeMixer(nn.Module):
    """(batch, length, d_model) to the same, causally, with a state that continues the sequence.

    ``modes``: the execution modes it admits. ``supports_reset``: takes ``reset`` (batch, length)
    bool, true where nothing before that step counts. ``state_shape``: (heads, d_key, d_value),
    of a mixer whose state is the recurrence's and nothing else; ``state_dtype``: float32, or
    complex64 where it is complex.
    """

    modes: ClassVar[tuple[ModeName, ...]] = RECURRENCE_MODES
    supports_reset: ClassVar[bool] = True
    state_shape: tuple[int, int, int]
    state_dtype: torch.dtype = torch.float32

    @classmethod
    def from_config(cls, config: Any) -> TimeMixer:
        """The class, given d_model and, by keyword, the keys its config adds to ModelConfig."""
        shared = {field.name for field in fields(ModelConfig)}
        own = [field.name for field in fields(config) if field.name not in shared]
        return cls(config.d_model, **{name: getattr(config, name) for name in own})

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

    def init_state(self, batch: int) -> State:
        """A flat tuple of tensors, batch first: what stands before the first step.

        Here one tensor of zeros, (batch, *state_shape), of state_dtype, in a float64 model of
        twice the precision. A mixer that keeps more has a method of its own.
        """
        weight, dtype = next(self.parameters()), self.state_dtype
        if weight.dtype == torch.float64:
            dtype = torch.complex128 if dtype.is_complex else torch.float64
        return (torch.zeros(batch, *self.state_shape, dtype=dtype, device=weight.device),)

    def check_mode(self, mode: ModeName | str | None) -> None:
        """Raise ValueError for a mode that is not among ``modes`` (None and auto always are)."""
        name = ModeName(mode or ModeName.auto)
        if name not in (ModeName.auto, *self.modes):
            admitted = ", ".join(["auto", *(other.value for other in self.modes)])
            raise ValueError(
                f"mode {name.value}: {type(self).__name__} does not admit it; take {admitted}"
            )

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of parameters by optimiser group; those of ``transition`` have their own rate."""
        return {}

    def join(self, layer: int, mixers: Sequence[TimeMixer]) -> None:
        """Called once with a mixer's place in a stack and all mixers of that stack, in order.

        For models whose layers depend on their depth. Most have no use for it.
        """


def gate_logits(projection: nn.Module, x_BLD: Tensor) -> Tensor:
    """``projection(x)`` for a gate: float32, in a float64 model float64, under autocast too."""
    with torch.autocast(x_BLD.device.type, enabled=False):
        return projection(gate_input(projection, x_BLD))


def gate_input(gate: nn.Module, x_BLD: Tensor) -> Tensor:
    """x in the precision in which gates are made; in bfloat16 they would cost up to 11%.

    Raises TypeError where the gate's own weights have 16 bits.
    """
    for weight in gate.parameters():
        if weight.dtype in (torch.bfloat16, torch.float16):
            raise TypeError(
                f"the gates' weights are {weight.dtype}, which would cost up to 11 % of the "
                "output; keep the layer in float32 and compute under torch.autocast"
            )
    return x_BLD if x_BLD.dtype == torch.float64 else x_BLD.float()
