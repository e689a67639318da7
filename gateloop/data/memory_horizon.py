"""Memory Horizon, this project's definition (docs/memory-horizon.md), generated as it is needed.

Tokens 0..4 are values, 5 is the reset. Every step has a target made of the values since the last
reset; the start of the sequence counts as a reset just before step 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from gateloop.config import MemoryHorizonConfig
from gateloop.data.batching import TEST, TRAIN, VALIDATION, Batch, Evaluation, reused
from gateloop.names import Task

VALUES = 5
RESET = 5  # the reset's token, and the class of reset steps under ``hold``
MODULUS = 50


def draw(seed: int, stream: int, first: int, count: int, length: int, resets: int) -> np.ndarray:
    """Tokens of the samples first..first+count−1 of a stream, int64 (count, length).

    A sample owns a fixed range of Philox's counter, so that it is the same however the stream
    is cut. Each step takes 32 bits for its value and 32 that rank it: the ``resets`` smallest
    ranks are the reset's positions, distinct and uniform.
    """
    counters = -(-length // 4)  # one counter gives four 64-bit words, one word serves a step
    key = np.array([seed, stream | resets << 8 | length << 32], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=first * counters)
    words_BL = generator.random_raw(count * counters * 4).reshape(count, -1)[:, :length]
    tokens_BL = (((words_BL >> np.uint64(32)) * np.uint64(VALUES)) >> np.uint64(32)).astype(
        np.int64
    )
    if resets:
        ranks_BL = words_BL & np.uint64(0xFFFFFFFF)
        positions_BR = np.argpartition(ranks_BL, resets - 1, axis=1)[:, :resets]
        np.put_along_axis(tokens_BL, positions_BR, RESET, axis=1)
    return tokens_BL


def solve(tokens_BL: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Targets and distances of a batch of tokens, both int64 (B, L).

    The distance is the number of values since the last reset (or the start), this step's
    included: 0 at a reset, n + 1 at step n before the first one.
    """
    is_reset_BL = tokens_BL == RESET
    steps_L = np.arange(tokens_BL.shape[1])
    last_BL = np.maximum.accumulate(np.where(is_reset_BL, steps_L, -1), axis=1)
    distance_BL = steps_L - last_BL
    if task is Task.hold:
        following_BL = np.minimum(last_BL + 1, len(steps_L) - 1)
        held_BL = np.take_along_axis(tokens_BL, following_BL, axis=1)
        return np.where(is_reset_BL, RESET, held_BL), distance_BL
    sums_BL = np.cumsum(np.where(is_reset_BL, 0, tokens_BL), axis=1)
    before_BL = np.where(
        last_BL < 0, 0, np.take_along_axis(sums_BL, np.maximum(last_BL, 0), axis=1)
    )
    sums_BL -= before_BL
    if task is Task.clipsum:
        return np.minimum(sums_BL, MODULUS - 1), distance_BL
    return sums_BL % MODULUS, distance_BL


def horizon(
    correct_N: np.ndarray, count_N: np.ndarray, *, accuracy: float = 0.9, least: int = 20
) -> int | None:
    """The largest distance at which a model still answers right; None: there is none.

    correct_N, count_N: right answers and scored steps at distance 0..N−1. A distance with fewer
    than ``least`` steps says too little and is passed over; distances below the horizon may fail.
    """
    correct_N, count_N = np.asarray(correct_N), np.asarray(count_N)
    reached = np.flatnonzero((count_N >= least) & (correct_N >= accuracy * count_N))
    return int(reached[-1]) if len(reached) else None


# -- what a guesser gets -----------------------------------------------------------------


@lru_cache(maxsize=16)
def baselines(task: Task, length: int, resets: int) -> dict[str, float]:
    """Expected accuracy, exact, of guessing without having read the values.

    chance: always the most frequent class. distance_oracle: the most frequent class at each
    distance, for a guesser who knows the distance and nothing else.
    """
    at_distance_D = _distance_distribution(length, resets)
    if task is Task.hold:  # a reset step has its own class; the values are uniform
        reset = at_distance_D[0]
        return {
            "chance": float(max(reset, (1 - reset) / VALUES)),
            "distance_oracle": float(reset + (1 - reset) / VALUES),
        }
    sum_C = np.zeros(MODULUS)
    sum_C[0] = 1.0
    overall_C, oracle = np.zeros(MODULUS), 0.0
    for distance, probability in enumerate(at_distance_D):
        next_C = _add_value(sum_C, clip=task is Task.clipsum)
        settled = np.abs(next_C - sum_C).max() < 1e-15  # every larger distance is like this one
        weight = at_distance_D[distance:].sum() if settled else probability
        overall_C += weight * sum_C
        oracle += weight * sum_C.max()
        if settled:
            break
        sum_C = next_C
    return {"chance": float(overall_C.max()), "distance_oracle": float(oracle)}


