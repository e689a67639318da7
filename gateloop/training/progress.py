"""Progress of a run: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINES_EVERY = 10.0  # seconds between two lines of a log


class Progress:
    """Steps, tokens per second, time left and the last losses of one run."""

    def __init__(self, steps: int, tokens_per_step: int, bar: bool | None) -> None:
        self.steps, self.tokens_per_step = steps, tokens_per_step
        self.first = 0
        self.started = self.last_line = 0.0
        self.shown: dict[str, float] = {}
        self.bar: Bar | None = None
        if sys.stderr.isatty() if bar is None else bar:
            self.bar = Bar(
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
                console=Console(stderr=True),
                refresh_per_second=4,
            )

    def start(self, step: int) -> None:
        self.first = step
        self.started = time.perf_counter()
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("training", total=self.steps, completed=step, facts="")

    def advance(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=step)

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """New figures: shown beside the bar, or as a line if the last line is old enough."""
        self.shown.update(metrics)
        facts = " · ".join(self.facts())
        if self.bar is not None:
            self.bar.update(self.task, facts=facts)
            return
        now = time.perf_counter()
        if "val/loss" in metrics or step == self.steps or now - self.last_line >= LINES_EVERY:
            self.last_line = now
            rate = (step - self.first) / max(now - self.started, 1e-9)
            left = f" · {(self.steps - step) / rate:,.0f} s left" if rate else ""
            print(f"step {step}/{self.steps} · {facts}{left}", file=sys.stderr, flush=True)

    def facts(self) -> list[str]:
        forms = {
            "tokens_per_second": "{:,.0f} tok/s",
            "train/loss": "loss {:.3f}",
            "val/loss": "val {:.3f}",
            "val/accuracy": "accuracy {:.3f}",
        }
        return [form.format(self.shown[name]) for name, form in forms.items() if name in self.shown]

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
