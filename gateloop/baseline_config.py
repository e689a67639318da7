"""The keys of every model that GateLoop is compared with, one dataclass a paper.

A class that changes a default of its base does so because its paper's own block has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from gateloop.errors import InputError
from gateloop.model_config import ModelConfig, RingConfig
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
        divisors = [number for number in range(1, width + 1) if width % number == 0]
        nearest = min(divisors, key=lambda number: abs(number - heads))
        raise InputError(
            f"model.heads={heads} does not divide the {width} channels of model={model.name} "
            f"(model.d_model={model.d_model}); nearest: {nearest}"
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
            f"model.ssms={ssms} does not divide model.d_model={model.d_model}; take a divisor"
        )


@dataclass
class S5Config(ModelConfig):
    """S5: one state space for all channels (arXiv 2208.04933)."""

    d_state: Optional[int] = setting(
        None, "order of the state; even: half of it is kept; null: d_model", least=2
    )
    blocks: int = setting(1, "HiPPO-N blocks on the initial diagonal", least=1)
    output: S5Output = setting(S5Output.trunc_standard_normal, "how C starts")
    discretisation: Discretisation = setting(Discretisation.zoh, "from continuous to discrete time")
    step: StepConfig = field(default_factory=StepConfig)

    def check(self) -> None:
        d_state = self.d_state or self.d_model
        if d_state % (2 * self.blocks):
            raise InputError(
                f"model.d_state={d_state} is no multiple of 2 × model.blocks={2 * self.blocks}: "
                "every block holds conjugate pairs; "
                f"nearest: {max(1, round(d_state / 2 / self.blocks)) * 2 * self.blocks}"
            )
        self.step.check()


@dataclass
class LRUConfig(ModelConfig):
    """LRU: the linear recurrent unit (arXiv 2303.06349)."""

    d_state: Optional[int] = setting(None, "complex states; null: d_model", least=1)
    ring: RingConfig = field(default_factory=RingConfig)

    def check(self) -> None:
        check_ring(self.ring)


def check_ring(ring: RingConfig) -> None:
    if ring.inner >= ring.outer:
        raise InputError(
            f"model.ring.inner={ring.inner:g} is not below model.ring.outer={ring.outer:g}; "
            "lower the one or raise the other"
        )


@dataclass
class MultiHeadConfig(ModelConfig):
    """What models with a matrix for a state have: heads, and norms and channel mixing of today."""

    heads: int = setting(4, "heads", least=1)
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.swiglu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.rms, "the norm before or after each mixing")

    def check(self) -> None:
        check_heads(self, self.heads, self.d_model)


@dataclass
class RetNetConfig(MultiHeadConfig):
    """RetNet (arXiv 2307.08621)."""

    heads: int = setting(4, "heads, each with its own decay", least=1)


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


@dataclass
class HGRN2Config(MultiHeadConfig):
    """HGRN2 (arXiv 2404.07904)."""


@dataclass
class RGLRUConfig(ModelConfig):
    """Griffin's recurrent block with the RG-LRU (arXiv 2402.19427)."""

    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.geglu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.rms, "the norm before or after each mixing")


@dataclass
class MinGRUConfig(ModelConfig):
    """minGRU (arXiv 2410.01201)."""


@dataclass
class TransformerConfig(ModelConfig):
    """A Transformer of today: rotary positions, SwiGLU, RMSNorm, no biases."""

    heads: int = setting(4, "attention heads", least=1)
    position: Position = setting(
        Position.rope, "rotary, none, learned and absolute, or the paper's data-controlled one"
    )
    bias: bool = setting(False, "biases in the attention's projections")
    max_length: int = setting(1024, "rows of the learned position table", least=1)
    window: Optional[int] = setting(
        None, "steps that attention sees, itself among them; null: all there are", least=1
    )
    channel_mixing: ChannelMixingName = setting(
        ChannelMixingName.swiglu, "two linear maps round a GELU, or three with a gate"
    )
    norm: NormName = setting(NormName.rms, "the norm before or after each mixing")

    def check(self) -> None:
        check_heads(self, self.heads, self.d_model)


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


@dataclass
class GRUConfig(ModelConfig):
    """GRU, torch's own."""
