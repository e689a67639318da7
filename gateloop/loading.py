"""A trained run as Python objects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gateloop.config import Config
from gateloop.data import Tokenizer, load_tokenizer
from gateloop.errors import InputError
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from gateloop.training import checkpoint
from gateloop.training.record import load_config


class Loaded(NamedTuple):
    """``model`` in eval mode on the CPU, its ``tokenizer`` (None for Memory Horizon), its config."""

    model: LanguageModel
    tokenizer: Tokenizer | None
    config: Config


def best_weights(run: Path) -> tuple[dict[str, Tensor], str]:
    """The best validation's weights, and the file they came from.

    An unfinished run that has validated nothing yet gives its last checkpoint's.
    """
    folder = run / "checkpoints"
    best = checkpoint.listing(folder, checkpoint.BEST)
    if best:
        return best[-1].load()["model"], best[-1].path.name
    last = checkpoint.newest_intact(folder)
    if last is None:
        raise InputError(f"{run} holds no checkpoint; let the run reach its first one")
    content = last.load()["state_dict"]
    return {name.removeprefix("model."): part for name, part in content.items()}, last.path.name


def load(folder: str | Path) -> Loaded:
    """Model, tokeniser and config of ``runs/<id>``; runs nothing that the folder holds.

    Raises InputError where the folder is no run, or has no checkpoint yet.
    """
    folder = Path(folder)
    config = load_config(folder)
    state, _ = best_weights(folder)
    model = build(config.model, len(state["embedding.weight"]), len(state["head.weight"]))
    model.load_state_dict(state)
    tokens = folder / "tokenizer"
    tokenizer = load_tokenizer(tokens) if tokens.is_dir() else None
    return Loaded(model.to(torch.get_default_dtype()).eval(), tokenizer, config)
