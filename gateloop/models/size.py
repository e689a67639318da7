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
    that one size serves every vocabulary. It is met as nearly as a width can that is a multiple of
    model.d_channel_multiple. Raises InputError where nothing is left of it for the channel mixing.
    """
    if config.d_channel is not None:
        return config.d_channel
    if config.parameters is None:
        return 2 * config.d_model
    least = block_parameters(config, time_mixing, 1)
    per_unit = block_parameters(config, time_mixing, 2) - least
    positions = config.learned_positions() * config.d_model
    width = 1 + round(((config.parameters - positions) / config.layers - least) / per_unit)
    if width < 1:
        table = " and the position table" if positions else ""
        raise InputError(
            f"model.parameters={config.parameters:,} is less than the "
            f"{least * config.layers + positions:,} that the layers{table} have without channel "
            "mixing; raise it, or lower model.d_model" + (" or model.max_length" if table else "")
        )
    multiple = config.d_channel_multiple
    return multiple * max(1, round(width / multiple))
