"""Tables and pictures from records, for all experiments or those named.

python -m gateloop.tables [experiment…]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gateloop.command import Parser, run_command
from gateloop.errors import FINISHED, InputError
from gateloop.experiment.archive import Archive, Runs
from gateloop.experiment.plan import Cell, plan
from gateloop.experiment.schema import FOLDER, Experiment, load_experiment
from gateloop.files import (
    check_own_page,
    clear_disk_errors,
    packed,
    read_text,
    write_bytes_atomic,
)
from gateloop.table.content import Table, check_reported, tabulate
from gateloop.table.csv import csv
from gateloop.table.figure import pictures
from gateloop.table.index import HEAD, index
from gateloop.table.latex import latex
from gateloop.table.markdown import markdown
from gateloop.table.readme import filled
from gateloop.table.reported import load_reported
from gateloop.table.wandb_source import fetch

PICTURES = ("figure.png", "figure.svg", "curves.png", "curves.svg")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m gateloop.tables", description=__doc__)
    parser.add_argument(
        "experiments", nargs="*", help="files or names (default: every shipped one)"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="results")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="runs")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="fetch ended runs from there too")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Returns 0. Raises InputError; a damaged record or run is a line on stderr, and no more."""
    options = parse(argv)
    check_packages()
    check_own_page(options.results / "README.md", HEAD)
    experiments = [load_experiment(name) for name in options.experiments or shipped()]
    fetched, faults = fetch(options.wandb) if options.wandb else ([], [])
    runs = Runs(options.runs_dir, fetched)
    for experiment in experiments:
        archive = Archive(options.results / experiment.name, runs)
        table = write(experiment, archive, options.results)
        faults += archive.faults
        print(f"{options.results / experiment.name}: {summary(table)}", flush=True)
    for fault in dict.fromkeys(faults):
        print(f"gateloop: {' '.join(fault.split())}", file=sys.stderr)
    return FINISHED


def check_packages() -> None:
    """Raise InputError where a package is missing that tables need."""
    for package in ("matplotlib", "scipy"):
        if not find_spec(package):
            raise InputError(f"tables need the package {package}; pip install {package}")


def check_table(experiment: Experiment, results: Path) -> None:
    """Raise InputError where ``experiment``'s table could not be written, whatever its runs do."""
    check_packages()
    check_reported(experiment, load_reported(results))
    check_own_page(results / "README.md", HEAD)
    for page in _pages(experiment, results):
        read_text(page)


def _pages(experiment: Experiment, results: Path) -> tuple[Path, Path]:
    """What a table takes in, or is taken into: the experiment's own words, and the README."""
    return results / experiment.name / "outcome.md", results.absolute().parent / "README.md"


def shipped() -> list[str]:
    return sorted(path.stem for path in packed(FOLDER).glob("*.yaml"))


@cache
def _shipped_experiments() -> list[Experiment]:
    """Those whose file is in order: another one's mistake is no reason to leave these out."""
    found = []
    for name in shipped():
        with suppress(InputError):
            found.append(load_experiment(name))
    return found


def write(
    experiment: Experiment, archive: Archive, results: Path, cells: list[Cell] | None = None
) -> Table:
    """Keep what has ended among the records, and write the experiment's table in every form.

    Raises InputError where the folder cannot be written, or a page beside it is not UTF-8.
    """
    folder = results / experiment.name
    said, front = _pages(experiment, results)
    outcome = read_text(said)
    read_text(front)  # what is wrong with it is said before anything is written
    score = archive.score
    cells = plan(experiment, score) if cells is None else cells
    archive.keep(cells)
    table = tabulate(experiment, cells, archive.outcome, score, load_reported(results))
    drawn = pictures(table, folder)
    shown = [name for name in drawn if name.endswith(".png")]
    files = {
        "table.md": markdown(table, shown, outcome).encode(),
        "table.tex": latex(table).encode(),
        "table.csv": csv(table).encode(),
        **drawn,
    }
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes_atomic(folder / name, content)
        for name in set(PICTURES) - drawn.keys():  # of records that are gone
            (folder / name).unlink(missing_ok=True)
        overview = index(results, _shipped_experiments())
        write_bytes_atomic(results / "README.md", overview.encode())
        page = read_text(front)  # only now: drawing takes seconds, in which somebody may edit it
        if (new := filled(page, table)) != page:
            write_bytes_atomic(front, new.encode())
    return table


def summary(table: Table) -> str:
    """ "30 of 48 runs measured; 2 diverged" """
    states = Counter(
        outcome.state.value for line in table.lines for outcome in line.outcomes.values()
    )
    open_cells = sum(not line.outcomes for line in table.lines)
    total = sum(states.values())
    found = f"{states.pop('measured', 0)} of {total} runs measured"
    found += "".join(f"; {n} {state}" for state, n in states.items())
    return found + (f"; not tuned yet: {open_cells}" if open_cells else "")


if __name__ == "__main__":
    run_command(main)
