"""What every data source hands out, and the seeded order of a training set that is reused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

IGNORE = -100  # a target that is not scored


@dataclass
class Batch:
    """Sequences side by side: B of them, L steps each.

    inputs_BL, targets_BL: int64; a target of ``IGNORE`` is not scored.
    reset_BL: bool, the state is zero before that step; None: no resets.
    distance_BL: int64, Memory Horizon's values since the last reset; None elsewhere.
    """

    inputs_BL: np.ndarray
    targets_BL: np.ndarray
    reset_BL: np.ndarray | None = None
    distance_BL: np.ndarray | None = None


@dataclass
class Evaluation:
    """One test: ``batches(B)`` yields its sequences, at most B at once, always the same ones.

    name: "" for the main test. carry: the state is handed from batch to batch.
    tokens: targets that are scored. words, bytes: of the text, for word perplexity and bits per
    byte; None where there is no text. facts: what else a table should print beside the result.
    """

    name: str
    batches: Callable[[int], Iterator[Batch]]
    carry: bool = False
    words: int | None = None
    bytes: int | None = None
    tokens: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


# Random streams never meet: each draws from Philox under a key (seed, stream) of its own.
TRAIN, VALIDATION, TEST, ORDER = range(4)


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """A permutation of 0..size−1, the same wherever and whenever it is asked for.

    Raw Philox words sorted: numpy promises their stream across versions, unlike Generator's.
    """
    generator = np.random.Philox(key=np.array([seed, ORDER | epoch << 8], dtype=np.uint64))
    return np.argsort(generator.random_raw(size), kind="stable")


def reused(seed: int, first: int, count: int, size: int) -> np.ndarray:
    """Which items of a set of ``size`` the samples first..first+count−1 are, epoch after epoch."""
    indices, position = [], first
    while position < first + count:
        epoch, offset = divmod(position, size)
        taken = min(size - offset, first + count - position)
        indices.append(permutation(seed, epoch, size)[offset : offset + taken])
        position += taken
    return np.concatenate(indices) if indices else np.empty(0, dtype=np.int64)
