"""How far a long job over text is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

EVERY = 5.0  # seconds between plain lines
PATIENCE = 1.0  # a job shorter than this says nothing


class Progress:
    """``with Progress("tokenising train", total) as progress: progress.advance(amount)``."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.done = label, max(total, 1), 0
        self.begun = self.spoken = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def advance(self, amount: int) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.begun < PATIENCE:
            return
        if sys.stderr.isatty():
            self._draw()
        elif now - self.spoken >= EVERY:
            self.spoken = now
            self._say(f"{100 * self.done // self.total}%")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elapsed = time.monotonic() - self.begun
        if error is None and elapsed >= PATIENCE:
            self._say(f"done in {elapsed:.1f} s")

    def _say(self, text: str) -> None:
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self.bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self.bar = Bar(console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(self.label, total=self.total)
            self.bar.start()
        self.bar.update(self.task, completed=self.done)
