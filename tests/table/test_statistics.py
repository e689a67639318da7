"""Intervals and ties against scipy's own tests and by hand."""

import math

import pytest
from scipy.stats import ttest_rel

from gateloop.experiment.schema import Best
from gateloop.table.statistics import leaders, paired_interval, spread


def test_spread() -> None:
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert spread([4.0]) == (4.0, None)


def test_the_interval_is_the_paired_t_tests() -> None:
    a, b = [0.91, 0.95, 0.90, 0.97], [0.88, 0.93, 0.91, 0.94]
    first, second = dict(enumerate(a)), dict(enumerate(b))
    expected = ttest_rel(a, b).confidence_interval(0.95)
    assert paired_interval(first, second) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_only_common_seeds_are_paired() -> None:
    assert paired_interval({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.0, 1: 1.0, 3: 7.0}) == (1.0, 1.0)
    assert paired_interval({0: 1.0}, {0: 0.5}) == (-math.inf, math.inf)


ROWS = {
    "best": {0: 0.90, 1: 0.92, 2: 0.94},
    "tied": {0: 0.91, 1: 0.90, 2: 0.93},
    "worse": {0: 0.80, 1: 0.82, 2: 0.84},  # by the same at every seed: the interval is a point
    "none": {},
}


def test_the_best_and_its_ties() -> None:
    assert leaders(ROWS, Best.highest) == {"best", "tied"}
    assert leaders(ROWS, Best.lowest) == {"worse"}
    assert leaders(ROWS, Best.none) == set()
    assert leaders({"a": {}}, Best.highest) == set()


def test_nobody_leads_while_a_row_with_runs_to_come_is_ahead() -> None:
    assert leaders(ROWS, Best.highest, {"ahead": {0: 0.95}, "new": {}}) == set()
    assert leaders(ROWS, Best.highest, {"behind": {0: 0.85}, "new": {}}) == {"best", "tied"}
    assert leaders(ROWS, Best.lowest, {"behind": {0: 0.95}}) == {"worse"}
    assert leaders(ROWS, Best.lowest, {"ahead": {1: 0.79, 2: 0.80}}) == set()


def test_one_seed_ties_with_nothing() -> None:
    assert leaders({"a": {0: 0.9}, "b": {0: 0.9}, "c": {1: 0.95}}, Best.highest) == {"c"}
