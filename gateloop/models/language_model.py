"""A stack of blocks between an embedding and a head: text models and Memory Horizon alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from gateloop.model_config import ModelConfig
from gateloop.models.block import Block
from gateloop.models.norm import layer_norm
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName, NormPlacement


class LanguageModel(nn.Module):
    """Tokens (batch, length) int64 → (logits (batch, length, classes), state).

    ``time_mixing`` makes one time mixer per layer. The state is one flat tuple, layer after layer.
    """

    def __init__(
        self,
        config: ModelConfig,
        time_mixing: Callable[[], TimeMixer],
        inputs: int,
        classes: int,
        d_channel: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(inputs, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config, time_mixing(), d_channel) for _ in range(config.layers)
        )
        pre = config.norm_placement is NormPlacement.pre
        self.norm = layer_norm(config.norm, config.d_model) if pre else nn.Identity()
        self.head = nn.Linear(config.d_model, classes, bias=not config.tied)
        # A head of unit-variance weights would start with logits of size √d_model.
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.states_per_layer = len(self.init_state(1)) // config.layers

    @property
    def mixers(self) -> list[TimeMixer]:
        """The time mixer of each layer."""
        return [module for module in self.modules() if isinstance(module, TimeMixer)]

    def init_state(self, batch: int) -> State:
        """Zeros: what stands before the first step, layer after layer."""
        return tuple(part for mixer in self.mixers for part in mixer.init_state(batch))

    def forward(
        self,
        tokens_BL: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | None = None,
    ) -> tuple[Tensor, State]:
        x_BLD, state = self.features(tokens_BL, state, reset=reset, mode=mode)
        return self.head(x_BLD), state

    def features(
        self,
        tokens_BL: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | None = None,
    ) -> tuple[Tensor, State]:
        """What the head reads: (batch, length, d_model), and the state."""
        x_BLD = self.dropout(self.embedding(tokens_BL))
        after: State = ()
        for index, block in enumerate(self.blocks):
            first = index * self.states_per_layer
            before = state[first : first + self.states_per_layer] if state else None
            x_BLD, part = block(x_BLD, before, reset, mode)
            after += part
        return self.norm(x_BLD), after
