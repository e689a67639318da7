"""Where an experiment's runs stand: its committed records, and what is in ``runs/``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from gateloop.experiment.corpus import is_of, is_whole
from gateloop.experiment.plan import Cell, Job, recipe_of
from gateloop.experiment.record import (
    ENDED,
    FAILURE,
    UNREADABLE,
    Record,
    checked,
    keep,
    load_records,
    of_run,
    read_json,
    run_folders,
)
from gateloop.experiment.schema import TUNED_BY
from gateloop.files import is_locked


class State(Enum):
    """How a run stands, in the word that a table prints for it."""

    measured = "measured"
    diverged = "diverged"
    failed = "failed"
    running = "running"
    unfinished = "unfinished"
    other_corpus = "other corpus"
    missing = "missing"


@dataclass(frozen=True)
class Outcome:
    """What there is of a job. ``others``: further runs of it, with other numbers."""

    state: State
    record: Record | None = None
    others: tuple[Record, ...] = ()


@dataclass
class Found:
    """A run outside the records: how it stands, and its record once somebody asks for it.

    ``made_from``: the fingerprint of its text, as far as it is known.
    """

    folder: Path
    state: State
    made_from: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    record: Record | None = None

    @property
    def ended(self) -> bool:
        return self.state in (State.measured, State.diverged)


class Runs:
    """The runs in ``folder`` by recipe, of each only what says how it stands.

    Several experiments share one. ``faults``: a line for each that cannot be read.
    """

    def __init__(self, folder: Path, fetched: Iterable[Record] = ()) -> None:
        self.by_recipe: dict[str, dict[str, Found]] = defaultdict(dict)
        self.faults: dict[Path, str] = {}
        for record in fetched:
            state = State.measured if record.finished else State.diverged
            found = Found(record.where, state, None, record.content["metrics"], record)
            self.by_recipe[record.recipe][record.id] = found
        for run in run_folders(folder):
            self.read(run)

    def read(self, run: Path) -> None:
        """Look at ``run``, again where it is known."""
        try:
            failure = read_json(run / FAILURE)  # of a run that may have failed before its manifest
            identity = read_json(run / "manifest.json").get("identity", failure.get("identity"))
            if identity is None:
                return
            summary = read_json(run / "summary.json")
            state = _state(run, summary.get("status"))
            mark, metrics = identity.get("fingerprint"), dict(summary.get("metrics", {}))
            found = Found(run, state, mark, metrics)
            self.by_recipe[recipe_of(identity)][summary.get("id", run.name)] = found
        except UNREADABLE as error:
            self._fault(run, error)

    def record(self, found: Found) -> Record | None:
        """None where it cannot be read."""
        if found.record is None and found.folder not in self.faults:
            try:
                content = of_run(found.folder)
                assert content is not None
                found.record = checked(Record(found.folder, content))
            except UNREADABLE as error:
                self._fault(found.folder, error)
        return found.record

    def _fault(self, run: Path, error: Exception) -> None:
        self.faults[run] = f"{run}: cannot be read ({error}); delete it to run again"


def _state(run: Path, status: str | None) -> State:
    if status in ENDED:
        return State.measured if status == "finished" else State.diverged
    if is_locked(run / "lock"):
        return State.running
    return State.failed if (run / FAILURE).exists() else State.unfinished


class Archive:
    """The records of ``folder``/records, with the ended runs of ``runs`` beside them."""

    def __init__(self, folder: Path, runs: Runs | Path) -> None:
        self.folder = folder / "records"
        self.runs = runs if isinstance(runs, Runs) else Runs(runs)
        self.kept: dict[str, dict[str, Record]] = defaultdict(dict)
        records, self._faults = load_records(self.folder)
        for record in records:
            self.kept[record.recipe][record.id] = record

    @property
    def faults(self) -> list[str]:
        """A line for everything that could not be read, or that was not taken."""
        return list(dict.fromkeys([*self._faults, *self.runs.faults.values()]))

    def read(self, run: Path) -> None:
        """Look again at a run's folder."""
        self.runs.read(run)

    def outcome(self, job: Job) -> Outcome:
        data, kept = job.config.data, self.kept.get(job.recipe, {})
        records = [*kept.values(), *self._fresh(job.recipe).values()]
        records = [record for record in records if record.is_of(data)]
        records.sort(key=lambda record: (not record.finished, record.id))
        right = [record for record in records if record.content["data"] == data.name]
        if right:
            first, metrics = right[0], right[0].content["metrics"]
            others = tuple(r for r in right[1:] if _differ(r.content["metrics"], metrics))
            return Outcome(State.measured if first.finished else State.diverged, first, others)
        if records and not is_whole(data):
            return Outcome(State.other_corpus, records[0])
        open_states = [State.running, State.failed, State.unfinished]
        states = [
            found.state
            for found in self.runs.by_recipe.get(job.recipe, {}).values()
            if found.state in open_states and is_of(data, found.made_from)
        ]
        return Outcome(min(states, key=open_states.index, default=State.missing))

    def _fresh(self, recipe: str) -> dict[str, Record]:
        """Ended runs that are not among the records; a finished one counts more than a diverged."""
        kept, fresh = self.kept.get(recipe, {}), {}
        for name, found in self.runs.by_recipe.get(recipe, {}).items():
            old = kept.get(name)
            better = old is None or (not old.finished and found.state is State.measured)
            if found.ended and better and (record := self.runs.record(found)) is not None:
                fresh[name] = record
        return fresh

    def score(self, job: Job) -> float | None:
        """The lowest of a trial's validations; None where it has not ended."""
        outcome = self.outcome(job)
        ended = outcome.state in (State.measured, State.diverged)
        return outcome.record.lowest(TUNED_BY) if ended and outcome.record else None

    def keep(self, cells: list[Cell]) -> list[Record]:
        """Copy the ended runs that ``cells`` ask for among the records; the new ones.

        A record stays as it is where the run was made again with another result: that is a fault.
        """
        added = []
        jobs = {job.key: job for cell in cells for job in cell.jobs}
        for job in jobs.values():
            kept = self.kept[job.recipe]
            for name, record in self._fresh(job.recipe).items():
                if record.is_of(job.config.data):
                    kept[name] = copied = keep(record.content, self.folder)
                    added.append(copied)
        for recipe in dict.fromkeys(job.recipe for job in jobs.values()):
            for name, found in self.runs.by_recipe.get(recipe, {}).items():
                old = self.kept[recipe].get(name)
                if old and found.ended and _differ(old.content["metrics"], found.metrics):
                    self._faults.append(
                        f"{found.folder}: another result than in {old.where}, which stays; delete "
                        "that file to take the new one"
                    )
        return added


def _differ(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two runs disagree in a number; 1 is 1.0, and nan is nan."""

    def plain(metrics: dict[str, Any]) -> list[tuple[str, str]]:
        numbers = (int, float)
        return sorted(
            (name, repr(float(value) if isinstance(value, numbers) else value))
            for name, value in metrics.items()
        )

    return first is not second and plain(first) != plain(second)
