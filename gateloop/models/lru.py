"""The linear recurrent unit (Orvieto and others, arXiv 2303.06349), section 3 and appendix A."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.model_config import RingConfig
from gateloop.models.complex_product import complex_product, real_of_product
from gateloop.models.ring import ring_radii
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName
from gateloop.recurrence import gated_linear_recurrence
from gateloop.registry import FIXED_MODES


class LRU(TimeMixer):
    """h_n = λ ⊙ h_{n−1} + γ ⊙ B u_n, y_n = Re(C h_n) + D u_n, λ = exp(−e^ν + i e^θ) over all time.

    Then GELU and a GLU. In the recurrence a head is a state: a = λ, k = q = 1, v = γ ⊙ B u complex;
    C reads the complex h outside.

    forward: x (batch, length, d_model) → (y of the same shape, state). The state is one tensor,
    (batch, d_state, 1, 1) complex.

    λ starts in ``ring``, uniform over its area. The published code's own ring is the whole disc
    with every phase: ring.inner=1e-6 ring.outer=0.999999 ring.phase=6.2832. γ starts as √(1 − |λ|²)
    and is then a parameter of its own, trained as its logarithm.
    """

    modes = FIXED_MODES
    state_dtype = torch.complex64

    def __init__(
        self, d_model: int, *, d_state: int | None = None, ring: RingConfig | None = None
    ) -> None:
        super().__init__()
        ring = ring or RingConfig()
        d_state = d_state or d_model
        self.state_shape = (d_state, 1, 1)
        decay_S = -torch.log(ring_radii(d_state, ring.inner, ring.outer))
        phase_S = (torch.rand(d_state) * ring.phase).clamp_min(1e-6)
        self.nu_S = nn.Parameter(decay_S.log())
        self.theta_S = nn.Parameter(phase_S.log())
        self.log_gamma_S = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * decay_S)))
        self.b_SD2 = nn.Parameter(torch.randn(d_state, d_model, 2) * (2 * d_model) ** -0.5)
        self.c_DS2 = nn.Parameter(torch.randn(d_model, d_state, 2) * d_state**-0.5)
        self.d_D = nn.Parameter(torch.randn(d_model))
        self.output = nn.Linear(d_model, 2 * d_model)

    def parameter_groups(self) -> dict[str, list[str]]:
        """ν, θ, γ and B, which the published code trains at half the rate and does not decay."""
        return {"transition": ["nu_S", "theta_S", "log_gamma_S", "b_SD2"]}

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        (before,) = state or self.init_state(x_BLD.shape[0])
        with torch.autocast(x_BLD.device.type, enabled=False):
            log_amplitude = -self.nu_S.exp()[:, None]
            phase = self.theta_S.exp()[:, None]
            b_SD = self.log_gamma_S.exp()[:, None] * torch.view_as_complex(self.b_SD2)
        v_BLS1 = complex_product(b_SD, x_BLD)[..., None]
        h_BLS1, after = gated_linear_recurrence(
            None,
            None,
            v_BLS1,
            log_amplitude[None, None],
            phase[None, None],
            mode=ModeName(mode or ModeName.auto).value,
            state=before,
            reset=reset,
            complex_output=True,
        )
        c_DS = torch.view_as_complex(self.c_DS2)
        y_BLD = real_of_product(c_DS, h_BLS1.squeeze(-1)) + self.d_D * x_BLD
        return F.glu(self.output(F.gelu(y_BLD))), (after,)
