"""The layer against the paper's equations, written out number by number in Python."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gateloop.model_config import AmplitudeConfig, PhaseConfig, TransitionConfig
from gateloop.models.gateloop import GateLoop
from gateloop.names import (
    AmplitudeActivation,
    AmplitudeControl,
    Domain,
    Parametrisation,
    PhaseActivation,
    PhaseControl,
)
from tests.models.options import far

WIDTH = 6
Row = list[float]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def multiply(weight: Tensor, x: Row, bias: Tensor | None = None) -> Row:
    rows = weight.tolist()
    shifts = bias.tolist() if bias is not None else [0.0] * len(rows)
    return [sum(w * e for w, e in zip(row, x)) + b for row, b in zip(rows, shifts)]  # noqa: B905


def layer_norm(x: Row) -> Row:
    mean = sum(x) / len(x)
    variance = sum((e - mean) ** 2 for e in x) / len(x)
    return [(e - mean) / math.sqrt(variance + 1e-5) for e in x]


def written_out(
    mixer: GateLoop, x_BLD: Tensor, transition: Callable[[Row], list[complex]]
) -> Tensor:
    """h_n = a_n ⊙ h_{n−1} + k_nᵀ v_n, y_n = Re(q_n h_n); LayerNorm, × SiLU(W_g x), W_o."""
    assert mixer.gate is not None
    heads, keys, values = mixer.heads, mixer.d_key, mixer.d_value
    batches = []
    for sequence in x_BLD.tolist():
        h = [[[0j] * values for _ in range(keys)] for _ in range(heads)]
        rows = []
        for x in sequence:
            mixed = multiply(mixer.query_key_value.weight, x)
            q, k = mixed[: heads * keys], mixed[heads * keys : 2 * heads * keys]
            v = mixed[2 * heads * keys :]
            a = transition(x)
            y = []
            for head in range(heads):
                for value in range(values):
                    total = 0j
                    for key in range(keys):
                        at = head * keys + key
                        h[head][key][value] = (
                            a[at] * h[head][key][value] + k[at] * v[head * values + value]
                        )
                        total += q[at] * h[head][key][value]
                    y.append(total.real)
            gate = multiply(mixer.gate.weight, x)
            gated = [n * g * sigmoid(g) for n, g in zip(layer_norm(y), gate, strict=True)]
            rows.append(multiply(mixer.output.weight, gated))
        batches.append(rows)
    return torch.tensor(batches, dtype=torch.float64)


def check(mixer: GateLoop, transition: Callable[[Row], list[complex]]) -> None:
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        assert far(mixer(x)[0], written_out(mixer, x, transition)) <= 1e-12


def make(config: TransitionConfig | None = None, **sizes: int) -> GateLoop:
    torch.manual_seed(2)
    mixer = GateLoop(WIDTH, transition=config, **sizes).double()
    with torch.no_grad():  # biases that matter
        for name, parameter in mixer.transition.named_parameters():
            if name.endswith("bias"):
                parameter += torch.randn_like(parameter)
    return mixer


def alpha_beta(mixer: GateLoop, x: Row) -> tuple[Row, Row]:
    amplitude, phase = mixer.transition.amplitude, mixer.transition.phase
    alpha = multiply(amplitude.projection.weight, x, amplitude.projection.bias)
    return alpha, multiply(phase.projection.weight, x, phase.projection.bias)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"heads": 3}, {"heads": 2, "d_key": 3, "d_value": 2}, {"heads": 2, "d_key": 1}],
    ids=["max-headed", "three heads", "uneven", "one key"],
)
def test_the_paper(sizes: dict[str, int]) -> None:
    """a_n = σ(α_n) · e^{iβ_n}, α and β linear in x."""
    mixer = make(**sizes)
    assert mixer.heads == sizes.get("heads", WIDTH)

    def transition(x: Row) -> list[complex]:
        alpha, beta = alpha_beta(mixer, x)
        return [sigmoid(a) * cmath.exp(1j * b) for a, b in zip(alpha, beta, strict=True)]

    check(mixer, transition)


AMPLITUDES: dict[AmplitudeActivation, Callable[[float], float]] = {
    AmplitudeActivation.sigmoid: sigmoid,
    AmplitudeActivation.exp_exp: lambda alpha: math.exp(-math.exp(alpha)),
    AmplitudeActivation.exp_softplus: lambda alpha: math.exp(-math.log(1 + math.exp(alpha))),
    AmplitudeActivation.unconstrained: math.exp,
}
PHASES: dict[PhaseActivation, Callable[[float], float]] = {
    PhaseActivation.identity: lambda beta: beta,
    PhaseActivation.tanh: lambda beta: math.pi * math.tanh(beta),
    PhaseActivation.relu: lambda beta: max(beta, 0.0),
}


@pytest.mark.parametrize("amplitude", AmplitudeActivation)
@pytest.mark.parametrize("phase", PhaseActivation)
def test_activations(amplitude: AmplitudeActivation, phase: PhaseActivation) -> None:
    mixer = make(
        TransitionConfig(
            amplitude=AmplitudeConfig(activation=amplitude), phase=PhaseConfig(activation=phase)
        ),
        heads=2,
    )

    def transition(x: Row) -> list[complex]:
        pairs = zip(*alpha_beta(mixer, x), strict=True)
        return [AMPLITUDES[amplitude](a) * cmath.exp(1j * PHASES[phase](b)) for a, b in pairs]

    check(mixer, transition)


@pytest.mark.parametrize("amplitude", AmplitudeActivation)
def test_cartesian(amplitude: AmplitudeActivation) -> None:
    """z = re + i·im is projected; a = f(|z|) · e^{i·arg z}."""
    config = TransitionConfig(
        parametrisation=Parametrisation.cartesian, amplitude=AmplitudeConfig(activation=amplitude)
    )
    mixer = make(config, heads=3)

    def transition(x: Row) -> list[complex]:
        linear = mixer.transition.plane.projection
        both = multiply(linear.weight, x, linear.bias)
        half = len(both) // 2
        plane = [complex(re, im) for re, im in zip(both[:half], both[half:], strict=True)]
        return [AMPLITUDES[amplitude](abs(z)) * cmath.exp(1j * cmath.phase(z)) for z in plane]

    check(mixer, transition)


def test_real_and_signed() -> None:
    for domain, function in ((Domain.real, sigmoid), (Domain.signed, math.tanh)):
        mixer = make(TransitionConfig(domain=domain), heads=2)
        linear = mixer.transition.amplitude.projection
        seen: list[float] = []

        def transition(x: Row, linear=linear, function=function, seen=seen) -> list[complex]:  # type: ignore[no-untyped-def]
            a = [function(alpha) for alpha in multiply(linear.weight, x, linear.bias)]
            seen.extend(a)
            return [complex(value) for value in a]

        check(mixer, transition)
        assert (min(seen) < 0) == (domain is Domain.signed) and max(seen) > 0


def test_fixed_and_constant() -> None:
    """exp(−exp ν) and exp(θ), the LRU's form; amplitude 1; no phase."""
    for amplitude in (AmplitudeControl.fixed, AmplitudeControl.one):
        for phase in (PhaseControl.fixed, PhaseControl.none):
            config = TransitionConfig(
                amplitude=AmplitudeConfig(control=amplitude), phase=PhaseConfig(control=phase)
            )
            mixer = make(config, heads=2)
            number = mixer.heads * mixer.d_key
            sizes, angles = [1.0] * number, [0.0] * number
            if amplitude is AmplitudeControl.fixed:
                nu = mixer.transition.amplitude.logit_HK.flatten().tolist()
                sizes = [math.exp(-math.exp(n)) for n in nu]
            if phase is PhaseControl.fixed:
                theta = mixer.transition.phase.log_phase_HK.flatten().tolist()
                angles = [math.exp(t) for t in theta]
            a = [s * cmath.exp(1j * t) for s, t in zip(sizes, angles, strict=True)]
            check(mixer, lambda x, a=a: a)  # type: ignore[misc]


def test_fixed_signed_is_a_tanh() -> None:
    config = TransitionConfig(
        domain=Domain.signed, amplitude=AmplitudeConfig(control=AmplitudeControl.fixed)
    )
    mixer = make(config, heads=2)
    a = [math.tanh(logit) for logit in mixer.transition.amplitude.logit_HK.flatten().tolist()]
    check(mixer, lambda x: [complex(value) for value in a])
