"""The keys of every model that GateLoop is compared with, one dataclass a paper.

A class that changes a default of its base does so because its paper's own block has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from gateloop.errors import InputError
from gateloop.model_config import ModelConfig, RingConfig, check_ring, nearest_divisor
from gateloop.names import (
    ChannelMixingName,
    Discretisation,
    NormName,
    Position,
    S5Output,
    Spectrum,
)
from gateloop.setting import setting


def check_heads(model: ModelConfig, heads: int, width: int) -> None:
    """Raise InputError where ``heads`` does not divide ``width``."""
    if width % heads:
        raise InputError(
            f"model.heads={heads} does not divide the {width} channels of model={model.name} "
            f"(model.d_model={model.d_model}); nearest: {nearest_divisor(width, heads)}"
        )


@dataclass
class StepConfig:
    """Where the step Δ of a discretised continuous system starts: log-uniform between two ends."""

    least: float = setting(1e-3, "smallest initial step", above=0)
    most: float = setting(1e-1, "largest initial step", above=0)

    def check(self) -> None:
        if self.least > self.most:
            raise InputError(
                f"model.step.least={self.least:g} is above model.step.most={self.most:g}; "
                "lower the one or raise the other"
            )


@dataclass
class S4Config(ModelConfig):
    """S4: diagonal plus low rank, HiPPO-LegS (arXiv 2111.00396)."""

    d_state: int = setting(64, "order of the state; even: half of it is kept", least=2)
    ssms: int = setting(
        1, "copies of (A, B), each shared by d_model / ssms channels; steps and C are own", least=1
    )
    step: StepConfig = field(default_factory=StepConfig)

    def check(self) -> None:
        check_even_state(self.d_state)
        check_copies(self, self.ssms)
        self.step.check()


@dataclass
class S4DConfig(ModelConfig):
    """S4D: the diagonal S4 (arXiv 2206.11893)."""

    d_state: int = setting(
        64, "order of the state; of a complex one half is kept, so even", least=2
    )
    ssms: Optional[int] = setting(
        None, "copies of (A, B), each shared by d_model / ssms channels; null: d_model", least=1
    )
    spectrum: Spectrum = setting(Spectrum.lin, "where the eigenvalues start")
    discretisation: Discretisation = setting(Discretisation.zoh, "from continuous to discrete time")
    step: StepConfig = field(default_factory=StepConfig)

    def check(self) -> None:
        if self.spectrum is not Spectrum.real:
            check_even_state(self.d_state)
        check_copies(self, self.ssms or self.d_model)
        self.step.check()


def check_even_state(d_state: int) -> None:
    if d_state % 2:
        raise InputError(
            f"model.d_state={d_state}: the state holds conjugate pairs, of which one half is "
            f"kept; take {d_state + 1}"
        )


def check_copies(model: ModelConfig, ssms: int) -> None:
    if model.d_model % ssms:
        raise InputError(
            f"model.ssms={ssms} does not divide model.d_model={model.d_model}; nearest: "
            f"{nearest_divisor(model.d_model, ssms)}"
        )


@dataclass
class S5Config(ModelConfig):
    """S5: one state space for all channels (arXiv 2208.04933)."""

    d_state: Optional[int] = setting(
        None, "order of the state; even: half of it is kept; null: d_model", least=2
    )
    blocks: Optional[int] = setting(
        None,
        "HiPPO-N blocks on the initial diagonal; null: 8, or as many of them as divide the state",
        least=1,
    )
    output: S5Output = setting(S5Output.trunc_standard_normal, "how C starts")
    discretisation: Discretisation = setting(Discretisation.zoh, "from continuous to discrete time")
    step: StepConfig = field(default_factory=StepConfig)

    def check(self) -> None:
        d_state, blocks = self.d_state or self.d_model, self.blocks or 1
        if d_state % (2 * blocks):
            raise InputError(
                f"model.d_state={d_state} is no multiple of 2 × model.blocks={2 * blocks}: "
                "every block holds conjugate pairs; "
                f"nearest: {max(1, round(d_state / 2 / blocks)) * 2 * blocks}"
            )
        self.step.check()


@dataclass
class LRUConfig(ModelConfig):
    """LRU: the linear recurrent unit (arXiv 2303.06349)."""

    d_state: Optional[int] = setting(None, "complex states; null: d_model", least=1)
    ring: RingConfig = field(default_factory=RingConfig)

    def check(self) -> None:
        check_ring(self.ring.inner, self.ring.outer, "model.ring")


@dataclass
class RadiiConfig:
    """A ring of real amplitudes: the LRU's without phases."""

    inner: float = setting(0.9, "smallest initial amplitude", above=0, below=1)
    outer: float = setting(0.999, "largest initial amplitude", above=0, below=1)


@dataclass
class MultiHeadConfig(ModelConfig):
    """What models with a matrix for a state have: heads, and norms and channel mixing of today."""

    heads: int = setting(4, "heads", least=1)
    d_key: Optional[int] = setting(None, "keys per head; null: d_model / heads", least=1)
    d_value: Optional[int] = setting(None, "values per head; null: d_model / heads", least=1)
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.swiglu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.rms, "the norm before or after each mixing")

    def check(self) -> None:
        if self.d_key is None or self.d_value is None:
            check_heads(self, self.heads, self.d_model)


