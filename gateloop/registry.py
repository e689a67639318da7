"""The models by name."""

from __future__ import annotations

from dataclasses import dataclass

from gateloop.baseline_config import (
    GLAConfig,
    GPT2Config,
    GRUConfig,
    HGRN2Config,
    LinearAttentionConfig,
    LRUConfig,
    LSTMConfig,
    MinGRUConfig,
    RetNetConfig,
    RGLRUConfig,
    S4Config,
    S4DConfig,
    S5Config,
    TransformerConfig,
)
from gateloop.model_config import GateLoopConfig, ModelConfig
from gateloop.names import ModeName


@dataclass(frozen=True)
class ModelEntry:
    """A model by name: its schema, and where its time mixer is ("module:Class"), unimported.

    ``modes``: the execution modes it admits; ``resets``: whether its state can be set to zero
    within a sequence; ``transition_lr_factor``: how much slower than the rest its paper trains
    what makes the transitions.
    """

    config: type[ModelConfig]
    mixer: str
    modes: tuple[ModeName, ...]
    resets: bool = True
    transition_lr_factor: float = 1.0


RECURRENCE_MODES = (ModeName.recurrent, ModeName.scan, ModeName.chunkwise, ModeName.attention)
FIXED_MODES = (*RECURRENCE_MODES, ModeName.convolution)

_RECURRENT = (ModeName.recurrent,)
_ATTENTION = (ModeName.attention,)
_DENSE = (ModeName.recurrent, ModeName.convolution)

MODELS: dict[str, ModelEntry] = {
    "gateloop": ModelEntry(GateLoopConfig, "gateloop.models.gateloop:GateLoop", RECURRENCE_MODES),
    "s4": ModelEntry(S4Config, "gateloop.models.s4:S4", _DENSE),
    "s4d": ModelEntry(S4DConfig, "gateloop.models.s4d:S4D", FIXED_MODES),
    "s5": ModelEntry(S5Config, "gateloop.models.s5:S5", FIXED_MODES),
    "lru": ModelEntry(LRUConfig, "gateloop.models.lru:LRU", FIXED_MODES, transition_lr_factor=0.5),
    "retnet": ModelEntry(RetNetConfig, "gateloop.models.retnet:Retention", RECURRENCE_MODES),
    "linear_attention": ModelEntry(
        LinearAttentionConfig, "gateloop.models.linear_attention:LinearAttention", RECURRENCE_MODES
    ),
    "gla": ModelEntry(GLAConfig, "gateloop.models.gla:GLA", RECURRENCE_MODES),
    "hgrn2": ModelEntry(HGRN2Config, "gateloop.models.hgrn2:HGRN2", RECURRENCE_MODES),
    "rglru": ModelEntry(RGLRUConfig, "gateloop.models.rglru:RGLRU", RECURRENCE_MODES),
    "mingru": ModelEntry(MinGRUConfig, "gateloop.models.mingru:MinGRU", RECURRENCE_MODES),
    "transformer": ModelEntry(
        TransformerConfig, "gateloop.models.transformer:Attention", _ATTENTION
    ),
    "gpt2": ModelEntry(GPT2Config, "gateloop.models.transformer:Attention", _ATTENTION),
    "lstm": ModelEntry(LSTMConfig, "gateloop.models.rnn:LSTM", _RECURRENT, resets=False),
    "gru": ModelEntry(GRUConfig, "gateloop.models.rnn:GRU", _RECURRENT, resets=False),
}
