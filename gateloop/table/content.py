"""A table of results before it is Markdown, LaTeX or anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gateloop.experiment.archive import Outcome, State
from gateloop.experiment.plan import Cell, Job, Score, Setting
from gateloop.experiment.schema import Column, Experiment
from gateloop.table.reported import Reported
from gateloop.table.statistics import leaders, spread

NOT_CAUSAL = "not causal"


@dataclass(frozen=True)
class Entry:
    """A row's value in one column: over the seeds that have one, and how the others stand."""

    by_seed: dict[int, float]
    states: list[str]
    mean: float | None = None
    deviation: float | None = None
    leads: bool = False
    marks: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        return len(self.by_seed)


@dataclass(frozen=True)
class Line:
    """A row of the table. ``reported``: a published number, by column."""

    label: str
    section: str
    chosen: str
    entries: list[Entry]
    outcomes: dict[int, Outcome]
    cell: Cell = field(repr=False)
    scores: dict[Setting, float | None] = field(default_factory=dict)
    reported: dict[str, Reported] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """The lines of one panel, and the facts of its data that stand beside them."""

    label: str
    lines: list[Line]


@dataclass(frozen=True)
class Table:
    experiment: Experiment
    parts: list[Part]

    @property
    def columns(self) -> list[Column]:
        return self.experiment.columns

    @property
    def seeds(self) -> int:
        return max((len(line.outcomes) for part in self.parts for line in part.lines), default=0)


def tabulate(
    experiment: Experiment,
    cells: list[Cell],
    outcome: Callable[[Job], Outcome],
    score: Score,
    reported: dict[str, dict[str, Reported]],
) -> Table:
    """The table of ``cells``; ``reported``: published numbers by row's key and metric."""
    parts = []
    for panel in experiment.panels:
        mine = [cell for cell in cells if cell.panel is panel]
        outcomes = {cell.row.label: {job.seed: outcome(job) for job in cell.final} for cell in mine}
        columns = {
            column.metric: _entries(column, outcomes, {c.row.label: c.failure for c in mine})
            for column in experiment.columns
        }
        lines = [
            Line(
                label=cell.row.label,
                section=cell.row.section,
                chosen=cell.chosen.label if cell.chosen else "",
                entries=[columns[column.metric][cell.row.label] for column in experiment.columns],
                outcomes=outcomes[cell.row.label],
                cell=cell,
                scores={job.setting: score(job) for job in cell.trials},
                reported=reported.get(cell.row.reported or "", {}),
            )
            for cell in mine
        ]
        parts.append(Part(panel.label, lines))
    return Table(experiment, parts)


def _entries(
    column: Column, outcomes: dict[str, dict[int, Outcome]], failures: dict[str, str]
) -> dict[str, Entry]:
    values = {
        label: {
            seed: value
            for seed, found in by_seed.items()
            if found.state is State.measured
            and found.record is not None
            and (value := found.record.metric(column.metric)) is not None
        }
        for label, by_seed in outcomes.items()
    }
    causal = {
        label: all(found.record is None or found.record.causal for found in by_seed.values())
        for label, by_seed in outcomes.items()
    }
    ranked = {label: by_seed for label, by_seed in values.items() if causal[label]}
    first = leaders(ranked, column.best)
    return {
        label: _entry(by_seed, outcomes[label], label in first, causal[label], failures[label])
        for label, by_seed in values.items()
    }


def _entry(
    by_seed: dict[int, float],
    outcomes: dict[int, Outcome],
    leads: bool,
    causal: bool,
    failure: str,
) -> Entry:
    states = [
        f"{found.state.value}" if found.state is not State.measured else "not a number"
        for seed, found in outcomes.items()
        if seed not in by_seed
    ]
    if failure:
        states = [failure]
    elif not outcomes:
        states = ["not tuned yet"]
    mean, deviation = spread(list(by_seed.values())) if by_seed else (None, None)
    notes = [found.note for found in outcomes.values() if found.note]
    marks = [*dict.fromkeys(notes), *([] if causal else [NOT_CAUSAL])]
    return Entry(by_seed, states, mean, deviation, leads, tuple(marks))
