"""Every kind of GateLoop layer, at sizes that cost nothing."""

from __future__ import annotations

from itertools import product
from typing import Any

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

WIDTH = 32
HEADS: dict[str, dict[str, int]] = {
    "max": {},
    "sixteen": {"heads": 16},
    "uneven": {"heads": 4, "d_key": 3, "d_value": 5},
}
NORMS = ("layer", "rms", "group", "none", "group_over_time")

_AMPLITUDES = [AmplitudeConfig(activation=activation) for activation in AmplitudeActivation] + [
    AmplitudeConfig(control=AmplitudeControl.fixed),
    AmplitudeConfig(control=AmplitudeControl.one),
]
_PHASES = [
    PhaseConfig(control=PhaseControl.data, activation=activation) for activation in PhaseActivation
] + [PhaseConfig(control=PhaseControl.fixed), PhaseConfig(control=PhaseControl.none)]


def _name(config: TransitionConfig) -> str:
    amplitude, phase = config.amplitude, config.phase
    parts = [config.domain.value, config.parametrisation.value, amplitude.control.value]
    if amplitude.control is AmplitudeControl.data and config.domain is not Domain.signed:
        parts.append(amplitude.activation.value)
    if phase.control is not None:
        parts.append(phase.control.value)
        if phase.control is PhaseControl.data:
            parts.append(phase.activation.value)
    return "-".join(parts)


TRANSITIONS = {
    _name(config): config
    for config in [
        *(TransitionConfig(amplitude=a, phase=p) for a, p in product(_AMPLITUDES, _PHASES)),
        *(TransitionConfig(domain=Domain.real, amplitude=a) for a in _AMPLITUDES),
        *(
            TransitionConfig(domain=Domain.signed, amplitude=AmplitudeConfig(control=control))
            for control in (AmplitudeControl.data, AmplitudeControl.fixed)
        ),
        *(
            TransitionConfig(
                parametrisation=Parametrisation.cartesian,
                amplitude=AmplitudeConfig(activation=activation),
            )
            for activation in AmplitudeActivation
        ),
    ]
}


def layer(heads: str = "max", dtype: torch.dtype = torch.float32, **options: Any) -> GateLoop:
    """A seeded layer; the groups of a group norm divide its channels."""
    torch.manual_seed(0)
    groups = 4 if heads == "uneven" else 8
    options = {"output_norm_groups": groups, **HEADS[heads], **options}
    return GateLoop(WIDTH, **options).to(dtype)


def inputs(
    length: int, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1
) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, WIDTH, generator=noise, dtype=dtype)


def far(found: Tensor, expected: Tensor) -> float:
    """max|found − expected| / max|expected|."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    scale = max(float(expected.detach().abs().max()), 1e-30)
    return float((found - expected).detach().abs().max()) / scale
