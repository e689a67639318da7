"""A trained run as Python objects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from gateloop.config import Config, TextConfig
from gateloop.data import Tokenizer, load_tokenizer
from gateloop.errors import InputError
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from gateloop.training import checkpoint
from gateloop.training.record import load_config


class Loaded(NamedTuple):
    """``model`` in eval mode on the CPU; ``tokenizer``, None for Memory Horizon; ``config``."""

    model: LanguageModel
    tokenizer: Tokenizer | None
    config: Config


def load(folder: str | Path) -> Loaded:
    """Model, tokeniser and config of ``runs/<id>``; runs nothing that the folder holds.

    Raises InputError where the folder is no run, lacks a part, or its parts do not fit together.
    """
    folder = Path(folder)
    config = load_config(folder)
    state, _ = checkpoint.best_weights(folder)
    model = build(config.model, len(state["embedding.weight"]), len(state["head.weight"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # many lines, the first of which only names the class
        said = " ".join(str(error).split("\n")[1:2]).strip()
        raise InputError(
            f"{folder}: config.yaml does not describe the checkpoint ({said}); copy the run's own "
            "config.yaml again, or train it again"
        ) from error
    text = isinstance(config.data, TextConfig)
    tokenizer = load_tokenizer(folder / "tokenizer") if text else None
    return Loaded(model.to(torch.get_default_dtype()).eval(), tokenizer, config)
