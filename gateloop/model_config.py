"""What every model has in its configuration, and GateLoop's own keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

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
    layers: int = setting(2, "blocks of time mixing and channel mixing", least=1)
    parameters: Optional[int] = setting(
        None,
        "parameter budget without embedding and head; the channel-mixing width is solved from it",
        least=1,
    )
    d_channel: Optional[int] = setting(
        None, "channel-mixing width; null: solved from model.parameters, else 2 × d_model", least=1
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
        AmplitudeActivation.sigmoid, "σ(α), exp(−exp α) or exp(−softplus α); data control only"
    )
    initial: float = setting(0.5, "amplitude at initialisation, for data control", above=0, below=1)


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