def _distance_distribution(length: int, resets: int) -> np.ndarray:
    """Probability of each distance 0..length at a uniformly drawn step.

    after_D[d]: a step that d steps precede has its last reset d steps before it; none_N[n]: no
    reset stands at steps 0..n. Both are quotients of binomials, made factor by factor.
    """
    left_D = length - np.arange(1, length)
    after_D = np.cumprod([resets / length, *np.maximum(left_D - resets + 1, 0) / left_D])
    none_N = np.cumprod([(length - resets) / length, *np.maximum(left_D - resets, 0) / left_D])
    at_distance_D = np.zeros(length + 1)
    at_distance_D[:-1] = after_D * np.arange(length, 0, -1) / length
    at_distance_D[1:] += none_N / length
    return at_distance_D


def _add_value(sum_C: np.ndarray, *, clip: bool) -> np.ndarray:
    """Distribution of the sum after one more uniform value."""
    if not clip:
        return np.mean([np.roll(sum_C, value) for value in range(VALUES)], axis=0)
    total = np.convolve(sum_C, np.full(VALUES, 1 / VALUES))
    total[MODULUS - 1] = total[MODULUS - 1 :].sum()
    return total[:MODULUS]


# -- the source --------------------------------------------------------------------------


class MemoryHorizon:
    """The source ``data=memory_horizon``.

    Raises InputError where there are more resets than steps, or where ``data.test_lengths`` and
    ``data.test_resets`` do not pair up.
    """

    name = "memory_horizon"
    tokenizer = None

    def __init__(self, config: MemoryHorizonConfig):
        config.check()
        self.config = config
        self.inputs = VALUES + 1
        self.classes = VALUES + 1 if config.task is Task.hold else MODULUS
        self.resets = 0 if config.task is Task.modsum_noreset else config.resets

    @property
    def info(self) -> dict[str, Any]:
        """Plain facts: the task, and chance and distance oracle of every test by its name."""
        tests = {test.name: test.facts for test in self.evaluations("test")}
        return {"task": self.config.task.value, **tests.pop(""), "tests": tests}

    def samples(self, seed: int, first: int, count: int) -> Batch:
        """Training samples first..first+count−1 under a run's seed: a pure function."""
        shape = self.config.length, self.resets
        if self.config.samples is None:
            return self._batch(draw(seed, TRAIN, first, count, *shape))
        chosen = reused(seed, first, count, self.config.samples)
        return self._batch(np.concatenate([draw(seed, TRAIN, int(i), 1, *shape) for i in chosen]))

    def evaluations(self, split: str) -> list[Evaluation]:
        """The validation; or the test as in training, then the extrapolation tests."""
        length, resets = self.config.length, self.resets
        if split == "validation":
            return [
                self._evaluation("", VALIDATION, length, resets, self.config.validation_samples)
            ]
        shapes = {(length, resets): ""}
        pairs = zip(self.config.test_lengths, self.config.test_resets, strict=True)
        for length, resets in pairs:
            resets = 0 if self.config.task is Task.modsum_noreset else resets
            shapes.setdefault((length, resets), f"L{length}_R{resets}")
        return [
            self._evaluation(name, TEST, *shape, self.config.test_samples)
            for shape, name in shapes.items()
        ]

    def _evaluation(
        self, name: str, stream: int, length: int, resets: int, samples: int
    ) -> Evaluation:
        def batches(size: int) -> Iterator[Batch]:
            for first in range(0, samples, size):
                count = min(size, samples - first)
                yield self._batch(draw(0, stream, first, count, length, resets))

        facts: dict[str, Any] = {"length": length, "resets": resets, "samples": samples}
        facts |= baselines(self.config.task, length, resets)
        return Evaluation(name, batches, tokens=samples * length, facts=facts)

    def _batch(self, tokens_BL: np.ndarray) -> Batch:
        targets_BL, distance_BL = solve(tokens_BL, self.config.task)
        return Batch(tokens_BL, targets_BL, distance_BL=distance_BL)
