"""What whoever starts runs needs of a way to start them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gateloop.launching.seat import Seat


class Full(Exception):
    """No more is taken just now; the message says why. The same start may succeed later."""


class Launched(Protocol):
    """A command on its way. ``subprocess.Popen`` is one."""

    def poll(self) -> int | None:
        """Its exit code, or None while it goes on; returns at once."""

    def terminate(self) -> None:
        """Ask it to save and end; returns at once."""

    def wait(self) -> object:
        """Return when it has ended; ``terminate`` comes first."""


class Launcher(Protocol):
    """A way to start command lines."""

    def start(self, command: Sequence[str], log: Path, seat: Seat) -> Launched:
        """Start ``command`` on ``seat``, its output appended to ``log``.

        Raises Full, and InputError where it can never be started so.
        """
