"""SIGTERM and Ctrl-C: finish what must be whole, save, and leave with exit code 75."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any

from gateloop.errors import Interrupted
from gateloop.training.job import Job

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Turns the signals into Interrupted: at once, or, inside ``deferred``, when asked.

    While something is being trained the flag ``requested`` is read between steps; elsewhere
    nothing is half-done that a later start would not find whole, so the exception comes at once.
    """

    def __init__(self, parent: int | None = None) -> None:
        """``parent``: a process that this one must not outlive."""
        self.signalled = False
        self.waiting = False
        self.parent = parent
        self.previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether this process has been asked to stop, or has lost what it should not outlive."""
        return self.signalled or self.parent not in (None, os.getppid())

    def install(self) -> None:
        """Take the signals; called again after Lightning has set handlers of its own."""
        for number in SIGNALS:
            handler = signal.signal(number, self.handle)
            self.previous.setdefault(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def hold(self) -> None:
        """Keep signals waiting until ``install``: Lightning's handler talks to other processes."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def __enter__(self) -> Interruption:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        again = self.signalled
        self.signalled = True
        if not self.waiting or (again and number == signal.SIGINT):
            raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    def agreed(self, job: Job) -> AbstractContextManager[None]:
        """Several processes stop where they have agreed to, and nowhere on their own."""
        return nullcontext() if job.size == 1 else self.deferred()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        before, self.waiting = self.waiting, True
        try:
            yield
        finally:
            self.waiting = before
