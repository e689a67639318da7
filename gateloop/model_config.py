"""What every model has in its configuration, and GateLoop's own keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from gateloop.errors import InputError
from gateloop.names import (
    AmplitudeActivation,
    AmplitudeControl,
    ChannelMixingName,
    Domain,
    NormName,
    NormPlacement,
    OutputNorm,
    Parametrisation,
    PhaseActivation,
    PhaseControl,
)
from gateloop.setting import setting


@dataclass
class ModelConfig:
    """What every model has, whatever mixes its time steps."""

    name: str = setting("gateloop", "the model; set by model=…")
    d_model: int = setting(64, "width of the residual stream", least=1)
    layers: int = setting(2, "blocks of time mixing and channel mixing", least=1, most=1000)
    parameters: Optional[int] = setting(
        None,
        "parameter budget without embedding and head; the channel-mixing width is solved from it",
        least=1,
    )
    d_channel: Optional[int] = setting(
        None, "channel-mixing width; null: solved from model.parameters, else 2 × d_model", least=1
    )
    d_channel_multiple: int = setting(
        1, "a width that is solved is a multiple of this: others can make slow products", least=1
    )
    dropout: float = setting(0.0, "after each mixing and the embedding", least=0, below=1)
    norm_placement: NormPlacement = setting(
        NormPlacement.pre, "LayerNorm before each mixing (pre) or after its residual sum (post)"
    )
    tied: bool = setting(False, "the head shares the embedding's weights")
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.gelu, "two linear maps round a GELU, or three with a gate (GLU variants)"
    )
    norm: NormName = setting(NormName.layer, "the norm before or after each mixing")

    def check(self) -> None:
        """Raise InputError for a contradiction between this model's own keys."""

    def learned_positions(self) -> int:
        """Rows of a table of absolute positions beside the embedding; 0: there is none."""
        return 0


@dataclass
class AmplitudeConfig:
    control: AmplitudeControl = setting(
        AmplitudeControl.data, "from the input, learned but fixed over time, or held at one"
    )
    activation: AmplitudeActivation = setting(
        AmplitudeActivation.sigmoid,
        "σ(α), exp(−exp α), exp(−softplus α), or exp(α) without bound; data control only",
    )
    initial: float = setting(0.5, "amplitude at initialisation, for data control", above=0, below=1)

    def __post_init__(self) -> None:
        # a word of the docs, given in Python, is no member yet, and would compare as none of them
        self.control = AmplitudeControl(self.control)
        self.activation = AmplitudeActivation(self.activation)


@dataclass
class PhaseConfig:
    control: Optional[PhaseControl] = setting(
        None, "from the input, fixed, or none; null: data in the complex domain, else none"
    )
    activation: PhaseActivation = setting(
        PhaseActivation.identity, "β, π·tanh β or relu β, in radians; data control only"
    )
    scale: float = setting(
        1.0, "factor on the initial weights of the phase projection, for data control", least=0
    )

    def __post_init__(self) -> None:
        self.control = None if self.control is None else PhaseControl(self.control)
        self.activation = PhaseActivation(self.activation)


@dataclass
class RingConfig:
    """The LRU's ring: where fixed transitions start in the complex plane."""

    inner: float = setting(0.9, "smallest initial amplitude", above=0, below=1)
    outer: float = setting(0.999, "largest initial amplitude", above=0, below=1)
    phase: float = setting(0.314, "largest initial phase, radians", above=0, most=6.2832)


@dataclass
class TransitionConfig:
    domain: Domain = setting(Domain.complex, "complex; real in (0, 1); or signed real in (−1, 1)")
    parametrisation: Parametrisation = setting(
        Parametrisation.polar, "α and β projected apart, or read off one projected complex number"
    )
    amplitude: AmplitudeConfig = field(default_factory=AmplitudeConfig)
    phase: PhaseConfig = field(default_factory=PhaseConfig)
    ring: RingConfig = field(default_factory=RingConfig)

    def __post_init__(self) -> None:
        self.domain = Domain(self.domain)
        self.parametrisation = Parametrisation(self.parametrisation)


@dataclass
class GateLoopConfig(ModelConfig):
    """GateLoop (arXiv 2311.01927)."""

    heads: Optional[int] = setting(None, "null: as many as channels (max-headed)", least=1)
    d_key: Optional[int] = setting(None, "keys per head; null: d_model / heads", least=1)
    d_value: Optional[int] = setting(None, "values per head; null: d_model / heads", least=1)
    output_norm: OutputNorm = setting(
        OutputNorm.layer, "after the recurrence; group_over_time looks ahead, for forensics only"
    )
    output_norm_groups: int = setting(8, "groups of output_norm=group and group_over_time", least=1)
    gate: bool = setting(True, "multiply the normed read-out by SiLU of a projection")
    short_convolution: int = setting(
        0, "width of a causal depthwise convolution on q, k and v; 0: none", least=0, most=64
    )
    transition: TransitionConfig = field(default_factory=TransitionConfig)

    def check(self) -> None:
        _check_heads(self)
        _check_output_norm(self)
        _check_transition(self)


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of ``number`` that is nearest to ``wanted``."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return min(divisors, key=lambda n: abs(n - wanted))


