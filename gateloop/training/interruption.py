"""SIGTERM and Ctrl-C: finish what must be whole, save, and leave with exit code 75."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from gateloop.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Turns the signals into Interrupted: at once, or, inside ``deferred``, when asked.

    While something is being trained the flag ``requested`` is read between steps; elsewhere
    nothing is half-done that a later start would not find whole, so the exception comes at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self.waiting = False
        self.previous: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals; called again after Lightning has set handlers of its own."""
        for number in SIGNALS:
            handler = signal.signal(number, self.handle)
            self.previous.setdefault(number, handler)

    def __enter__(self) -> Interruption:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested
        self.requested = True
        if not self.waiting or (again and number == signal.SIGINT):
            raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False
