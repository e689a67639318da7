"""Times of several contestants, taken by turns, so that whatever slows the machine slows all."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 30.0  # seconds that one contestant may take in all, once it has its fewest rounds
FEWEST = 3
PAUSE = 0.03  # seconds before a call, in which the threads of the last one come to rest
FLUSH = 64 << 20  # bytes, twice what most last caches hold
ASLEEP = 5_000_000  # cycles of a GPU, some 3 ms, in which what a call asks of it can line up

Run = Callable[[], object]
Timer = Callable[[Run], float]  # to the seconds of one call


def on_host(run: Run) -> float:
    return once(run, lambda: None)


def until_done(device: str) -> Timer:
    """As whoever calls sees it: from the call until the device has nothing left to do."""
    import torch

    return partial(once, wait=torch.cuda.synchronize) if device == "cuda" else on_host


def of_kernels(device: str) -> Timer:
    """Of a GPU what it does itself: Python takes longer to ask for a kernel than many a kernel
    takes, and where there is other work no one waits for it."""
    return _on_gpu if device == "cuda" else on_host


def _on_gpu(run: Run) -> float:
    """Seconds between two events on the stream, in which the call stands from the start; what
    Python takes beyond the sleep is in them. The caches of the GPU hold nothing of use."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _flushed("cuda").mul_(1)
    torch.cuda.synchronize()
    torch.cuda._sleep(ASLEEP)
    start.record()
    result = run()
    end.record()
    end.synchronize()
    del result
    return float(start.elapsed_time(end)) / 1000


def rounds(
    runs: dict[str, Run], repeats: int, timer: Timer = on_host
) -> dict[str, list[float | None]]:
    """Seconds of one call of each contestant in each of ``repeats`` rounds.

    In an order drawn anew for each round, the same at every call: whoever is called before leaves
    caches and threads in some state, and none is to follow always the same one.
    None where a contestant that is slow has stopped taking part: the rounds of all the others stay
    paired.
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
                times[label].append(None if tired else timer(runs[label]))
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
    _flushed("cpu").mul_(1)


@cache
def _flushed(device: str) -> Tensor:
    import torch  # the command line is read without it

    return torch.ones(FLUSH // 4, device=device)


def warm(run: Run, timer: Timer) -> None:
    """To be called before the rounds, so that what is compiled or built at the first call is not in
    them; a second call warms caches, where the first did not take long anyway."""
    if timer(run) < PATIENCE / 10:
        timer(run)
