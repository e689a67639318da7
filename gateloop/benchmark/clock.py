"""Times of several contestants, taken by turns, so that whatever slows the machine slows all."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 30.0  # seconds that one contestant may take in all, once it has its fewest rounds
FEWEST = 3
PAUSE = 0.03  # seconds before a call, in which the threads of the last one come to rest
FLUSH = 64 << 20  # bytes, twice what most last caches hold

Run = Callable[[], object]


def rounds(
    runs: dict[str, Run], repeats: int, wait: Callable[[], object] = lambda: None
) -> dict[str, list[float | None]]:
    """Seconds of one call of each contestant in each of ``repeats`` rounds.

    In an order drawn anew for each round, the same at every call: whoever is called before leaves
    caches and threads in some state, and none is to follow always the same one.
    None where a contestant that is slow has stopped taking part: the rounds of all the others stay
    paired. ``wait`` returns when the device has nothing left to do.
    """
    labels = list(runs)
    times: dict[str, list[float | None]] = {label: [] for label in labels}
    gc.collect()
    gc.freeze()  # what stands by now; else each collection below would look through all of torch
    gc.disable()
    try:
        for number in range(repeats):
            gc.collect()
            for label in random.Random(number).sample(labels, len(labels)):
                taken = [seconds for seconds in times[label] if seconds is not None]
                tired = len(taken) >= FEWEST and sum(taken) > PATIENCE
                times[label].append(None if tired else once(runs[label], wait))
    finally:
        gc.enable()
        gc.unfreeze()
    return times


def once(run: Run, wait: Callable[[], object]) -> float:
    """Seconds of a call until the device is done; letting go of what it returns is not counted."""
    wait()
    settle()
    start = time.perf_counter()
    result = run()
    wait()
    seconds = time.perf_counter() - start
    del result
    return seconds


def settle() -> None:
    """The same state before every call, whatever was called before it.

    Other libraries' threads have stopped spinning, the caches hold nothing of use, and torch's
    threads are awake, each on a core of its own.
    """
    end = time.perf_counter() + PAUSE
    while time.perf_counter() < end:
        pass  # asleep, this thread could wake on a core where another one waits for it
    _flushed().mul_(1)


@cache
def _flushed() -> Tensor:
    import torch  # the command line is read without it

    return torch.ones(FLUSH // 4)


def warm(run: Run, wait: Callable[[], object]) -> None:
    """To be called before the rounds, so that what is compiled or built at the first call is not in
    them; a second call warms caches, where the first did not take long anyway."""
    if once(run, wait) < PATIENCE / 10:
        once(run, wait)
