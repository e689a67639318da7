"""What a table says in every form: the text of an entry, and where its runs come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gateloop.experiment.record import Record
from gateloop.experiment.schema import Best, Column
from gateloop.table.content import Entry, Line, Part, Table
from gateloop.table.reported import Reported

ARROWS = {Best.highest: " ↑", Best.lowest: " ↓", Best.none: ""}


def number(value: float, digits: int) -> str:
    """With ``digits`` decimals: fewer from 100 on, and in powers of ten where they show nothing."""
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value:,.{_decimals(value, digits)}f}"


def _decimals(value: float, digits: int) -> int:
    return digits if abs(value) < 100 else min(digits, 1)


def text(entry: Entry, column: Column) -> str:
    """ "0.995 ± 0.004", how many seeds where some are not measured, and how those stand."""
    counts = Counter(entry.states)
    states = ", ".join(f"{n} {state}" if n > 1 else state for state, n in counts.items())
    if entry.mean is None:
        return states if len(counts) > 1 else entry.states[0]
    shown = number(entry.mean, column.digits)
    if entry.deviation is not None:
        tiny = "e" in shown  # a deviation has as many decimals as its mean
        decimals = _decimals(entry.mean, column.digits)
        shown += " ± " + (f"{entry.deviation:.1e}" if tiny else f"{entry.deviation:,.{decimals}f}")
    return shown + (f" (n = {len(entry.by_seed)}, {states})" if states else "")


def heads(table: Table) -> list[str]:
    """Over a table's columns: the measured ones, then what was reported and the difference."""
    found = [column.title + ARROWS[column.best] for column in table.columns]
    for column in reported_columns(table):
        found.append(f"{column.title}, reported")
        found += ["difference"] if _is_comparable(table, column) else []
    return found


def published(table: Table, part: Part, line: Line) -> list[str]:
    """The published number, and measured − published where they are of the same task."""
    shown = reported_columns(table)
    cells = []
    # by the panel's metrics, of which the entries are too
    for column, own, entry in zip(table.columns, part.columns, line.entries, strict=True):
        if column not in shown:
            continue
        there = line.reported.get(own.metric)
        cells.append(number(there.value, column.digits) if there else "")
        if there and there.comparable and entry.mean is not None:
            difference = entry.mean - there.value
            cells.append(f"{difference:+,.{_decimals(difference, column.digits)}f}")
        elif _is_comparable(table, column):
            cells.append("")
    return cells


def reported_columns(table: Table) -> list[Column]:
    """Those for which some row has a published number."""
    return [column for column in table.columns if _reported(table, column)]


def _is_comparable(table: Table, column: Column) -> bool:
    return any(one.comparable for one in _reported(table, column))


def _reported(table: Table, column: Column) -> list[Reported]:
    """A column's published numbers, each of the metric that its panel has there."""
    place = table.columns.index(column)
    found = (
        line.reported.get(part.columns[place].metric) for part in table.parts for line in part.lines
    )
    return [one for one in found if one]


def legend(table: Table) -> str:
    """What the numbers are, and what bold means where something is bold."""
    several = table.seeds > 1
    found = f"Mean ± standard deviation over {table.seeds} seeds." if several else "One seed."
    if any(entry.leads for line in table.lines for entry in line.entries):
        ties = (
            ", and all whose paired 95 % interval against it contains 0 (Student's t), among the "
            "rows that have a number for every seed"
        )
        found += f" Bold: the best of a column{ties if several else ''}."
    return found


@dataclass(frozen=True)
class Source:
    """One run behind a line. ``shown``: its numbers are the table's."""

    seed: int
    id: str
    commit: str
    hardware: str
    parameters: int | None
    tokens: int | None
    seconds: float | None
    shown: bool
    record: Record


def sources(line: Line) -> list[Source]:
    """Every run behind a line, seed by seed, with the duplicates that differ."""
    return [
        _source(seed, record, record is outcome.record)
        for seed, outcome in line.outcomes.items()
        for record in ([outcome.record] if outcome.record else []) + list(outcome.others)
    ]


def _source(seed: int, record: Record, shown: bool) -> Source:
    content = record.content
    commit = content.get("commit")
    hardware = [content.get("device"), content.get("processor")]
    return Source(
        seed=seed,
        id=record.id,
        commit=commit[:7] + ("+" if content.get("dirty") else "") if commit else "",
        hardware=" on ".join(part for part in dict.fromkeys(hardware) if part),
        parameters=content.get("parameters"),
        tokens=content.get("tokens_seen"),
        seconds=content.get("train_seconds"),
        shown=shown,
        record=record,
    )
