"""A table of results before it is Markdown, LaTeX or anything else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from gateloop.errors import InputError
from gateloop.experiment.archive import Outcome, State
from gateloop.experiment.plan import Cell, Job, Score
from gateloop.experiment.schema import Column, Experiment
from gateloop.table.reported import Reported
from gateloop.table.statistics import leaders, spread

TO_COME = (State.running, State.unfinished, State.missing)
NOT_CAUSAL = "not causal"
DUPLICATES = "runs differ"


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
    def ranked(self) -> bool:
        return NOT_CAUSAL not in self.marks


@dataclass(frozen=True)
class Trial:
    """A trial of tuning: how it stands, and its score, None where it has none."""

    job: Job
    state: State
    score: float | None


@dataclass(frozen=True)
class Line:
    """A row of the table. ``reported``: a published number, by metric."""

    label: str
    section: str
    chosen: str
    entries: list[Entry]
    outcomes: dict[int, Outcome]
    cell: Cell = field(repr=False)
    trials: list[Trial] = field(default_factory=list)
    reported: dict[str, Reported] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """The lines of one panel. ``columns``: the table's, each with the metric that it has here, or
    with none ("")."""

    label: str
    lines: list[Line]
    columns: list[Column]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it has been tried: no seed, not even one that failed."""
        found = (outcome for line in self.lines for outcome in line.outcomes.values())
        return all(outcome.state is State.missing for outcome in found)


@dataclass(frozen=True)
class Table:
    """``reported``: published numbers that no row measures, by key and metric."""

    experiment: Experiment
    parts: list[Part]
    reported: dict[str, dict[str, Reported]] = field(default_factory=dict)

    @property
    def columns(self) -> list[Column]:
        return self.experiment.columns

    @property
    def lines(self) -> Iterator[Line]:
        return (line for part in self.parts for line in part.lines)

    @property
    def seeds(self) -> int:
        """Of a row that has been tuned; before any has, those that the file asks for."""
        run = max((len(line.outcomes) for line in self.lines), default=0)
        return run or len(self.experiment.seeds)


def tabulate(
    experiment: Experiment,
    cells: list[Cell],
    outcome: Callable[[Job], Outcome],
    score: Score,
    reported: dict[str, dict[str, Reported]],
) -> Table:
    """The table of ``cells``; ``reported``: published numbers by key and metric.

    Raises InputError as ``check_reported``.
    """
    check_reported(experiment, reported)
    parts = []
    for panel in experiment.panels:
        mine = [cell for cell in cells if cell.panel is panel]
        outcomes = {cell.row.label: {job.seed: outcome(job) for job in cell.final} for cell in mine}
        columns = [
            replace(column, metric=panel.metrics.get(column.title, column.metric))
            for column in experiment.columns
        ]
        failures = {cell.row.label: cell.failure for cell in mine}
        entries = [_entries(column, outcomes, failures) for column in columns]
        lines = [
            Line(
                label=cell.row.label,
                section=cell.row.section,
                chosen=cell.chosen.label if cell.chosen else "",
                entries=[by_label[cell.row.label] for by_label in entries],
                outcomes=outcomes[cell.row.label],
                cell=cell,
                trials=[Trial(job, outcome(job).state, score(job)) for job in cell.trials],
                reported=reported.get(cell.row.reported or "", {}),
            )
            for cell in mine
        ]
        parts.append(Part(panel.label, lines, columns))
    alone = {key: reported[key] for key in experiment.reported}
    return Table(experiment, parts, alone)


def check_reported(experiment: Experiment, reported: Collection[str]) -> None:
    """Raise InputError where the experiment names a published number that is not there."""
    named = {f"row {row.label}: ": row.reported for row in experiment.rows if row.reported}
    for place, key in [*named.items(), *(("", key) for key in experiment.reported)]:
        if key not in reported:
            raise InputError(
                f"{experiment.name}: {place}reported: {key} is no key of results/reported.yaml; "
                "add it there, or correct the experiment"
            )


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
    # a mean over the seeds that happened to end well is no rival of one over all
    ranked = {
        label: by_seed
        for label, by_seed in values.items()
        if causal[label] and len(by_seed) == len(outcomes[label])
    }
    unfinished = {
        label: by_seed
        for label, by_seed in values.items()
        if causal[label] and any(found.state in TO_COME for found in outcomes[label].values())
    }
    first = leaders(ranked, column.best, unfinished)
    if not column.metric:
        return {label: Entry({}, ["–"]) for label in outcomes}
    entries = {}
    for label, by_seed in values.items():
        found = outcomes[label]
        states = [_state(found[seed], column) for seed in found if seed not in by_seed]
        if not found:
            states = [failures[label] or "not tuned yet"]
        marks = [] if causal[label] else [NOT_CAUSAL]
        marks += [DUPLICATES] if any(one.others for one in found.values()) else []
        mean, deviation = spread(list(by_seed.values())) if by_seed else (None, None)
        entries[label] = Entry(by_seed, states, mean, deviation, label in first, tuple(marks))
    return entries


def _state(found: Outcome, column: Column) -> str:
    """Why a run has no number in ``column``."""
    if found.state is State.other_corpus and found.record is not None:
        return f"{found.state.value} ({found.record.content['data']})"
    if found.state is State.measured and found.record is not None:
        known = column.metric in found.record.content["metrics"]
        return "not a number" if known else "not recorded"
    return found.state.value
