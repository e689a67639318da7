"""Progress of many runs: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gateloop.experiment.workers import Running

LINES_EVERY = 60.0  # seconds between two lines of a log about runs on their way


class Board:
    """What runs, how far it is, and when all will be done."""

    def __init__(self, live: bool | None = None) -> None:
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=2, transient=True)
        self.on_terminal = sys.stderr.isatty() if live is None else live
        self.last_line = time.monotonic()

    def __enter__(self) -> Board:
        if self.on_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_terminal:
            self.live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.on_terminal:
            self.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def show(self, running: Sequence[Running], headline: str) -> None:
        """What runs now under ``headline``; in a log at most once in LINES_EVERY seconds."""
        if self.on_terminal:
            self.live.update(Group(Text(headline), _table(running)))
        elif time.monotonic() - self.last_line >= LINES_EVERY:
            self.last_line = time.monotonic()
            self.say(f"{headline}: " + "; ".join(_line(run) for run in running))


def _table(running: Sequence[Running]) -> Table:
    table = Table.grid(padding=(0, 2))
    for run in running:
        step, speed = run.progress()
        steps = run.task.job.config.trainer.max_steps
        table.add_row(
            run.task.job.title,
            ProgressBar(total=steps, completed=step, width=20),
            f"{step}/{steps}",
            f"{speed:,.0f} tok/s",
        )
    return table


def _line(run: Running) -> str:
    step, speed = run.progress()
    steps = run.task.job.config.trainer.max_steps
    return f"{run.task.job.title} {step}/{steps}, {speed:,.0f} tok/s"


def duration(seconds: float) -> str:
    """12 s, 5 min, 3.2 h, 4.1 days, 2.5 years."""
    units = (("years", 31557600.0, 1), ("days", 86400.0, 1), ("h", 3600.0, 1), ("min", 60.0, 0))
    for unit, size, digits in units:
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.{digits}f} {unit}"
    return f"{seconds:.0f} s"
