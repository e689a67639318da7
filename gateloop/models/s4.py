"""S4 (Gu, Goel and Ré, arXiv 2111.00396): HiPPO-LegS as diagonal plus low rank, per channel."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from gateloop.baseline_config import S4Config
from gateloop.models.dplr import System, bilinear, carry, kernel, nodes
from gateloop.models.hippo import nplr
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName


class S4(TimeMixer):
    """One state space with one input and one output for each channel, then GELU and a GLU.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor,
    float32 (float64 in a float64 layer), (batch, d_model, d_state): real parts of the kept halves
    of the conjugate pairs, then imaginary parts.

    x' = A x + B u, y = 2 Re C x + D u with A = Λ − P P*, by the bilinear rule with a step Δ per
    channel. (Λ, P, B) start as HiPPO-LegS, exactly: B is not clipped, so that the phases of the
    eigenvectors, which are free, do not matter. ``ssms`` copies of them are dealt out to channels
    in turn. C is the parameter, not C (1 − Ā^L), so that no length is built into the weights.

    ``convolution``: the kernel from Cauchy sums, then an FFT; ``recurrent``: h ← Ā h + B̄ u, which
    takes resets. ``auto`` takes the former but for single steps and resets. The state space is
    computed outside autocast, its kernel in float64.
    """

    modes = (ModeName.recurrent, ModeName.convolution)
    supports_reset = True

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        ssms: int = 1,
        least_step: float = 1e-3,
        most_step: float = 1e-1,
    ) -> None:
        super().__init__()
        if d_model % ssms:
            raise ValueError(f"ssms is {ssms}; it must divide d_model, {d_model}")
        self.d_state, self.ssms = d_state, ssms
        legs = nplr(d_state)
        pairs = d_state // 2
        self.skip_D = nn.Parameter(torch.randn(d_model))
        between = torch.rand(d_model)
        self.log_step_D = nn.Parameter(
            math.log(least_step) + between * math.log(most_step / least_step)
        )

        def copies(array: NDArray[np.float64]) -> nn.Parameter:
            one = torch.tensor(array, dtype=self._real)
            return nn.Parameter(one.repeat(ssms, *one.ndim * [1]))

        self.log_decay_SM = copies(np.log(-legs.eigenvalues.real))
        self.frequency_SM = copies(legs.eigenvalues.imag)
        self.p_SM2 = copies(np.stack([legs.p.real, legs.p.imag], -1))
        self.b_SM2 = copies(np.stack([legs.b.real, legs.b.imag], -1))
        self.c_DM2 = nn.Parameter(torch.randn(d_model, pairs, 2) * math.sqrt(0.5))
        self.output = nn.Linear(d_model, 2 * d_model)

    @classmethod
    def from_config(cls, config: S4Config) -> S4:
        return cls(
            config.d_model,
            d_state=config.d_state,
            ssms=config.ssms,
            least_step=config.step.least,
            most_step=config.step.most,
        )

    def init_state(self, batch: int) -> State:
        """Zeros: what stands before the first step."""
        return (self.skip_D.new_zeros(batch, len(self.skip_D), self.d_state, dtype=self._real),)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Δ, Λ, P and B: own learning rate, no decay. C is trained as any other weight."""
        return {"transition": ["log_step_D", "log_decay_SM", "frequency_SM", "p_SM2", "b_SM2"]}

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        run = self._mode(ModeName(mode or ModeName.auto), x_BLD.shape[1], reset)
        state_BDN = None if state is None else state[0].to(self._real)
        with torch.autocast(x_BLD.device.type, enabled=False):
            u_BLD = x_BLD.to(self._real)
            if run is ModeName.convolution and len(u_BLD):  # there is no FFT of an empty batch
                y_BLD, last_BDN = self._convolution(u_BLD, state_BDN)
            else:
                y_BLD, last_BDN = self._recurrent(u_BLD, state_BDN, reset)
            y_BLD = F.gelu(y_BLD + self.skip_D * u_BLD)
        return F.glu(self.output(y_BLD.to(x_BLD.dtype)), dim=-1), (last_BDN,)

    @property
    def _real(self) -> torch.dtype:
        return torch.float64 if self.skip_D.dtype == torch.float64 else torch.float32

    def _mode(self, mode: ModeName, length: int, reset: Tensor | None) -> ModeName:
        if mode is ModeName.auto:
            step_by_step = length == 1 or reset is not None
            return ModeName.recurrent if step_by_step else ModeName.convolution
        if mode not in self.modes:
            raise ValueError(
                f"mode is {mode.value!r}; S4's matrix is not diagonal: it admits "
                f"{', '.join(m.value for m in self.modes)} and auto"
            )
        if mode is ModeName.convolution and reset is not None:
            raise ValueError(
                "mode is 'convolution' and reset is given; one kernel serves the whole sequence "
                "only without resets: choose recurrent or auto"
            )
        return mode

    def _system(self) -> System:
        """What each channel is, in float64 and complex128."""
        channels = len(self.skip_D) // self.ssms
        p_SM, b_SM, c_DM = (
            torch.view_as_complex(pairs.double()) for pairs in (self.p_SM2, self.b_SM2, self.c_DM2)
        )
        eigenvalues_SM = torch.complex(
            -self.log_decay_SM.double().exp(), self.frequency_SM.double()
        )
        eigenvalues_DM, p_DM, b_DM = (
            shared_SM.repeat(channels, 1) for shared_SM in (eigenvalues_SM, p_SM, b_SM)
        )
        return System(self.log_step_D.double().exp(), eigenvalues_DM, p_DM, b_DM, c_DM)

    def _convolution(self, u_BLD: Tensor, state_BDN: Tensor | None) -> tuple[Tensor, Tensor]:
        length = u_BLD.shape[1]
        system = self._system()
        at = nodes(length, 4 if self._real == torch.float64 else 1, u_BLD.device)
        u_DBL = u_BLD.permute(2, 0, 1)
        state_DBM = None if state_BDN is None else _to_complex(state_BDN.double()).transpose(0, 1)
        last_DBM, *response = carry(system, u_DBL, state_DBM, at)

        kernel_DL = kernel(system, at).to(self._real)
        spectrum_DBF = torch.fft.rfft(u_DBL, n=2 * length)
        spectrum_DBF = spectrum_DBF * torch.fft.rfft(kernel_DL, n=2 * length)[:, None]
        y_DBL = torch.fft.irfft(spectrum_DBF, n=2 * length)[..., :length]
        if response:
            y_DBL = y_DBL + response[0].to(self._real)
        return y_DBL.permute(1, 2, 0), _to_real(last_DBM.transpose(0, 1)).to(self._real)

    def _recurrent(
        self, u_BLD: Tensor, state_BDN: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        system = self._system()
        dtype = self._real.to_complex()
        change_DM, left_DM, right_DM, b_DM = (part.to(dtype) for part in bilinear(system))
        c_DM = system.c_DM.to(dtype)
        if state_BDN is None:
            (state_BDN,) = self.init_state(len(u_BLD))
        h_BDM = _to_complex(state_BDN)
        steps = []
        for index, u_BD in enumerate(u_BLD.unbind(1)):
            if reset is not None:
                h_BDM = h_BDM.masked_fill(reset[:, index, None, None], 0)
            low_BD1 = 2 * (right_DM * h_BDM).sum(-1, keepdim=True).real
            h_BDM = torch.addcmul(h_BDM, change_DM, h_BDM) + b_DM * u_BD[..., None]
            h_BDM = h_BDM - left_DM * low_BD1
            steps.append(2 * (c_DM * h_BDM).sum(-1).real)
        return torch.stack(steps, 1), _to_real(h_BDM)


def _to_complex(state: Tensor) -> Tensor:
    return torch.complex(*state.chunk(2, -1))


def _to_real(state: Tensor) -> Tensor:
    return torch.cat([state.real, state.imag], -1)
