"""Tables from records, for all experiments or those named.

python -m gateloop.tables [experiment…]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from gateloop.command import run_command
from gateloop.errors import FINISHED, InputError
from gateloop.experiment.archive import Archive
from gateloop.experiment.plan import Cell, plan
from gateloop.experiment.schema import FOLDER, Experiment, load_experiment
from gateloop.files import clear_disk_errors, packed, write_bytes_atomic
from gateloop.table.content import Table, tabulate
from gateloop.table.reported import load_reported


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m gateloop.tables --help")


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
    options = parse(argv)
    names = options.experiments or sorted(p.stem for p in packed(FOLDER).glob("*.yaml"))
    for experiment in map(load_experiment, names):
        archive = Archive(options.results / experiment.name, options.runs_dir)
        table = write(experiment, archive, options.results)
        for fault in archive.faults:
            print(f"gateloop: {fault}", file=sys.stderr)
        print(f"{options.results / experiment.name}: {summary(table)}")
    return FINISHED


def write(
    experiment: Experiment, archive: Archive, results: Path, cells: list[Cell] | None = None
) -> Table:
    """Keep what has ended among the records, and write the experiment's table in every form."""
    from gateloop.table.csv import csv
    from gateloop.table.figure import curves
    from gateloop.table.figure import results as dots
    from gateloop.table.latex import latex
    from gateloop.table.markdown import markdown

    cells = plan(experiment, archive.score(experiment)) if cells is None else cells
    archive.keep(cells)
    score = archive.score(experiment)
    table = tabulate(experiment, cells, archive.outcome, score, load_reported(results))
    folder = results / experiment.name
    files = {
        "table.md": markdown(table).encode(),
        "table.tex": latex(table).encode(),
        "table.csv": csv(table).encode(),
        **dots(table),
        **curves(table, "val/loss"),
    }
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes_atomic(folder / name, content)
    return table


def summary(table: Table) -> str:
    """ "30 of 48 runs measured; 2 diverged" """
    from collections import Counter

    states = Counter(
        outcome.state.value
        for part in table.parts
        for line in part.lines
        for outcome in line.outcomes.values()
    )
    total = sum(states.values())
    rest = "".join(f"; {n} {state}" for state, n in states.items() if state != "measured")
    return f"{states['measured']} of {total} runs measured{rest}"


if __name__ == "__main__":
    run_command(main)
