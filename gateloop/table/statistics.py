"""Means over seeds, and which differences the seeds can tell from nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from gateloop.experiment.schema import Best

CONFIDENCE = 0.95


def spread(values: list[float]) -> tuple[float, float | None]:
    """(mean, standard deviation with n − 1, or None for fewer than two values)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def paired_interval(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float]:
    """The 95 % interval of the mean difference first − second over the seeds that both have.

    By Student's t. Runs of a seed see the same data in the same order, so they are paired. With
    fewer than two seeds in common the interval is the whole line.
    """
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if len(differences) < 2:
        return -math.inf, math.inf
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    quantile = float(stdtrit(len(differences) - 1, (1 + CONFIDENCE) / 2))
    reach = quantile * deviation / len(differences) ** 0.5
    return mean - reach, mean + reach


def leaders(
    rows: Mapping[str, Mapping[int, float]],
    best: Best,
    unfinished: Mapping[str, Mapping[int, float]] | None = None,
) -> set[str]:
    """The row with the best mean, and all whose paired interval against it contains 0.

    ``rows``: values by seed. With one seed, or none in common, nothing but the best itself is
    among them: a single run says nothing about a tie. ``unfinished``: those so far of rows that
    have runs to come; while the mean of one is better, nobody leads.
    """
    means = {
        label: statistics.fmean(by_seed.values()) for label, by_seed in rows.items() if by_seed
    }
    if best is Best.none or not means:
        return set()
    choose = max if best is Best.highest else min
    first = choose(means, key=lambda label: means[label])
    so_far = [statistics.fmean(found.values()) for found in (unfinished or {}).values() if found]
    if choose([means[first], *so_far]) != means[first]:
        return set()
    found = {first}
    for label in means.keys() - found:
        low, high = paired_interval(rows[first], rows[label])
        if math.isfinite(low) and low <= 0 <= high:
            found.add(label)
    return found
