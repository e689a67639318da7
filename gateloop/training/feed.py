"""Training batches as tensors, each a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

    With ``ahead``, for a GPU, the next micro-batch is made by a thread while the device computes,
    and lies in pinned memory, from which it is copied without waiting.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        size: int,
        position: Callable[[], int],
        rank: int = 0,
        ranks: int = 1,
        *,
        ahead: bool = False,
    ) -> None:
        self.source, self.seed, self.size, self.position = source, seed, size, position
        self.rank, self.ranks, self.ahead = rank, ranks, ahead

    def __iter__(self) -> Iterator[Tensors]:
        made = self.micro_batches(self.position())
        return pinned(made_ahead(made)) if self.ahead else made

    def micro_batches(self, index: int) -> Iterator[Tensors]:
        while True:
            first = (index * self.ranks + self.rank) * self.size
            yield tensors(self.source.samples(self.seed, first, self.size))
            index += 1


def made_ahead(batches: Iterator[Tensors]) -> Iterator[Tensors]:
    """The same batches, each made in a thread while the one before it is used; errors pass on."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
        coming = thread.submit(next, batches)
        while True:
            batch = coming.result()
            coming = thread.submit(next, batches)
            yield batch


def pinned(batches: Iterator[Tensors]) -> Iterator[Tensors]:
    """In this thread: another one would open the first GPU, whichever is this process's."""
    for batch in batches:
        yield {name: part.pin_memory() for name, part in batch.items()}
