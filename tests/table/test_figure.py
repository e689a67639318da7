"""The curves' picture: every seed a line, and a band where there are too many."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateloop.table import figure
from gateloop.table.content import Table
from tests.table.small import ACCURACY, fill, table_of


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    experiment, locks = fill(tmp_path)
    yield table_of(experiment, tmp_path)
    for lock in locks:
        os.close(lock)


def test_every_seed_is_a_line(table: Table) -> None:
    (axis,) = figure._curves(table).axes
    row = axis.lines[0]  # "best", its seeds side by side with a gap after each
    assert np.isnan(row.get_ydata()).sum() == len(ACCURACY["best"])
    last = np.array(row.get_ydata())[1::3]
    assert last == pytest.approx([1.0 - a / 2 for a in ACCURACY["best"] if a is not None])
    assert not axis.collections and "band" not in axis.get_xlabel()


def test_too_many_seeds_are_a_band(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the lowest to the highest of a row's seeds, with their mean."""
    monkeypatch.setattr(figure, "MANY", 3)
    (axis,) = figure._curves(table).axes
    values = [1.0 - a / 2 for a in ACCURACY["best"] if a is not None]
    assert list(axis.lines[0].get_ydata()) == pytest.approx([2.0, sum(values) / 3])
    edge = axis.collections[0].get_paths()[0].vertices
    assert {min(values), max(values)} <= set(edge[edge[:, 0] == 200.0][:, 1])
    assert len(axis.collections) == len(axis.lines) and "band" in axis.get_xlabel()
