"""An experiment: runs what is missing of it, then writes its table.

python -m gateloop.reproduce experiments/memory_horizon.yaml --workers 2
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gateloop.command import Parser, run_command, runs_folder
from gateloop.compose import quoted
from gateloop.data import locate
from gateloop.errors import CRASHED, FINISHED, InputError
from gateloop.experiment.archive import Archive, State
from gateloop.experiment.board import Board, duration
from gateloop.experiment.corpus import mark_of
from gateloop.experiment.estimate import flops, seconds
from gateloop.experiment.plan import Cell, Job, plan
from gateloop.experiment.schema import Experiment, load_experiment
from gateloop.experiment.workers import Ended, Pool, Seat, Task
from gateloop.identity import digest, run_id
from gateloop.launching.arguments import add_launcher, launcher_of, overrides, places
from gateloop.launching.cluster import JOBS, Cluster
from gateloop.launching.launcher import Launcher
from gateloop.tables import check_table, summary, write
from gateloop.training.interruption import Interruption

POLL = 0.5  # seconds


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
    add_launcher(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would run, and stop")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results")
    parser.add_argument("--runs-dir", type=runs_folder, default=Path("runs"), help="runs")
    options = parser.parse_args(argv)
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers {options.workers}: must be at least 1")
    return options


def main(argv: list[str]) -> int:
    """Returns 0; 1 where a run failed. Raises InputError, and Interrupted with everything saved."""
    options = parse(argv)
    study = Study(load_experiment(options.experiment), options)
    seats = study.places()
    print(study.overview(seats), flush=True)
    if options.dry_run:
        return FINISHED
    check_table(study.experiment, options.results)
    study.locate_data()
    launcher = Cluster(study.launcher, options.runs_dir / JOBS) if study.launcher else None
    with Interruption():
        failed = study.run(seats, launcher)
    table = write(study.experiment, study.archive, options.results, study.whole())
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
        self.launcher = launcher_of(options)
        self.experiment = _named(experiment, options.changes)
        self.archive = Archive(options.results / self.experiment.name, options.runs_dir)
        self.failed: dict[str, Ended] = {}
        self.tasks: dict[str, Task] = {}

    def locate_data(self) -> None:
        """Raise InputError where the data of a run to come are not there."""
        for data in {repr(job.config.data): job.config.data for job in self.wanted()}.values():
            locate(data)

    def cells(self) -> list[Cell]:
        """The plan as far as what has ended decides it."""
        return plan(
            self.experiment,
            self.archive.score,
            seeds=self.options.seeds,
            only=self.options.only,
            changes=self.options.changes,
        )

    def whole(self) -> list[Cell]:
        """The plan of every row, whichever were asked for, and of all seeds that are known of."""
        return plan(
            self.experiment,
            self.archive.score,
            seeds=sorted({*self.experiment.seeds, *(self.options.seeds or [])}),
            changes=self.options.changes,
        )

    def wanted(self) -> list[Job]:
        """Jobs whose turn it is: neither ended nor failed, each run once."""
        found: dict[str, Job] = {}
        for job in (job for cell in self.cells() for job in cell.jobs):
            if self.archive.outcome(job).record is None and job.key not in self.failed:
                found.setdefault(job.key, job)
        return list(found.values())

    def places(self) -> list[Seat]:
        """A seat for each run at once. Raises InputError where there are not that many."""
        jobs = {job.key: job for cell in self.cells() for job in [*cell.jobs, *cell.later]}
        devices = max(job.config.trainer.devices for job in jobs.values()) if jobs else 1
        return places(self.launcher, self.options.workers, len(jobs), devices)

    def overview(self, places: list[Seat]) -> str:
        """The grid with what has ended of each cell, then runs, FLOPs and hours."""
        cells = self.cells()
        expected = seconds(cells, self.archive.outcome)
        todo = {
            job.key: job
            for cell in cells
            for job in [*cell.jobs, *cell.later]
            if job.key in expected
        }
        work = sum(flops(job.config) for job in todo.values())
        hours = sum(expected.values()) / len(places)
        grid = {(cell.panel.label, cell.row.label): self._progress(cell) for cell in cells}
        panels, rows = (list(dict.fromkeys(labels)) for labels in zip(*grid, strict=True))
        lines = [["", *panels]] if any(panels) else []
        lines += [[row, *(grid[panel, row] for panel in panels)] for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        head = f"{self.experiment.title} ({self.experiment.name})"
        body = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        cost = f"{len(todo)} runs to do, {work:.3g} FLOPs, about {duration(hours)}"
        return "\n".join([head, *body, f"{cost} with {len(places)} at once"])

    def _progress(self, cell: Cell) -> str:
        """ "3/5", "2/6, then 5", or why there is nothing to run."""
        ended = sum(self.archive.outcome(job).record is not None for job in cell.jobs)
        later = f", then {len(cell.later)}" if cell.later else ""
        return cell.failure or f"{ended}/{len(cell.jobs)}{later}"

    def run(self, places: list[Seat], launcher: Launcher | None = None) -> list[Ended]:
        """Run what is wanted, and what its outcome makes wanted; the runs that failed."""
        options = self.options
        extra = [quoted("runs_dir", str(options.runs_dir)), *overrides(self.launcher, places[0])]
        with Board() as board, Pool(places, extra, launcher) as pool:
            news, headline = True, ""
            while news or pool.busy:
                if news:
                    pool.offer([self._task(job) for job in self.wanted()])
                    headline = self.headline(len(places))
                pool.start()
                board.show(pool.running, headline + pool.refusal)
                time.sleep(POLL)
                ends = pool.ended()
                for end in ends:
                    self._note(end, board)
                news = bool(ends)
        return list(self.failed.values())

    def headline(self, at_once: int) -> str:
        """ "12 of 60 runs · about 40 min left" """
        cells = self.cells()
        expected = seconds(cells, self.archive.outcome)
        number = len({job.key for cell in cells for job in [*cell.jobs, *cell.later]})
        left = duration(sum(expected.values()) / at_once)
        return f"{number - len(expected)} of {number} runs · about {left} left"

    def _task(self, job: Job) -> Task:
        if job.key not in self.tasks:
            data = job.config.data
            name = run_id(job.config, mark_of(data), locate(data))
            self.tasks[job.key] = Task(job, Path(self.options.runs_dir) / name)
        return self.tasks[job.key]

    def _note(self, end: Ended, board: Board) -> None:
        job = end.task.job
        if end.again:
            board.say(f"{job.title}: exit {end.code}, once more; log {end.task.log}")
            return
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
    """Changes that make other runs make another experiment, whose results have their own folder."""

    if not changes:
        return experiment

    def runs(changes: list[str]) -> list[str]:
        cells = plan(experiment, lambda _: None, changes=changes)
        return [job.key for cell in cells for job in [*cell.jobs, *cell.later]]

    changed = runs(changes)
    with suppress(InputError):  # it may lack what the changes supply
        if changed == runs([]):
            return experiment
    return replace(experiment, name=f"{experiment.name}_{digest({'changes': sorted(changes)})}")


if __name__ == "__main__":
    run_command(main)