@dataclass
class RetNetConfig(MultiHeadConfig):
    """RetNet (arXiv 2307.08621), in the sizes and with the GLU of its authors' torchscale."""

    heads: int = setting(4, "heads, each with its own decay", least=1)
    d_key: Optional[int] = setting(None, "keys per head, even; null: d_model / heads", least=2)
    d_value: Optional[int] = setting(
        None, "values per head; null: 27/16 of d_model / heads, rounded", least=1
    )
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.geglu, "two linear maps round a GELU, or three with a gate"
    )

    def check(self) -> None:
        if self.d_key is None:
            check_heads(self, self.heads, self.d_model)
        d_key = self.d_key or self.d_model // self.heads
        if d_key % 2:
            raise InputError(
                f"model.d_key={d_key} is odd (null: model.d_model / model.heads); "
                f"model=retnet rotates keys in pairs: set model.d_key={d_key + 1}"
            )


@dataclass
class LinearAttentionConfig(MultiHeadConfig):
    """Linear attention (arXiv 2006.16236)."""

    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.gelu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.layer, "the norm before or after each mixing")


@dataclass
class GLAConfig(MultiHeadConfig):
    """Gated linear attention (arXiv 2312.06635)."""

    d_key: Optional[int] = setting(None, "keys per head; null: d_model / 2 / heads", least=1)

    def check(self) -> None:
        if self.d_key is None:
            check_heads(self, self.heads, max(1, self.d_model // 2))
        if self.d_value is None:
            check_heads(self, self.heads, self.d_model)


@dataclass
class HGRN2Config(MultiHeadConfig):
    """HGRN2 (arXiv 2404.07904)."""

    d_key: Optional[int] = setting(
        None, "keys per head, the paper's expansion; null: d_model / heads", least=1
    )


@dataclass
class RGLRUConfig(ModelConfig):
    """Griffin's recurrent block with the RG-LRU (arXiv 2402.19427)."""

    d_recurrent: Optional[int] = setting(None, "channels of the recurrence; null: d_model", least=1)
    gate_blocks: Optional[int] = setting(
        None,
        "blocks on the diagonal of both gates' weights; null: 16, or as many of them as divide "
        "the channels",
        least=1,
    )
    convolution: int = setting(
        4, "width of the causal depthwise convolution before the recurrence", least=2, most=64
    )
    ring: RadiiConfig = field(default_factory=RadiiConfig)
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.geglu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.rms, "the norm before or after each mixing")

    def check(self) -> None:
        channels, blocks = self.d_recurrent or self.d_model, self.gate_blocks or 1
        if channels % blocks:
            raise InputError(
                f"model.gate_blocks={blocks} does not divide the {channels} channels of the "
                "recurrence (model.d_recurrent, else model.d_model); nearest: "
                f"{nearest_divisor(channels, blocks)}"
            )
        check_ring(self.ring.inner, self.ring.outer, "model.ring")


@dataclass
class MinGRUConfig(ModelConfig):
    """minGRU (arXiv 2410.01201)."""

    expansion: int = setting(1, "channels of the recurrence, as a multiple of d_model", least=1)


@dataclass
class TransformerConfig(ModelConfig):
    """A Transformer of today: rotary positions, SwiGLU, RMSNorm, no biases."""

    heads: int = setting(4, "attention heads", least=1)
    position: Position = setting(
        Position.rope, "rotary, none, learned and absolute, or the paper's data-controlled one"
    )
    bias: bool = setting(False, "biases in the attention's projections")
    max_length: int = setting(1024, "rows of the learned position table", least=1)
    initial_amplitude: float = setting(
        0.999, "amplitude at initialisation, for position=data_controlled", above=0, below=1
    )
    phase_scale: float = setting(
        0.1,
        "factor on the initial weights of the phase projection, for position=data_controlled",
        least=0,
    )
    window: Optional[int] = setting(
        None, "steps that attention sees, itself among them; null: all there are", least=1
    )
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.swiglu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.rms, "the norm before or after each mixing")

    def check(self) -> None:
        check_heads(self, self.heads, self.d_model)
        turns = self.position in (Position.rope, Position.data_controlled)
        if turns and self.d_model // self.heads % 2:
            whole = range(1, self.d_model // 2 + 1)
            able = [heads for heads in whole if self.d_model % (2 * heads) == 0]
            nearest = min(able, key=lambda heads: abs(heads - self.heads), default=None)
            raise InputError(
                f"model.heads={self.heads} leaves {self.d_model // self.heads} channels a head, "
                f"and model.position={self.position.name} turns pairs of them; "
                + (f"nearest: {nearest}" if nearest else "take an even model.d_model")
            )

    def learned_positions(self) -> int:
        return self.max_length if self.position is Position.learned else 0


@dataclass
class GPT2Config(TransformerConfig):
    """The plain form of GPT-2: learned positions, GELU, LayerNorm, biases."""

    position: Position = setting(
        Position.learned, "rotary, none, learned and absolute, or the paper's data-controlled one"
    )
    bias: bool = setting(True, "biases in the attention's projections")
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.gelu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.layer, "the norm before or after each mixing")


@dataclass
class LSTMConfig(ModelConfig):
    """LSTM, torch's own."""

    d_hidden: Optional[int] = setting(None, "channels of the state; null: d_model", least=1)


@dataclass
class GRUConfig(ModelConfig):
    """GRU, torch's own."""

    d_hidden: Optional[int] = setting(None, "channels of the state; null: d_model", least=1)
