"""Where an experiment's runs stand: its committed records, and what is in ``runs/``."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gateloop.experiment.plan import Cell, Job, Score, key_of
from gateloop.experiment.schema import Experiment
from gateloop.experiment.record import (
    FAILURE,
    Record,
    is_locked,
    keep,
    load_records,
    of_run,
    run_folders,
)


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
    """What there is of a job. ``note`` says what a reader should know beside the state."""

    state: State
    record: Record | None = None
    note: str = ""


class Archive:
    """The records of ``folder``/records, with the ended runs of ``runs_dir`` beside them.

    ``faults``: a line for everything that could not be read.
    """

    def __init__(self, folder: Path, runs_dir: Path) -> None:
        self.folder, self.runs_dir = folder / "records", runs_dir
        self.kept: dict[str, list[Record]] = defaultdict(list)
        self.fresh: dict[str, list[Record]] = defaultdict(list)
        self.open: dict[str, State] = {}
        records, self.faults = load_records(self.folder)
        for record in records:
            self.kept[record.key].append(record)
        for run in run_folders(runs_dir):
            self.read(run)

    def read(self, run: Path) -> None:
        try:
            manifest = run / "manifest.json"
            if not manifest.exists():
                return
            content = of_run(run)
            if content is not None:
                record = Record(run, content)
                self.fresh[record.key].append(record)
                return
            identity = json.loads(manifest.read_text(encoding="utf-8")).get("identity", {})
            state = State.running if is_locked(run) else State.unfinished
            if state is State.unfinished and (run / FAILURE).exists():
                state = State.failed
            self.open[key_of(identity)] = state
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.faults.append(f"{run}: cannot be read ({error}); delete it to run again")

    def outcome(self, job: Job) -> Outcome:
        found = [*self.kept[job.key], *self.fresh[job.key]]
        right = [record for record in found if record.content.get("data") == job.config.data.name]
        if right:
            first = right[0]
            numbers = {json.dumps(r.content["metrics"], sort_keys=True) for r in right}
            note = f"{len(right)} runs that differ, the first shown" if len(numbers) > 1 else ""
            return Outcome(State.measured if first.finished else State.diverged, first, note)
        if found:
            return Outcome(State.other_corpus, found[0], f"measured on {found[0].content['data']}")
        return Outcome(self.open.get(job.key, State.missing))

    def score(self, experiment: Experiment) -> Score:
        """The lowest of a trial's validations; None where it has not ended."""
        metric = experiment.tuning.metric if experiment.tuning else ""

        def lowest(job: Job) -> float | None:
            record = self.outcome(job).record
            return None if record is None else record.lowest(metric)

        return lowest

    def keep(self, cells: list[Cell]) -> list[Record]:
        """Copy the ended runs that ``cells`` ask for among the records; the new ones."""
        added = []
        for job in (job for cell in cells for job in cell.jobs):
            if not self.kept[job.key]:
                for record in self.fresh[job.key]:
                    copied = keep(record.content, self.folder)
                    self.kept[job.key].append(copied)
                    added.append(copied)
        return added
