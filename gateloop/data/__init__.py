"""Where sequences come from. numpy only: nothing here imports torch.

source = open_source(config.data)
batch = source.samples(seed, first, count)     # training, a pure function
tests = source.evaluations("test")             # or "validation"
"""

from __future__ import annotations

from typing import Any

from gateloop.config import DataConfig, MemoryHorizonConfig
from gateloop.data.batching import IGNORE, Batch, Evaluation
from gateloop.data.memory_horizon import MemoryHorizon, check

__all__ = ["IGNORE", "Batch", "Evaluation", "fingerprint", "locate", "open_source"]


def open_source(config: DataConfig) -> Any:
    """The data source that ``config`` describes, its caches built.

    InputError where data are missing, unreadable or not what they should be.
    """
    if isinstance(config, MemoryHorizonConfig):
        return MemoryHorizon(config)
    raise NotImplementedError(f"data={config.name}")


def fingerprint(config: DataConfig) -> str | None:
    """What tells this corpus and its tokens from any other; None: the configuration says it all."""
    return None


def locate(config: DataConfig) -> Any:
    """InputError where the data are not there; builds nothing."""
    if isinstance(config, MemoryHorizonConfig):
        check(config)
        return None
    raise NotImplementedError(f"data={config.name}")
