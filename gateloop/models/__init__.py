"""Models: one file a paper. A model says how a, k, q and v arise; it computes no recurrence."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from gateloop.model_config import ModelConfig
from gateloop.models.language_model import LanguageModel
from gateloop.models.size import channel_width
from gateloop.registry import MODELS


def build(config: ModelConfig, inputs: int, classes: int) -> LanguageModel:
    """The model that ``config`` describes, on torch's default device, for a vocabulary.

    Raises InputError where the parameter budget cannot be met.
    """
    module, _, name = MODELS[config.name].mixer.partition(":")
    time_mixing = partial(getattr(import_module(module), name).from_config, config)
    return LanguageModel(config, time_mixing, inputs, classes, channel_width(config, time_mixing))
