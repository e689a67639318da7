"""Where sequences come from. numpy only: nothing here imports torch.

source = open_source(config.data)
batch = source.samples(seed, first, count)     # training, a pure function
tests = source.evaluations("test")             # or "validation"
"""

from __future__ import annotations

from typing import Any, Protocol

from gateloop.config import DataConfig, MemoryHorizonConfig, TextConfig
from gateloop.data.batching import IGNORE, Batch, Evaluation
from gateloop.data.memory_horizon import MemoryHorizon, horizon
from gateloop.data.text_source import TextSource, find_corpus, text_fingerprint
from gateloop.data.tokenizers import Tokenizer, encode_prompt, load_tokenizer
from gateloop.errors import InputError

__all__ = [
    "IGNORE",
    "Batch",
    "Evaluation",
    "Source",
    "Tokenizer",
    "encode_prompt",
    "fingerprint",
    "horizon",
    "load_tokenizer",
    "locate",
    "open_source",
]


class Source(Protocol):
    """What a model is trained and tested on.

    name: the source as results name it. inputs, classes: how many input and output classes.
    info: plain facts for a run's manifest.
    """

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def info(self) -> dict[str, Any]: ...

    def samples(self, seed: int, first: int, count: int) -> Batch:
        """Training samples first..first+count−1 of the endless seeded order: a pure function."""
        ...

    def evaluations(self, split: str) -> list[Evaluation]:
        """The tests of a split, "validation" or "test"; the main one, named "", comes first."""
        ...


def open_source(config: DataConfig) -> Source:
    """The data source that ``config`` describes, its caches built.

    InputError where data are missing, unreadable or not what they should be.
    """
    if isinstance(config, MemoryHorizonConfig):
        return MemoryHorizon(config)
    return TextSource(_text(config))


def fingerprint(config: DataConfig, *, fetch: bool = True) -> str | None:
    """What tells this corpus and its tokens from any other, without tokenising.

    None where the configuration says it all. InputError as locate's.
    """
    if isinstance(config, MemoryHorizonConfig):
        return None
    return text_fingerprint(_text(config), fetch=fetch)


def locate(config: DataConfig, *, fetch: bool = True) -> str:
    """The name that results carry (``wt103-partial``, …); tokenises nothing.

    InputError where the data are not there, unreadable, empty or no UTF-8; with ``fetch=False``
    also where they would have to be fetched first.
    """
    if isinstance(config, MemoryHorizonConfig):
        config.check()
        return config.name
    return find_corpus(_text(config), fetch=fetch).name


def _text(config: DataConfig) -> TextConfig:
    if not isinstance(config, TextConfig):
        raise InputError(f"data={config.name} is not a source of this project")
    return config
