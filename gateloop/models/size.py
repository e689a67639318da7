"""Parameter counts on the meta device, and the channel-mixing width that meets a budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gateloop.errors import InputError
from gateloop.model_config import ModelConfig
from gateloop.models.block import Block
from gateloop.models.time_mixer import TimeMixer


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def block_parameters(
    config: ModelConfig, time_mixing: Callable[[], TimeMixer], d_channel: int
) -> int:
    """Parameters of one layer at a channel-mixing width, without allocating any."""
    with torch.device("meta"):
        return count(Block(config, time_mixing(), d_channel))


def channel_width(config: ModelConfig, time_mixing: Callable[[], TimeMixer]) -> int:
    """model.d_channel where given, else from model.parameters, else twice d_model.

    The budget counts the layers, without embedding and head, so that one size serves every
    vocabulary. Raises InputError where the time mixing alone exceeds the budget.
    """
    if config.d_channel is not None:
        return config.d_channel
    if config.parameters is None:
        return 2 * config.d_model
    least = block_parameters(config, time_mixing, 1)
    per_unit = block_parameters(config, time_mixing, 2) - least
    width = 1 + round((config.parameters / config.layers - least) / per_unit)
    if width < 1:
        raise InputError(
            f"model.parameters={config.parameters:,} is less than the {least * config.layers:,} "
            "that the layers have without channel mixing; raise it, or lower model.d_model"
        )
    return width
