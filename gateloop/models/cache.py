"""Attention's cache: steps put one after the other without copying those that stand already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Memory taken ahead: a share of what is cached, and the fewest steps. An eighth makes a step cost
# eight copied rows in the long run, where attention reads all of them.
SHARE = 8
STEPS = 64


@dataclass
class Memory:
    """What a cache is the beginning of: ``steps`` (batch, …, room, width), ``used`` taken."""

    steps: Tensor
    used: int


def append(cached: Tensor, new: Tensor) -> Tensor:
    """Both along the steps, (batch, …, steps, width). An empty cache has no say in the dtype.

    Without gradients the result is the beginning of a larger memory, and whoever appends to it next
    writes behind it. A cache that has been appended to before, or one that is not a result of this
    function as it was returned, is copied: two continuations of one state do not meet.
    """
    known, after = cached.shape[-2], cached.shape[-2] + new.shape[-2]
    if not known:
        return new
    if torch.is_grad_enabled() or (cached.dtype, len(cached)) != (new.dtype, len(new)):
        return torch.cat([cached, new], dim=-2)
    memory: Memory | None = getattr(cached, "memory", None)
    if memory is None or memory.used != known or memory.steps.shape[-2] < after:
        room = after + max(STEPS, after // SHARE)
        memory = Memory(cached.new_empty(*cached.shape[:-2], room, cached.shape[-1]), known)
        memory.steps[..., :known, :] = cached
    memory.steps[..., known:after, :] = new
    memory.used = after
    both = memory.steps[..., :after, :]
    both.memory = memory  # type: ignore[attr-defined]
    return both
