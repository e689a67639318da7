"""What the rounds say: medians, quartiles, and ratios of times that were taken side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

Times = Sequence[float | None]  # seconds by round, None where a contestant took no part


class Spread(NamedTuple):
    """Seconds: the median and the quartiles around it."""

    low: float
    median: float
    high: float


def spread(times: Times) -> Spread | None:
    """None where nothing was measured. Of a single round all three are its time."""
    taken = [seconds for seconds in times if seconds is not None]
    if not taken:
        return None
    if len(taken) == 1:
        return Spread(taken[0], taken[0], taken[0])
    low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
    return Spread(low, median, high)


def ratio(times: Times, reference: Times) -> float | None:
    """The median over rounds of times / reference: each round's two stood next to each other.

    Not the ratio of the medians, which may come from rounds of which only one was disturbed.
    """
    pairs = zip(times, reference, strict=True)
    ratios = [ours / theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return statistics.median(ratios) if ratios else None