def check_ring(inner: float, outer: float, key: str) -> None:
    """Raise InputError where a ring's radii are not in order."""
    if inner >= outer:
        raise InputError(
            f"{key}.inner={inner} is not below {key}.outer={outer}; lower the one or raise the "
            "other"
        )


def key_value_sizes(
    d_model: int, heads: int | None, d_key: int | None, d_value: int | None
) -> tuple[int, int, int]:
    """(heads, d_key, d_value): as given, else max-headed and an even share of the channels."""
    heads = d_model if heads is None else heads
    return heads, d_key or max(1, d_model // heads), d_value or max(1, d_model // heads)


def phase_control(transition: TransitionConfig) -> PhaseControl:
    """Who makes the phase: as given, else the data in the complex domain and nobody elsewhere."""
    if transition.phase.control is not None:
        return transition.phase.control
    return PhaseControl.data if transition.domain is Domain.complex else PhaseControl.none


def _check_heads(model: GateLoopConfig) -> None:
    heads = model.heads
    for name in ("heads", "d_key", "d_value"):  # of the command line they are within range
        if getattr(model, name) == 0:
            raise InputError(f"model.{name}=0: must be at least 1; null is the default")
    if heads is None or (model.d_key and model.d_value):
        return
    if model.d_model % heads:
        raise InputError(
            f"model.heads={heads} does not divide model.d_model={model.d_model}; nearest: "
            f"{nearest_divisor(model.d_model, heads)}, or give both model.d_key and model.d_value"
        )


def _check_output_norm(model: GateLoopConfig) -> None:
    norm, groups = model.output_norm, model.output_norm_groups
    heads, _, d_value = key_value_sizes(model.d_model, model.heads, model.d_key, model.d_value)
    channels = heads * d_value
    if norm in (OutputNorm.group, OutputNorm.group_over_time) and channels % groups:
        raise InputError(
            f"model.output_norm_groups={groups} does not divide the {channels} channels that "
            f"model.output_norm={norm.name} norms; take a divisor of {channels}"
        )
    alone = groups == channels if norm is OutputNorm.group else channels == 1
    if norm in (OutputNorm.group, OutputNorm.layer) and alone:
        raise InputError(
            f"model.output_norm={norm.name}: one channel a group, and the norm of one channel at "
            "one position is always zero; take fewer groups (model.output_norm_groups), or "
            "model.output_norm=rms"
        )


def _check_transition(model: GateLoopConfig) -> None:
    transition = model.transition
    domain, amplitude = transition.domain, transition.amplitude
    phase = phase_control(transition)
    if domain is not Domain.complex and phase is not PhaseControl.none:
        raise InputError(
            f"model.transition.phase.control={phase.name}: model.transition.domain={domain.name} "
            "has no phase; take none or null, or model.transition.domain=complex"
        )
    if domain is Domain.signed and amplitude.control is AmplitudeControl.one:
        raise InputError(
            "model.transition.amplitude.control=one: model.transition.domain=signed needs an "
            "amplitude that can be negative; take data or fixed, or model.transition.domain=real"
        )
    if domain is Domain.signed and amplitude.activation is not AmplitudeActivation.sigmoid:
        raise InputError(
            f"model.transition.amplitude.activation={amplitude.activation.name}: "
            "model.transition.domain=signed has tanh in its place; leave it out"
        )
    if transition.parametrisation is Parametrisation.cartesian:
        _check_cartesian(model, phase)
    check_ring(transition.ring.inner, transition.ring.outer, "model.transition.ring")


def _check_cartesian(model: GateLoopConfig, phase: PhaseControl) -> None:
    transition = model.transition
    cartesian = "model.transition.parametrisation=cartesian"
    if transition.domain is not Domain.complex:
        raise InputError(
            f"{cartesian}: needs model.transition.domain=complex, not {transition.domain.name}; "
            "take polar"
        )
    if transition.amplitude.control is not AmplitudeControl.data or phase is not PhaseControl.data:
        raise InputError(
            f"{cartesian}: reads amplitude and phase off one projection of the input, so "
            "model.transition.amplitude.control and model.transition.phase.control are both data; "
            "take polar"
        )
    if transition.phase.activation is not PhaseActivation.identity:
        raise InputError(
            f"{cartesian}: the phase is the angle itself, model.transition.phase.activation="
            f"{transition.phase.activation.name} has no place; leave it out"
        )
