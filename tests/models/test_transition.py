"""Where transitions start, and what their shapes say."""

from __future__ import annotations

import math
from enum import Enum

import pytest
import torch
from torch import Tensor

from gateloop.model_config import AmplitudeConfig, PhaseConfig, RingConfig, TransitionConfig
from gateloop.models.transition import Transition
from gateloop.names import (
    AmplitudeActivation,
    AmplitudeControl,
    Domain,
    Parametrisation,
    PhaseControl,
)
from tests.models.options import TRANSITIONS, layer

WIDTH, HEADS, KEYS = 16, 5, 3


def make(config: TransitionConfig, seed: int = 0) -> Transition:
    torch.manual_seed(seed)
    return Transition(WIDTH, HEADS, KEYS, config)


def run(transition: Transition, x: Tensor) -> tuple[Tensor, Tensor | None]:
    with torch.no_grad():
        return transition(x)


def noise(batch: int = 4, length: int = 50) -> Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("initial", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("domain", [Domain.complex, Domain.real, Domain.signed])
@pytest.mark.parametrize("activation", AmplitudeActivation)
def test_initial_amplitude(initial: float, domain: Domain, activation: AmplitudeActivation) -> None:
    config = TransitionConfig(
        domain=domain, amplitude=AmplitudeConfig(activation=activation, initial=initial)
    )
    log_amplitude, phase = run(make(config), torch.zeros(1, 2, WIDTH))
    assert log_amplitude.exp().allclose(torch.tensor(initial), rtol=1e-5)
    if domain is Domain.signed:
        assert phase is not None and phase.dtype == torch.bool and not phase.any()
    elif domain is Domain.complex:
        assert phase is not None and not phase.any()
    else:
        assert phase is None


@pytest.mark.parametrize("domain", Domain)
def test_ring(domain: Domain) -> None:
    ring = RingConfig(inner=0.3, outer=0.8, phase=1.5)
    fixed = AmplitudeConfig(control=AmplitudeControl.fixed)
    phase = PhaseConfig(control=PhaseControl.fixed if domain is Domain.complex else None)
    config = TransitionConfig(domain=domain, amplitude=fixed, phase=phase, ring=ring)
    torch.manual_seed(0)
    log_amplitude, angle = run(Transition(WIDTH, 100, 100, config), noise())
    amplitude = log_amplitude.exp()
    assert log_amplitude.shape == (1, 1, 100, 100)
    assert 0.3 <= amplitude.min() < 0.31 and 0.79 < amplitude.max() <= 0.8
    # uniform over the area: half of it lies within the radius √((0.3² + 0.8²) / 2)
    within = (amplitude < math.sqrt((0.3**2 + 0.8**2) / 2)).float().mean()
    assert abs(within - 0.5) < 0.02
    if domain is Domain.real:
        assert angle is None
        return
    assert angle is not None and angle.shape == (1, 1, 100, 100)
    if domain is Domain.signed:
        assert abs(angle.float().mean() - 0.5) < 0.02
    else:
        assert 0 < angle.min() < 0.01 and 1.49 < angle.max() <= 1.5
        assert abs(angle.mean() - 0.75) < 0.02


def test_phase_scale() -> None:
    _, one = run(make(TransitionConfig(phase=PhaseConfig(scale=1.0))), noise())
    _, tenth = run(make(TransitionConfig(phase=PhaseConfig(scale=0.1))), noise())
    _, nothing = run(make(TransitionConfig(phase=PhaseConfig(scale=0.0))), noise())
    assert one is not None and tenth is not None and nothing is not None
    assert one.std() > 0.3
    assert tenth.allclose(0.1 * one, atol=1e-6)
    assert not nothing.any()


def test_what_is_fixed_has_one_step() -> None:
    """Modes read from the shape that a transition does not change over time."""
    x = noise(2, 7)
    for config in TRANSITIONS.values():
        log_amplitude, phase = run(make(config), x)
        signed = config.domain is Domain.signed
        per_step = {"data": (2, 7, HEADS, KEYS), "fixed": (1, 1, HEADS, KEYS), "one": (1,) * 4}
        control = config.amplitude.control.value
        assert log_amplitude.shape == per_step[control]
        by = control if signed else config.phase.control
        name = by if isinstance(by, str) else by.value if by is not None else None
        if name is None:
            name = "data" if config.domain is Domain.complex else "none"
        assert phase is None if name == "none" else phase is not None
        if phase is not None:
            assert phase.shape == per_step[name]
        assert make(config).growth or (log_amplitude <= 0).all()


def test_signed_transitions_reach_both_signs() -> None:
    config = TransitionConfig(domain=Domain.signed, amplitude=AmplitudeConfig(initial=0.1))
    log_amplitude, half_turns = run(make(config), noise())
    assert half_turns is not None and half_turns.dtype == torch.bool
    a = log_amplitude.exp() * (1.0 - 2.0 * half_turns.float())
    assert a.min() < -0.5 and a.max() > 0.5


def test_signed_logits_at_and_near_zero() -> None:
    config = TransitionConfig(domain=Domain.signed)
    transition = make(config)
    with torch.no_grad():
        transition.amplitude.projection.bias.zero_()
    for x in (torch.zeros(1, 1, WIDTH), torch.full((1, 1, WIDTH), 1e-30), 1e4 * noise(1, 3)):
        x = x.requires_grad_()
        log_amplitude, _ = transition(x)
        (gradient,) = torch.autograd.grad(log_amplitude.exp().sum(), x)
        assert torch.isfinite(log_amplitude).all() and torch.isfinite(gradient).all()


def test_cartesian_amplitude_is_at_least_a_half() -> None:
    config = TransitionConfig(parametrisation=Parametrisation.cartesian)
    transition = make(config)
    with torch.no_grad():
        transition.plane.projection.bias.zero_()
    for scale in (0.0, 1e-20, 1e-3, 1.0, 30.0):
        x = (scale * noise()).requires_grad_()
        log_amplitude, phase = transition(x)
        assert log_amplitude.min() >= math.log(0.5) - 1e-6
        (gradient,) = torch.autograd.grad((log_amplitude + phase).sum(), x)
        assert torch.isfinite(gradient).all()


def test_parameter_groups_cover_the_transition_and_nothing_else() -> None:
    for config in TRANSITIONS.values():
        mixer = layer("uneven", transition=config, short_convolution=3)
        groups = mixer.parameter_groups()
        named = set(dict(mixer.named_parameters()))
        assert groups.keys() == {"transition"}
        grouped = set(groups["transition"])
        assert grouped <= named
        assert {name for name in named if name not in grouped} == {
            "query_key_value.weight",
            "convolution.taps_WC",
            "norm.weight",
            "norm.bias",
            "gate.weight",
            "output.weight",
        }
        # exactly what moves when the gates' own parameters are changed
        count = sum(p.numel() for p in mixer.transition.parameters())
        assert count == sum(mixer.get_parameter(name).numel() for name in grouped)


@pytest.mark.parametrize("kind", [AmplitudeConfig, PhaseConfig, TransitionConfig])
def test_a_word_is_the_member_it_names(kind: type) -> None:
    """In Python the docs' words are given as they stand there; they once built another model."""
    checked = 0
    for name, default in vars(kind()).items():
        known = PhaseControl if (kind, name) == (PhaseConfig, "control") else type(default)
        if issubclass(known, Enum):
            for member in known:
                assert getattr(kind(**{name: member.value}), name) is member
                checked += 1
            with pytest.raises(ValueError, match="nonsense"):
                kind(**{name: "nonsense"})
    assert checked > 4
