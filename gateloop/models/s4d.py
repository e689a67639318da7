"""S4D: S4 with a diagonal state matrix (Gu, Gupta, Goel and Ré, arXiv 2206.11893)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.baseline_config import StepConfig
from gateloop.models.discretisation import discretise
from gateloop.models.hippo import nplr
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import Discretisation, ModeName, Spectrum
from gateloop.recurrence import gated_linear_recurrence
from gateloop.registry import FIXED_MODES


class S4D(TimeMixer):
    """x′ = A x + B u, y = 2 Re(C x) + D u for each channel with a step Δ; then GELU and a GLU.

    A is diagonal; of its conjugate pairs one half is kept, that with a negative imaginary part. In
    the recurrence a head is a channel, with a = Ā, k = B̄, q = 2 C and v = u. With
    ``spectrum=real`` all is real and q = C. ``ssms`` copies of (A, B) are dealt out to the channels
    in turn; Δ, C and D are each channel's own.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor,
    (batch, d_model, d_state / 2, 1) complex, or (batch, d_model, d_state, 1) real.
    """

    modes = FIXED_MODES

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        ssms: int | None = None,
        spectrum: Spectrum | str = Spectrum.lin,
        discretisation: Discretisation | str = Discretisation.zoh,
        step: StepConfig | None = None,
    ) -> None:
        super().__init__()
        step, ssms = step or StepConfig(), ssms or d_model
        if d_model % ssms:
            raise ValueError(f"ssms is {ssms}; it must divide d_model, {d_model}")
        self.repeats = d_model // ssms
        self.discretisation = Discretisation(discretisation)
        self.is_complex = Spectrum(spectrum) is not Spectrum.real
        self.state_dtype = torch.complex64 if self.is_complex else torch.float32
        eigenvalues = initial_eigenvalues(Spectrum(spectrum), d_state)
        keys, parts = len(eigenvalues), 2 if self.is_complex else 1
        self.state_shape = (d_model, keys, 1)

        low, high = math.log(step.least), math.log(step.most)
        self.log_step_D = nn.Parameter(low + torch.rand(d_model) * (high - low))
        self.log_decay_SN = nn.Parameter(_copies(np.log(-eigenvalues.real), ssms))
        if self.is_complex:
            self.frequency_SN = nn.Parameter(_copies(eigenvalues.imag, ssms))
        # (states, parts): real and imaginary part, or the real one alone
        one_NP = torch.cat([torch.ones(keys, 1), torch.zeros(keys, parts - 1)], 1)
        self.b_SNP = nn.Parameter(one_NP.repeat(ssms, 1, 1))
        self.c_DNP = nn.Parameter(torch.randn(d_model, keys, parts) * parts**-0.5)
        self.skip_D = nn.Parameter(torch.randn(d_model))
        self.output = nn.Linear(d_model, 2 * d_model)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Δ, A and B: a rate of their own and no decay. C is trained as any other weight."""
        spectrum = ["log_decay_SN", "frequency_SN"] if self.is_complex else ["log_decay_SN"]
        return {"transition": ["log_step_D", *spectrum, "b_SNP"]}

    def discretised(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """log|Ā|, the phase of Ā (bool half turns where all is real, or None) and B̄, (D, N) each.

        They are small, so they are made in float64, and phases are wrapped before they are rounded,
        for whatever float32 loses of a phase is lost again at every step.
        """
        dtype = torch.float64 if self.log_step_D.dtype == torch.float64 else torch.float32
        with torch.autocast(self.log_step_D.device.type, enabled=False):
            step_D1 = self.log_step_D.double().exp()[:, None]
            real_DN = -self.log_decay_SN.double().exp().repeat(self.repeats, 1)
            b_DN = _joined(self.b_SNP).repeat(self.repeats, 1)
            if self.is_complex:
                imaginary_DN = self.frequency_SN.double().repeat(self.repeats, 1)
                log_amplitude, phase, factor = discretise(
                    self.discretisation, step_D1, real_DN, imaginary_DN
                )
                phase = phase - 2 * math.pi * (phase / (2 * math.pi)).round()
                k_DN = (factor * b_DN).to(dtype.to_complex())
                return log_amplitude.to(dtype), phase.to(dtype), k_DN
            log_amplitude, phase, factor = discretise(
                self.discretisation, step_D1, real_DN, torch.zeros_like(real_DN)
            )
            # The trapezoidal rule turns what decays within half a step into alternating signs.
            half_turns = None if self.discretisation is Discretisation.zoh else phase > 1
            return log_amplitude.to(dtype), half_turns, (factor.real * b_DN).to(dtype)

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        log_amplitude, phase, k_DN = self.discretised()
        q_DN = _joined(self.c_DNP).to(k_DN.dtype) * (2 if self.is_complex else 1)
        y_BLD1, after = gated_linear_recurrence(
            q_DN[None, None],
            k_DN[None, None],
            x_BLD[..., None],
            log_amplitude[None, None],
            None if phase is None else phase[None, None],
            mode=ModeName(mode or ModeName.auto).value,
            state=None if state is None else state[0],
            reset=reset,
        )
        y_BLD = F.gelu(y_BLD1.squeeze(-1) + self.skip_D * x_BLD)
        return F.glu(self.output(y_BLD)), (after,)


def initial_eigenvalues(spectrum: Spectrum, d_state: int) -> np.ndarray:
    """The eigenvalues of A, half of the pairs: the paper's section 4.

    ``lin`` −1/2 − iπn, ``inv`` −1/2 − i (N/π)(N/(2n+1) − 1), ``legs`` the spectrum of HiPPO-LegS's
    normal part, each d_state / 2 of them; ``real`` −(n+1), d_state of them.
    """
    if spectrum is Spectrum.real:
        return -np.arange(1.0, d_state + 1)
    n = np.arange(d_state // 2)
    if spectrum is Spectrum.legs:
        return nplr(d_state).eigenvalues
    if spectrum is Spectrum.lin:
        return -0.5 - 1j * math.pi * n
    return -0.5 - 1j * d_state / math.pi * (d_state / (2 * n + 1) - 1)


def _copies(values: np.ndarray, number: int) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype()).repeat(number, 1)


def _joined(parts_NP: Tensor) -> Tensor:
    """The numbers whose parts are along the last axis, in twice the precision."""
    parts_NP = parts_NP.double()
    return torch.view_as_complex(parts_NP) if parts_NP.shape[-1] == 2 else parts_NP[..., 0]
