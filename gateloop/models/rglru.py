"""Griffin's recurrent block with the RG-LRU (De and others, arXiv 2402.19427), section 2.4."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.baseline_config import RadiiConfig
from gateloop.models.convolution import ShortConvolution
from gateloop.models.ring import ring_radii
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName
from gateloop.recurrence import gated_linear_recurrence

SHARPNESS = 8.0  # the paper's c
STEEPEST = 1000.0  # bound on the slope of the square root, as in the published code


class RGLRU(TimeMixer):
    """W_o (GELU(W_g x) ⊙ RG-LRU(conv(W_i x))).

    RG-LRU on u: log a_n = −8 softplus(Λ) ⊙ σ(W_a u_n),
    h_n = a_n ⊙ h_{n−1} + √(1 − a_n²) ⊙ σ(W_x u_n) ⊙ u_n, W_a and W_x block-diagonal. At the first
    step of a sequence, where there is no h to make room for, 1 stands instead of the square root.
    In the recurrence a head is a channel: k = q = 1 and v is the gated u, all real.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is three tensors:
    h (batch, d_recurrent, 1, 1), the last inputs of the convolution (batch, width − 1,
    d_recurrent), and (batch, 1), 0 before a sequence's first step and 1 after it, so that a
    sequence that is read in parts has one first step.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_recurrent: int | None = None,
        gate_blocks: int | None = None,
        convolution: int = 4,
        ring: RadiiConfig | None = None,
    ) -> None:
        super().__init__()
        ring = ring or RadiiConfig()
        self.d_recurrent = d_recurrent = d_recurrent or d_model
        gate_blocks = gate_blocks or math.gcd(16, d_recurrent)
        self.gate = linear(d_model, d_recurrent)
        self.input = linear(d_model, d_recurrent)
        self.convolution = ShortConvolution(d_recurrent, convolution)
        nn.init.normal_(self.convolution.taps_WC, std=0.1 * convolution**-0.5)
        self.convolution_bias_C = nn.Parameter(torch.zeros(d_recurrent))
        decay_C = -torch.log(ring_radii(d_recurrent, ring.inner, ring.outer))
        self.lambda_C = nn.Parameter(torch.log(torch.expm1(decay_C)))
        self.recurrence_gate = BlockDiagonal(d_recurrent, gate_blocks)
        self.input_gate = BlockDiagonal(d_recurrent, gate_blocks)
        self.output = linear(d_recurrent, d_model)

    def init_state(self, batch: int) -> State:
        """Zeros: what stands before the first step."""
        reach = self.convolution.width - 1
        shapes = ((batch, self.d_recurrent, 1, 1), (batch, reach, self.d_recurrent), (batch, 1))
        like = self.lambda_C
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return tuple(torch.zeros(shape, dtype=dtype, device=like.device) for shape in shapes)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Λ, without decay; the paper names no rate of its own for it."""
        return {"transition": ["lambda_C"]}

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        before, tail, begun_B1 = state or self.init_state(x_BLD.shape[0])
        u_BLC, last = self.convolution(self.input(x_BLD), tail, reset)
        begun_BL = torch.cat([begun_B1, begun_B1.new_ones(u_BLC.shape[0], u_BLC.shape[1] - 1)], 1)
        if reset is not None:
            begun_BL = begun_BL * ~reset
        log_a_BLC, v_BLC = self.gated(u_BLC, begun_BL)
        h_BLC1, after = gated_linear_recurrence(
            None,
            None,
            v_BLC[..., None],
            log_a_BLC[..., None],
            None,
            mode=ModeName(mode or ModeName.auto).value,
            state=before,
            reset=reset,
        )
        y_BLD = self.output(F.gelu(self.gate(x_BLD)) * h_BLC1.squeeze(-1))
        return y_BLD, (after, last.to(tail.dtype), torch.ones_like(begun_B1))

    def gated(self, u_BLC: Tensor, begun_BL: Tensor) -> tuple[Tensor, Tensor]:
        """log a and v of the convolution's output, each (batch, length, d_recurrent)."""
        with torch.autocast(u_BLC.device.type, enabled=False):
            u_BLC = u_BLC if u_BLC.dtype == torch.float64 else u_BLC.float()
            u_BLC = u_BLC + self.convolution_bias_C
            openness = torch.sigmoid(self.recurrence_gate(u_BLC))
            log_a = -SHARPNESS * F.softplus(self.lambda_C) * openness
            room = BoundedSquareRoot.apply(-torch.expm1(2 * log_a))
            begun = begun_BL[..., None]
            return log_a, ((1 - begun) + begun * room) * torch.sigmoid(
                self.input_gate(u_BLC)
            ) * u_BLC


class BoundedSquareRoot(torch.autograd.Function):
    """√x with its slope held at STEEPEST: at a = 1 that of √(1 − a²) has no end."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        root = x.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return grad * (0.5 / root).clamp_max(STEEPEST)


class BlockDiagonal(nn.Module):
    """A linear map (batch, length, channels) to the same, each block of channels for itself."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        width = channels // blocks
        self.weight_GIO = nn.Parameter(torch.randn(blocks, width, width) * width**-0.5)
        self.bias_C = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BLC: Tensor) -> Tensor:
        x_BLGI = x_BLC.unflatten(-1, self.weight_GIO.shape[:2])
        return torch.einsum("blgi,gio->blgo", x_BLGI, self.weight_GIO).flatten(-2) + self.bias_C


def linear(inputs: int, outputs: int) -> nn.Linear:
    """With the block's initial values: variance 1 / inputs, no bias yet."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
