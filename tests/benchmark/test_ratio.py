"""The arithmetic on times whose answers are known."""

from __future__ import annotations

import pytest

from gateloop.benchmark.ratio import ratio, spread


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # Rounds of 2, 3 and 10 times: the median is 3. The medians' ratio would be 30 / 4 = 7.5.
    assert ratio([2.0, 30.0, 40.0], [1.0, 10.0, 4.0]) == pytest.approx(3.0)


def test_only_rounds_that_both_took_part_in_count() -> None:
    assert ratio([2.0, None, 8.0], [1.0, 1.0, 2.0]) == pytest.approx(3.0)
    assert ratio([None, 2.0], [1.0, None]) is None
    assert ratio([], []) is None


def test_rounds_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_median_and_quartiles() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 3.0, 4.0)
    assert spread([1.0, None, 2.0]) == (1.25, 1.5, 1.75)
    assert spread([7.0]) == (7.0, 7.0, 7.0)
    assert spread([None]) is None
