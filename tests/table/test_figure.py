"""The curves' picture: every seed a line, and a band where there are too many."""

import os
from collections.abc import Iterator
from dataclasses import replace
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


def test_a_dollar_is_a_dollar(table: Table, tmp_path: Path) -> None:
    def priced(label: str) -> str:
        return f"{label} for 1 $ or {{2 $"

    rows = [replace(row, label=priced(row.label)) for row in table.experiment.rows]
    parts = [
        replace(
            part,
            label=priced(part.label),
            lines=[replace(line, label=priced(line.label)) for line in part.lines],
        )
        for part in table.parts
    ]
    columns = [replace(column, title=priced(column.title)) for column in table.columns]
    experiment = replace(table.experiment, rows=rows, columns=columns)
    assert len(figure.pictures(replace(table, experiment=experiment, parts=parts), tmp_path)) == 4


def test_another_list_of_rows_is_another_picture(table: Table) -> None:
    """A row's place chooses its colour."""
    rows = table.experiment.rows[::-1]
    other = replace(table, experiment=replace(table.experiment, rows=rows))
    assert figure._curve_numbers(other) != figure._curve_numbers(table)
