"""S5: one state space for all channels (Smith and others, arXiv 2208.04933), sections 3 and 4."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.baseline_config import StepConfig
from gateloop.models.complex_product import complex_product, real_of_product
from gateloop.models.discretisation import discretise
from gateloop.models.hippo import nplr
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import Discretisation, ModeName, S5Output
from gateloop.recurrence import gated_linear_recurrence
from gateloop.registry import FIXED_MODES

# The least distance of an eigenvalue from the imaginary axis: the published code's clip_eigs,
# which it advises for autoregressive use.
LEAST_DECAY = 1e-4
# The standard deviation of a standard normal cut off at ±2.
TRUNCATED_DEVIATION = 0.87962566103423978


class S5(TimeMixer):
    """x′ = Λ x + B u, each state with a step Δ of its own, y = 2 Re(C x) + D u; then a half GLU.

    Half a GLU is g ⊙ σ(W g) with g = GELU(y).
    Λ starts as the spectrum of HiPPO-N in ``blocks``. Of each conjugate pair one half is kept, so
    that the states are d_state / 2 complex numbers. In the recurrence a head is a state: a = Λ̄,
    k = q = 1, v = B̄ u complex; C reads the complex x outside.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor,
    (batch, d_state / 2, 1, 1) complex.
    """

    modes = FIXED_MODES
    state_dtype = torch.complex64

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int | None = None,
        blocks: int | None = None,
        output: S5Output | str = S5Output.trunc_standard_normal,
        discretisation: Discretisation | str = Discretisation.zoh,
        step: StepConfig | None = None,
    ) -> None:
        super().__init__()
        step = step or StepConfig()
        d_state = d_state or d_model
        blocks = blocks or math.gcd(8, d_state // 2)
        self.state_shape = (d_state // 2, 1, 1)
        self.discretisation = Discretisation(discretisation)
        hippo = nplr(d_state // blocks)
        dtype = torch.get_default_dtype().to_complex()
        eigenvalue_S = torch.tensor(hippo.eigenvalues, dtype=dtype).repeat(blocks)
        v_NS = torch.tensor(hippo.v, dtype=dtype)
        low, high = math.log(step.least), math.log(step.most)
        self.eigenvalue_real_S = nn.Parameter(eigenvalue_S.real.clone())
        self.eigenvalue_imaginary_S = nn.Parameter(eigenvalue_S.imag.clone())
        self.log_step_S = nn.Parameter(low + torch.rand(d_state // 2) * (high - low))
        self.b_SD2 = nn.Parameter(initial_input(blocks, v_NS, d_model))
        self.c_DS2 = nn.Parameter(initial_output(S5Output(output), blocks, v_NS, d_model))
        self.d_D = nn.Parameter(torch.randn(d_model))
        self.gate = nn.Linear(d_model, d_model)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Λ, Δ and B: a rate of their own and no decay, the published code's ``standard``."""
        return {
            "transition": ["eigenvalue_real_S", "eigenvalue_imaginary_S", "log_step_S", "b_SD2"]
        }

    def discretised(self) -> tuple[Tensor, Tensor, Tensor]:
        """log|Λ̄| and arg Λ̄, real (states,), and B̄, complex (states, d_model)."""
        with torch.autocast(self.b_SD2.device.type, enabled=False):
            log_amplitude, phase, factor = discretise(
                self.discretisation,
                self.log_step_S.exp(),
                self.eigenvalue_real_S.clamp_max(-LEAST_DECAY),
                self.eigenvalue_imaginary_S,
            )
            return log_amplitude, phase, factor[:, None] * torch.view_as_complex(self.b_SD2)

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        (before,) = state or self.init_state(x_BLD.shape[0])
        log_amplitude, phase, b_SD = self.discretised()
        h_BLS1, after = gated_linear_recurrence(
            None,
            None,
            complex_product(b_SD, x_BLD)[..., None],
            log_amplitude[None, None, :, None],
            phase[None, None, :, None],
            mode=ModeName(mode or ModeName.auto).value,
            state=before,
            reset=reset,
            complex_output=True,
        )
        c_DS = torch.view_as_complex(self.c_DS2)
        y_BLD = 2 * real_of_product(c_DS, h_BLS1.squeeze(-1)) + self.d_D * x_BLD
        y_BLD = F.gelu(y_BLD)
        return y_BLD * torch.sigmoid(self.gate(y_BLD)), (after,)


def truncated_normal(*shape: int, deviation: float) -> Tensor:
    """Normal, cut off at twice its width, with this standard deviation after the cut."""
    width = deviation / TRUNCATED_DEVIATION
    return nn.init.trunc_normal_(torch.empty(shape), std=width, a=-2 * width, b=2 * width)


def initial_input(blocks: int, v_NS: Tensor, d_model: int) -> Tensor:
    """V⁻¹ B, (d_state / 2, d_model, 2), B real of variance 1 / d_state.

    The published code counts the fan-in of a (d_state, d_model) matrix along its first axis.
    """
    order = len(v_NS)
    b_JND = truncated_normal(blocks, order, d_model, deviation=(blocks * order) ** -0.5)
    b_JSD = torch.einsum("ns,jnd->jsd", v_NS.conj(), b_JND.to(v_NS.dtype))
    return torch.view_as_real(b_JSD.flatten(0, 1)).clone()


def initial_output(kind: S5Output, blocks: int, v_NS: Tensor, d_model: int) -> Tensor:
    """C V, or C itself for ``complex_normal``, (d_model, d_state / 2, 2).

    The parts of C have variance 1 / d_state (each row drawn for itself: ``trunc_standard_normal``),
    1 / (d_state · d_model) (drawn whole: ``lecun_normal``) or 1/2.
    """
    order, kept = v_NS.shape
    if kind is S5Output.complex_normal:
        return torch.randn(d_model, blocks * kept, 2) * 0.5**0.5
    fan_in = blocks * order * (d_model if kind is S5Output.lecun_normal else 1)
    c_DJN2 = truncated_normal(d_model, blocks, order, 2, deviation=fan_in**-0.5)
    c_DJS = torch.einsum("djn,ns->djs", torch.view_as_complex(c_DJN2), v_NS)
    return torch.view_as_real(c_DJS.flatten(1)).clone()
