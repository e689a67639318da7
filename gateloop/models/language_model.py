"""A stack of blocks between an embedding and a head: text models and Memory Horizon alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gateloop.model_config import ModelConfig
from gateloop.models.block import Block
from gateloop.models.norm import layer_norm
from gateloop.models.position import LearnedPositions
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName, NormPlacement


class LanguageModel(nn.Module):
    """Tokens (batch, length) int64 → (logits (batch, length, classes), state).

    ``time_mixing`` makes one time mixer per layer. The state is one flat tuple, layer after layer,
    and with learned positions the steps read so far, (batch,) int64, at its end.
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
        rows = config.learned_positions()
        self.positions = LearnedPositions(rows, config.d_model) if rows else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config, time_mixing(), d_channel) for _ in range(config.layers)
        )
        for layer, mixer in enumerate(self.mixers):
            mixer.join(layer, self.mixers)
        pre = config.norm_placement is NormPlacement.pre
        self.norm = layer_norm(config.norm, config.d_model) if pre else nn.Identity()
        self.head = nn.Linear(config.d_model, classes, bias=not config.tied)
        # A head of unit-variance weights would start with logits of size √d_model.
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.states_per_layer = len(self.mixers[0].init_state(1))

    @property
    def mixers(self) -> list[TimeMixer]:
        """The time mixer of each layer."""
        return [block.time_mixing for block in self.blocks if isinstance(block, Block)]

    def init_state(self, batch: int) -> State:
        """What stands before the first step, layer after layer."""
        state = tuple(part for mixer in self.mixers for part in mixer.init_state(batch))
        if self.positions is None:
            return state
        device = self.embedding.weight.device
        return (*state, torch.zeros(batch, dtype=torch.int64, device=device))

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
        x_BLD = self.embedding(tokens_BL)
        place: State = ()
        if self.positions is not None:
            x_BLD, steps_B = self.positions(x_BLD, state[-1] if state else None)
            place = (steps_B,)
        x_BLD = self.dropout(x_BLD)
        after: State = ()
        for index, block in enumerate(self.blocks):
            first = index * self.states_per_layer
            before = state[first : first + self.states_per_layer] if state else None
            x_BLD, part = block(x_BLD, before, reset, mode)
            after += part
        return self.norm(x_BLD), (*after, *place)
