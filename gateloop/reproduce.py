"""An experiment: runs what is missing of it, then writes its table.

python -m gateloop.reproduce experiments/memory_horizon.yaml --workers 2
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from gateloop.command import run_command
from gateloop.data import fingerprint, locate
from gateloop.errors import CRASHED, FINISHED, InputError
from gateloop.experiment.archive import Archive, State
from gateloop.experiment.board import Board, duration
from gateloop.experiment.estimate import flops, seconds
from gateloop.experiment.plan import Cell, Job, plan
from gateloop.experiment.schema import Experiment, load_experiment
from gateloop.experiment.workers import Ended, Pool, Seat, Task, seats
from gateloop.identity import digest, run_id
from gateloop.tables import summary, write
from gateloop.training.interruption import Interruption

POLL = 0.5  # seconds


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m gateloop.reproduce --help")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m gateloop.reproduce", description=__doc__)
    parser.add_argument("experiment", help="a file, or the name of a shipped one")
    parser.add_argument("--workers", type=int, help="runs at once (one for each GPU, else 1)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ROW", help="this row; again for more"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the file's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="over every override; again for more",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would run, and stop")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="runs")
    options = parser.parse_args(argv)
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers {options.workers}: must be at least 1")
    return options


def main(argv: list[str]) -> int:
    """Returns 0; 1 where a run failed. Raises InputError, and Interrupted with everything saved."""
    options = parse(argv)
    study = Study(load_experiment(options.experiment), options)
    places = seats(options.workers)
    print(study.overview(places), flush=True)
    if options.dry_run:
        return FINISHED
    with Interruption():
        failed = study.run(places)
    table = write(study.experiment, study.archive, options.results, study.cells())
    print(f"{options.results / study.experiment.name}: {summary(table)}")
    for fault in study.archive.faults:
        print(f"gateloop: {fault}", file=sys.stderr)
    for ended in failed:
        print(
            f"\nfailed: {ended.task.job.title}, exit {ended.code}; the end of {ended.task.log}:\n"
            f"{ended.tail}",
            file=sys.stderr,
        )
    return CRASHED if failed else FINISHED


class Study:
    """An experiment on its way: what has ended, what is wanted, what failed."""

    def __init__(self, experiment: Experiment, options: argparse.Namespace) -> None:
        self.options = options
        self.experiment = _named(experiment, options.changes)
        self.archive = Archive(options.results / self.experiment.name, options.runs_dir)
        self.failed: dict[str, Ended] = {}
        for config in {job.config.data.name: job.config for job in self.wanted()}.values():
            locate(config.data)  # raises InputError where the data are not there

    def cells(self) -> list[Cell]:
        """The plan as far as what has ended decides it."""
        return plan(
            self.experiment,
            self.archive.score(self.experiment),
            seeds=self.options.seeds,
            only=self.options.only,
            changes=self.options.changes,
        )

    def wanted(self) -> list[Job]:
        """Jobs whose turn it is: neither ended nor failed, each run once."""
        found = {
            job.key: job
            for cell in self.cells()
            for job in cell.jobs
            if self.archive.outcome(job).record is None and job.key not in self.failed
        }
        return list(found.values())

    def overview(self, places: list[Seat]) -> str:
        """A line for each cell, then runs, FLOPs and hours."""
        cells = self.cells()
        expected = seconds(cells, self.archive.outcome)
        lines = [f"{self.experiment.title} ({self.experiment.name})"]
        for cell in cells:
            ended = sum(self.archive.outcome(job).record is not None for job in cell.jobs)
            left = sum(expected.get(job, 0.0) for job in cell.jobs)
            label = " · ".join(part for part in (cell.panel.label, cell.row.label) if part)
            more = "" if cell.final else ", then the seeds"
            state = f"{ended} of {len(cell.jobs)} runs ended{more}"
            lines.append(f"  {label:<40} {state}" + (f", about {duration(left)}" if left else ""))
        work = sum(flops(job.config) for job in expected)
        hours = sum(expected.values()) / len(places)
        lines.append(
            f"{len(expected)} runs to do, {work:.3g} FLOPs, about {duration(hours)} with "
            f"{len(places)} at once"
        )
        return "\n".join(lines)

    def run(self, places: list[Seat]) -> list[Ended]:
        """Run what is wanted, and what its outcome makes wanted; the runs that failed."""
        options = self.options
        extra = [f"runs_dir={options.runs_dir}", f"trainer.threads={len(places[0].cores)}"]
        with Board() as board, Pool(places, extra) as pool:
            known: dict[str, Task] = {}
            ended = 0
            self._add(pool, known)
            while pool.busy:
                for end in pool.advance():
                    ended += 1
                    self._note(end, board)
                    self._add(pool, known)
                expected = seconds(self.cells(), self.archive.outcome) if False else {}
                left = sum(expected.values()) / len(places) if expected else None
                board.show(pool.running, ended, len(known), left)
                time.sleep(POLL)
        return list(self.failed.values())

    def _add(self, pool: Pool, known: dict[str, Task]) -> None:
        for job in self.wanted():
            if job.key not in known:
                known[job.key] = task = Task(job, self._folder(job))
                pool.add(task)

    def _folder(self, job: Job) -> Path:
        data = job.config.data
        return Path(self.options.runs_dir) / run_id(job.config, fingerprint(data), locate(data))

    def _note(self, end: Ended, board: Board) -> None:
        job = end.task.job
        self.archive.read(end.task.folder)
        outcome = self.archive.outcome(job)
        if outcome.record is None:
            self.failed[job.key] = end
            board.say(f"failed: {job.title}, exit {end.code}; log {end.task.log}")
            return
        self.archive.keep(self.cells())
        column = self.experiment.columns[0]
        value = outcome.record.metric(column.metric)
        shown = outcome.state.value if outcome.state is not State.measured else f"{value}"
        board.say(f"{job.title}: {column.metric} {shown}, {duration(end.seconds)}")


def _named(experiment: Experiment, changes: list[str]) -> Experiment:
    """With changes an experiment is another one, and its results have a folder of their own."""
    if not changes:
        return experiment
    return replace(experiment, name=f"{experiment.name}_{digest({'changes': sorted(changes)})}")


if __name__ == "__main__":
    run_command(main)
