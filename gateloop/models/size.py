"""Parameter counts on the meta device, and the channel-mixing width that meets a budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gateloop.errors import InputError
from gateloop.model_config import ModelConfig
from gateloop.models.block import Block
from gateloop.models.language_model import LanguageModel
from gateloop.models.time_mixer import TimeMixer

# Matrix products of other widths are slower: by how much on a CPU stands in docs/models.md. At
# small sizes, where so much is more of the budget, equal budgets matter more.
MULTIPLE = 8
FINE = 0.003  # of the budget: what so much of the width may make


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def counted(model: LanguageModel) -> int:
    """What model.parameters limits: the layers and, where there is one, the position table."""
    return count(model.blocks) + (count(model.positions) if model.positions else 0)


def block_parameters(
    config: ModelConfig, time_mixing: Callable[[], TimeMixer], d_channel: int
) -> int:
    """Parameters of one layer at a channel-mixing width, without allocating any."""
    with torch.device("meta"):
        return count(Block(config, time_mixing(), d_channel))


def channel_width(config: ModelConfig, time_mixing: Callable[[], TimeMixer]) -> int:
    """model.d_channel where given, else from model.parameters, else twice d_model.

    The budget counts the layers and a table of learned positions, without embedding and head, so
    that one size serves every vocabulary. It is met as nearly as a width can, or a width that is a
    multiple of MULTIPLE where that is within FINE / 2. Raises InputError where nothing is left of
    it for the channel mixing.
    """
    if config.d_channel is not None:
        return config.d_channel
    if config.parameters is None:
        return 2 * config.d_model
    least = block_parameters(config, time_mixing, 1)
    per_unit = block_parameters(config, time_mixing, 2) - least
    positions = config.learned_positions() * config.d_model
    spare = ((config.parameters - positions) / config.layers - least) / per_unit
    width = 1 + round(spare)
    if width >= MULTIPLE and MULTIPLE * per_unit * config.layers <= FINE * config.parameters:
        width = MULTIPLE * round((1 + spare) / MULTIPLE)
    if width < 1:
        table = " and the position table" if positions else ""
        raise InputError(
            f"model.parameters={config.parameters:,} is less than the "
            f"{least * config.layers + positions:,} that the layers{table} have without channel "
            "mixing; raise it, or lower model.d_model" + (" or model.max_length" if table else "")
        )
    return width
