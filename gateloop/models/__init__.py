"""Models: one file a paper. A model says how a, k, q and v arise; it computes no recurrence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateloop.model_config import ModelConfig
from gateloop.models.language_model import LanguageModel
from gateloop.models.size import channel_width
from gateloop.models.time_mixer import TimeMixer
from gateloop.registry import MODELS, fault, imported, model_entry


def build(config: ModelConfig, inputs: int, classes: int) -> LanguageModel:
    """The model that ``config`` describes, on torch's default device, for a vocabulary.

    Raises InputError where the parameter budget cannot be met, and as ``time_mixing`` does.
    """
    mixing = time_mixing(config)
    return LanguageModel(config, mixing, inputs, classes, channel_width(config, mixing))


def time_mixing(config: ModelConfig) -> Callable[[], TimeMixer]:
    """What makes one layer's time mixer of the model that ``config`` describes.

    Raises InputError where another package's mixer cannot be imported or is none.
    """
    entry = model_entry(config.name)
    mixer = imported(config.name, entry.mixer)
    if config.name not in MODELS:
        _check(config.name, mixer)
    return partial(mixer.from_config, config)


def _check(name: str, mixer: object) -> None:
    entry = model_entry(name)
    if not (isinstance(mixer, type) and issubclass(mixer, TimeMixer)):
        raise fault(name, f"names the mixer {entry.mixer}, which is no TimeMixer; derive it")
    if set(mixer.modes) != set(entry.modes):
        ours, theirs = (", ".join(m.name for m in each.modes) for each in (entry, mixer))
        raise fault(
            name, f"has the modes {ours}, and {entry.mixer} has {theirs}; make them the same"
        )
    if mixer.supports_reset != entry.resets:
        raise fault(
            name,
            f"has resets={entry.resets}, and {entry.mixer} has "
            f"supports_reset={mixer.supports_reset}; make them the same",
        )
