"""GateLoop's time mixing (Katsch, arXiv 2311.01927): how a, k, q and v arise from the input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.model_config import GateLoopConfig, TransitionConfig, key_value_sizes, phase_control
from gateloop.models.convolution import ShortConvolution
from gateloop.models.norm import output_norm as make_output_norm
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.models.transition import Transition
from gateloop.names import Domain, ModeName, OutputNorm, PhaseControl
from gateloop.recurrence import gated_linear_recurrence
from gateloop.registry import RECURRENCE_MODES


class GateLoop(TimeMixer):
    """A causal time mixer to put where attention stood.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is a tuple of
    tensors, batch first: the recurrence's (batch, heads, d_key, d_value), complex64 or float32,
    and with a short convolution the last inputs of that. Handing it to the next call continues the
    sequence; its size does not depend on how much has been read.

    h_n = a_n ⊙ h_{n−1} + k_nᵀ v_n,  y_n = Re(q_n h_n),  then norm, SiLU gate and projection.

    Raises InputError for options that contradict each other.
    """

    modes = RECURRENCE_MODES
    supports_reset = True

    def __init__(
        self,
        d_model: int,
        *,
        heads: int | None = None,
        d_key: int | None = None,
        d_value: int | None = None,
        output_norm: OutputNorm | str = OutputNorm.layer,
        output_norm_groups: int = 8,
        gate: bool = True,
        short_convolution: int = 0,
        transition: TransitionConfig | None = None,
    ) -> None:
        super().__init__()
        transition = transition or TransitionConfig()
        GateLoopConfig(
            d_model=d_model,
            heads=heads,
            d_key=d_key,
            d_value=d_value,
            output_norm=OutputNorm(output_norm),
            output_norm_groups=output_norm_groups,
            short_convolution=short_convolution,
            transition=transition,
        ).check()
        heads, d_key, d_value = key_value_sizes(d_model, heads, d_key, d_value)
        self.heads, self.d_key, self.d_value = heads, d_key, d_value
        self.complex_state = (
            transition.domain is Domain.complex
            and phase_control(transition) is not PhaseControl.none
        )
        self.widths = (heads * d_key, heads * d_key, heads * d_value)
        self.query_key_value = nn.Linear(d_model, sum(self.widths), bias=False)
        self.convolution = (
            ShortConvolution(sum(self.widths), short_convolution) if short_convolution > 1 else None
        )
        self.transition = Transition(d_model, heads, d_key, transition)
        self.norm = make_output_norm(OutputNorm(output_norm), heads * d_value, output_norm_groups)
        self.gate = nn.Linear(d_model, heads * d_value, bias=False) if gate else None
        self.output = nn.Linear(heads * d_value, d_model, bias=False)

    def init_state(self, batch: int) -> State:
        """Zeros: what stands before the first step."""
        weight = self.output.weight
        real = torch.float64 if weight.dtype == torch.float64 else torch.float32
        dtype = real.to_complex() if self.complex_state else real
        shape = (batch, self.heads, self.d_key, self.d_value)
        state: State = (torch.zeros(shape, dtype=dtype, device=weight.device),)
        if self.convolution is not None:
            reach = self.convolution.width - 1
            state += (
                torch.zeros(batch, reach, sum(self.widths), dtype=real, device=weight.device),
            )
        return state

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of the parameters that make the transitions: own learning rate, no decay."""
        return {
            "transition": [f"transition.{name}" for name, _ in self.transition.named_parameters()]
        }

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        state = state or self.init_state(x_BLD.shape[0])
        mixed = self.query_key_value(x_BLD)
        tail: State = ()
        if self.convolution is not None:
            mixed, last = self.convolution(mixed, state[1], reset)
            tail = (last.to(state[1].dtype),)
        q_BLHK, k_BLHK, v_BLHV = (
            part.unflatten(-1, (self.heads, -1)) for part in mixed.split(self.widths, dim=-1)
        )
        log_amplitude, phase = self.transition(x_BLD)
        y_BLHV, hidden = gated_linear_recurrence(
            q_BLHK,
            k_BLHK,
            v_BLHV,
            log_amplitude,
            phase,
            mode=ModeName(mode or ModeName.auto).value,
            state=state[0],
            reset=reset,
            growth=self.transition.growth,
        )
        y = self.norm(y_BLHV.flatten(-2))
        if self.gate is not None:
            y = y * F.silu(self.gate(x_BLD))
        return self.output(y), (hidden, *tail)
