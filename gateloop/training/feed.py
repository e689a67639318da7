"""Training batches as tensors, each a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from gateloop.data import Batch, Source

Tensors = dict[str, Tensor]


def tensors(batch: Batch) -> Tensors:
    """inputs and targets (batch, length) int64; reset (batch, length) bool where there is one."""
    arrays = {"inputs": batch.inputs_BL, "targets": batch.targets_BL, "reset": batch.reset_BL}
    return {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}


class Feed(IterableDataset[Any]):
    """An endless stream of micro-batches that starts where training stands.

    Micro-batch i of a job with ``ranks`` devices is the samples from (i · ranks + rank) · size on,
    so that accumulation and devices change nothing in what an optimiser step sees.
    ``position`` says how many micro-batches a device has had: asked when the iteration starts, it
    makes a resumed run go on where the interrupted one stood, with no state to keep.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        size: int,
        position: Callable[[], int],
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.source, self.seed, self.size, self.position = source, seed, size, position
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[Tensors]:
        index = self.position()
        while True:
            first = (index * self.ranks + self.rank) * self.size
            yield tensors(self.source.samples(self.seed, first, self.size))
            index += 1
