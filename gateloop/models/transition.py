"""State transitions a = amplitude · e^{i·phase}: from the input, fixed over time, or constant."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.model_config import (
    AmplitudeConfig,
    PhaseConfig,
    RingConfig,
    TransitionConfig,
    phase_control,
)
from gateloop.models.ring import ring_radii
from gateloop.models.time_mixer import gate_input
from gateloop.names import (
    AmplitudeActivation,
    AmplitudeControl,
    Domain,
    Parametrisation,
    PhaseActivation,
    PhaseControl,
)


class Transition(nn.Module):
    """Log-amplitude and phase of every head and key (the paper's a_n = σ(α_n) e^{iβ_n}).

    forward: x (batch, length, d_model) → (log_amplitude, phase), each (batch, length, heads,
    d_key), or with size-1 axes where nothing depends on them. The phase is radians; a bool tensor
    of half turns in the signed real domain; None for a positive real recurrence. Both are float32,
    or float64 in a float64 model, whatever autocast says: gates in bfloat16 cost up to 11%.
    """

    def __init__(self, d_model: int, heads: int, d_key: int, config: TransitionConfig) -> None:
        super().__init__()
        self.domain = config.domain
        # an amplitude may pass one, which the operator must be told
        self.growth = config.amplitude.activation is AmplitudeActivation.unconstrained
        self.cartesian = config.parametrisation is Parametrisation.cartesian
        if self.cartesian:
            self.plane = CartesianPlane(d_model, heads, d_key, config.amplitude)
            return
        signed = config.domain is Domain.signed
        self.amplitude = Amplitude(d_model, heads, d_key, config.amplitude, config.ring, signed)
        self.phase = Phase(d_model, heads, d_key, config.phase, phase_control(config), config.ring)

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_BLD = gate_input(self, x_BLD)
            if self.cartesian:
                return self.plane(x_BLD)
            log_amplitude, half_turns = self.amplitude(x_BLD)
            return log_amplitude, (
                half_turns if self.domain is Domain.signed else self.phase(x_BLD)
            )


def log_of_activation(alpha: Tensor, activation: AmplitudeActivation) -> Tensor:
    """log amplitude ≤ 0 of a logit: log σ(α), −exp(α) or −softplus(α); or α, which has no bound."""
    if activation is AmplitudeActivation.unconstrained:
        return alpha
    if activation is AmplitudeActivation.sigmoid:
        return F.logsigmoid(alpha)
    if activation is AmplitudeActivation.exp_exp:
        return -torch.exp(alpha)
    return -F.softplus(alpha)


def logit_of_amplitude(amplitude: float, activation: AmplitudeActivation) -> float:
    """The logit that the activation maps to ``amplitude``, the inverse of log_of_activation."""
    if activation is AmplitudeActivation.unconstrained:
        return math.log(amplitude)
    if activation is AmplitudeActivation.exp_exp:
        return math.log(-math.log(amplitude))
    logit = math.log(amplitude) - math.log1p(-amplitude)
    return logit if activation is AmplitudeActivation.sigmoid else -logit


def log_of_absolute_tanh(alpha: Tensor) -> Tensor:
    """log |tanh α|, accurate at both ends; at α = 0 exactly it is finite with a zero gradient."""
    size = alpha.abs().clamp_min(torch.finfo(alpha.dtype).tiny)
    return torch.log(-torch.expm1(-2 * size)) - torch.log1p(torch.exp(-2 * size))


class Amplitude(nn.Module):
    """(log amplitude, half turns or None); fixed ones in the LRU's form exp(−exp ν)."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_key: int,
        config: AmplitudeConfig,
        ring: RingConfig,
        signed: bool,
    ) -> None:
        super().__init__()
        self.heads, self.control, self.activation = heads, config.control, config.activation
        self.signed = signed
        if config.control is AmplitudeControl.data:
            self.projection = nn.Linear(d_model, heads * d_key)
            initial = (
                math.atanh(config.initial)
                if signed
                else logit_of_amplitude(config.initial, config.activation)
            )
            nn.init.constant_(self.projection.bias, initial)
        elif config.control is AmplitudeControl.fixed:
            amplitude_HK = ring_radii(heads * d_key, ring.inner, ring.outer).view(heads, d_key)
            if signed:
                sign_HK = torch.where(torch.rand(heads, d_key) < 0.5, -1.0, 1.0)
                self.logit_HK = nn.Parameter(sign_HK * torch.atanh(amplitude_HK))
            else:
                self.logit_HK = nn.Parameter(torch.log(-torch.log(amplitude_HK)))

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.control is AmplitudeControl.one:
            return x_BLD.new_zeros(1, 1, 1, 1), None
        if self.control is AmplitudeControl.fixed:
            logit = self.logit_HK[None, None]
            activation = AmplitudeActivation.exp_exp
        else:
            logit = self.projection(x_BLD).unflatten(-1, (self.heads, -1))
            activation = self.activation
        if self.signed:
            return log_of_absolute_tanh(logit), logit < 0
        return log_of_activation(logit, activation), None


class Phase(nn.Module):
    """Radians per step, or None; fixed ones as exp(θ), uniform up to the ring's largest phase."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_key: int,
        config: PhaseConfig,
        control: PhaseControl,
        ring: RingConfig,
    ) -> None:
        super().__init__()
        self.heads, self.control, self.activation = heads, control, config.activation
        if control is PhaseControl.data:
            self.projection = nn.Linear(d_model, heads * d_key)
            nn.init.zeros_(self.projection.bias)
            with torch.no_grad():
                self.projection.weight.mul_(config.scale)
        elif control is PhaseControl.fixed:
            phase_HK = (torch.rand(heads, d_key) * ring.phase).clamp_min(1e-6)
            self.log_phase_HK = nn.Parameter(phase_HK.log())

    def forward(self, x_BLD: Tensor) -> Tensor | None:
        if self.control is PhaseControl.none:
            return None
        if self.control is PhaseControl.fixed:
            return self.log_phase_HK.exp()[None, None]
        beta = self.projection(x_BLD).unflatten(-1, (self.heads, -1))
        if self.activation is PhaseActivation.tanh:
            return math.pi * torch.tanh(beta)
        if self.activation is PhaseActivation.relu:
            return F.relu(beta)
        return beta


class CartesianPlane(nn.Module):
    """The other reading of the paper: z = re + i·im is projected, a = σ(|z|) e^{i·arg z}.

    With σ the amplitude is never below 0.5, so this reading can hardly forget.
    """

    def __init__(self, d_model: int, heads: int, d_key: int, config: AmplitudeConfig) -> None:
        super().__init__()
        self.heads, self.activation = heads, config.activation
        self.projection = nn.Linear(d_model, 2 * heads * d_key)

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        real, imaginary = self.projection(x_BLD).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        # Off the origin: at it, or where the squares vanish, |z| and arg z have no gradient.
        at_origin = real.square() + imaginary.square() < 1e-12
        real = torch.where(at_origin, torch.full_like(real, 1e-6), real)
        size = torch.sqrt(real.square() + imaginary.square())
        return log_of_activation(size, self.activation), torch.atan2(imaginary, real)
