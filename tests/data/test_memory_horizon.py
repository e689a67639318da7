"""Memory Horizon against a plain recomputation, its purity, its tests and its baselines."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateloop.config import MemoryHorizonConfig
from gateloop.data import horizon, open_source
from gateloop.data.batching import TEST, TRAIN, VALIDATION
from gateloop.data.memory_horizon import RESET, baselines, draw, solve
from gateloop.errors import InputError
from gateloop.names import Task


def plainly(tokens: list[int], task: Task) -> tuple[list[int], list[int]]:
    """The definition, read step by step."""
    targets, distances = [], []
    since: list[int] = []  # the values since the last reset or the start
    for token in tokens:
        if token == RESET:
            since = []
        else:
            since.append(token)
        distances.append(len(since))
        if task is Task.hold:
            targets.append(since[0] if since else RESET)
        elif task is Task.clipsum:
            targets.append(min(sum(since), 49))
        else:
            targets.append(sum(since) % 50)
    return targets, distances


@pytest.mark.parametrize("task", list(Task))
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_targets_and_distances_follow_the_definition(task, data):
    resets = not data.draw(st.booleans()) or task is not Task.modsum_noreset
    token = st.integers(0, 5 if resets else 4)
    length = data.draw(st.integers(1, 90))
    rows = data.draw(st.lists(st.lists(token, min_size=length, max_size=length), min_size=1))
    targets_BL, distance_BL = solve(np.array(rows), task)
    for row, targets, distances in zip(rows, targets_BL, distance_BL, strict=True):
        assert (targets.tolist(), distances.tolist()) == plainly(row, task)


@pytest.mark.parametrize("task", list(Task))
def test_the_source_gives_what_the_task_says(task):
    config = MemoryHorizonConfig(task=task, length=40, resets=5)
    source = open_source(config)
    batch = source.samples(seed=3, first=0, count=64)
    assert source.inputs == 6
    assert source.classes == (6 if task is Task.hold else 50)
    assert batch.inputs_BL.shape == batch.targets_BL.shape == batch.distance_BL.shape == (64, 40)
    assert batch.inputs_BL.dtype == batch.targets_BL.dtype == batch.distance_BL.dtype == np.int64
    resets = 0 if task is Task.modsum_noreset else 5
    assert ((batch.inputs_BL == RESET).sum(axis=1) == resets).all()
    assert batch.targets_BL.min() >= 0
    assert batch.targets_BL.max() < source.classes
    for row, targets in zip(batch.inputs_BL, batch.targets_BL, strict=True):
        assert targets.tolist() == plainly(row.tolist(), task)[0]


@given(
    first=st.integers(0, 10**12),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    length=st.integers(1, 33),
    samples=st.sampled_from([None, 1, 7, 40]),
)
@settings(max_examples=60, deadline=None)
def test_samples_are_the_same_however_they_are_cut(first, cuts, length, samples):
    source = open_source(
        MemoryHorizonConfig(
            length=length, resets=min(3, length), samples=samples, test_lengths=[], test_resets=[]
        )
    )
    first = first if samples is None else first % 500
    whole = source.samples(5, first, 40)
    bounds = [0, *sorted(cuts), 40]
    parts = [
        source.samples(5, first + start, stop - start)
        for start, stop in itertools.pairwise(bounds)
        if stop > start
    ]
    assert np.array_equal(whole.inputs_BL, np.concatenate([part.inputs_BL for part in parts]))
    assert np.array_equal(whole.targets_BL, np.concatenate([part.targets_BL for part in parts]))


def test_the_stream_is_the_one_it_always_was():
    # another numpy must not change the data behind a run's id
    tokens = draw(seed=7, stream=TRAIN, first=11, count=2, length=12, resets=2)
    assert tokens.tolist() == [
        [2, 1, 1, 5, 5, 1, 0, 3, 1, 4, 4, 2],
        [0, 2, 5, 4, 1, 3, 5, 0, 1, 4, 4, 1],
    ]


def test_values_and_reset_positions_are_uniform():
    tokens = draw(0, TRAIN, 0, 40_000, 10, 3)
    at = (tokens == RESET).mean(axis=0)
    assert np.abs(at - 0.3).max() < 0.01
    values = np.bincount(tokens[tokens != RESET], minlength=5) / (tokens != RESET).sum()
    assert np.abs(values - 0.2).max() < 0.01
    pairs = Counter(
        tuple(np.flatnonzero(row == RESET)[:2]) for row in draw(1, TRAIN, 0, 9000, 4, 2)
    )
    assert set(pairs) == {(a, b) for b in range(4) for a in range(b)}
    assert all(abs(count / 9000 - 1 / 6) < 0.02 for count in pairs.values())


def test_a_fixed_set_is_reused_in_a_fresh_order_each_epoch():
    source = open_source(MemoryHorizonConfig(length=24, samples=30))
    epochs = [source.samples(2, 30 * epoch, 30).inputs_BL.tolist() for epoch in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    fresh = open_source(MemoryHorizonConfig(length=24)).samples(2, 0, 30).inputs_BL.tolist()
    assert sorted(epochs[0]) == sorted(fresh)
    other = source.samples(3, 0, 30).inputs_BL.tolist()
    assert sorted(other) != sorted(epochs[0])


def rows(batches) -> set[tuple[int, ...]]:
    return {tuple(row) for batch in batches for row in batch.inputs_BL.tolist()}


def test_splits_do_not_overlap_and_do_not_know_the_seed():
    config = MemoryHorizonConfig(length=64, test_lengths=[64], test_resets=[3])
    source = open_source(config)
    validation = rows(source.evaluations("validation")[0].batches(100))
    test = rows(source.evaluations("test")[0].batches(100))
    train = rows([source.samples(seed, 0, 2000) for seed in (0, 1)])
    assert (len(validation), len(test), len(train)) == (256, 1024, 4000)
    assert not (validation & test or validation & train or test & train)
    # the keys that the streams draw under, not only their values, differ
    assert len({TRAIN, VALIDATION, TEST}) == 3


def test_evaluations_are_named_and_the_same_in_any_batch_size():
    source = open_source(MemoryHorizonConfig(test_samples=50, length=32))
    tests = source.evaluations("test")
    assert [test.name for test in tests] == ["", "L128_R12", "L512_R12"]
    assert [test.tokens for test in tests] == [50 * 32, 50 * 128, 50 * 512]
    for test, shape in zip(tests, [(32, 3), (128, 12), (512, 12)], strict=True):
        at_once = np.concatenate([batch.inputs_BL for batch in test.batches(50)])
        by_seven = [batch.inputs_BL for batch in test.batches(7)]
        assert len(by_seven) == 8
        assert np.array_equal(at_once, np.concatenate(by_seven))
        assert at_once.shape == (50, shape[0])
        assert ((at_once == RESET).sum(axis=1) == shape[1]).all()
        assert not test.carry
        assert test.words is None


def test_the_control_without_resets_names_its_tests_so():
    source = open_source(MemoryHorizonConfig(task=Task.modsum_noreset))
    assert [test.name for test in source.evaluations("test")] == ["", "L512_R0"]
    assert not any(
        (batch.inputs_BL == RESET).any() for batch in source.evaluations("test")[1].batches(99)
    )


def test_chance_and_oracle_are_the_papers():
    expected = baselines(Task.modsum, 128, 3)
    assert round(expected["chance"], 3) == 0.044
    assert round(expected["distance_oracle"], 3) == 0.098
    info = open_source(MemoryHorizonConfig()).info
    assert info["chance"] == expected["chance"]
    assert set(info["tests"]) == {"L128_R12", "L512_R12"}


@pytest.mark.parametrize("task", list(Task))
def test_chance_and_oracle_by_counting_every_sample(task):
    """All placements of the resets, and the exact distribution of the targets at each step."""
    length, resets = 6, 0 if task is Task.modsum_noreset else 2
    overall: Counter[int] = Counter()
    by_distance: dict[int, Counter[int]] = {}
    total = 0
    for at in itertools.combinations(range(length), resets):
        for values in itertools.product(range(5), repeat=length - resets):
            left = iter(values)
            tokens = [RESET if n in at else next(left) for n in range(length)]
            for target, distance in zip(*plainly(tokens, task), strict=True):
                overall[target] += 1
                by_distance.setdefault(distance, Counter())[target] += 1
                total += 1
    assert total == comb(length, resets) * 5 ** (length - resets) * length
    found = baselines(task, length, resets)
    assert found["chance"] == pytest.approx(max(overall.values()) / total, abs=1e-12)
    oracle = sum(max(counter.values()) for counter in by_distance.values()) / total
    assert found["distance_oracle"] == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("task", list(Task))
def test_chance_and_oracle_of_long_sequences(task):
    """The sum settles long before the end."""
    begun = time.perf_counter()
    found = baselines(task, 1 << 20, 0 if task is Task.modsum_noreset else 1)
    assert time.perf_counter() - begun < 10
    if task is not Task.clipsum:
        classes = 5 if task is Task.hold else 50
        assert found["chance"] == pytest.approx(1 / classes, rel=1e-3)
    else:
        assert found["chance"] == pytest.approx(1, abs=1e-4)
    assert found["distance_oracle"] >= found["chance"]


def test_horizon():
    count = np.full(100, 50)
    correct = np.where(np.arange(100) <= 37, 45, 44)  # 0.9 exactly, then 0.88
    assert horizon(correct, count) == 37
    assert horizon(np.zeros(100), count) is None
    sparse = count.copy()
    sparse[30:] = 19
    assert horizon(np.minimum(correct, sparse), sparse) == 29
    dip = correct.copy()
    dip[10] = 0
    assert horizon(dip, count) == 37
    assert horizon([], []) is None
    assert horizon([1, 1], [1, 1], least=1, accuracy=1.0) == 1


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (
            {"resets": 129},
            "data.resets=129: more than the 128 positions",
        ),
        ({"test_resets": [12]}, "has 2 elements and data.test_resets has 1;"),
        ({"test_resets": [12, 513]}, "data.test_resets=513: more than the 512 positions"),
    ],
)
def test_contradictions(settings_, message):
    with pytest.raises(InputError, match=message) as raised:
        open_source(MemoryHorizonConfig(**settings_))
    assert "\n" not in str(raised.value)


def test_every_step_a_reset():
    source = open_source(MemoryHorizonConfig(length=4, resets=4, test_lengths=[], test_resets=[]))
    batch = source.samples(0, 0, 2)
    assert (batch.inputs_BL == RESET).all()
    assert source.info["chance"] == source.info["distance_oracle"] == 1.0
