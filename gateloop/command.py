"""How every ``python -m gateloop.…`` ends: an exit code, and at most one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO, cast

from gateloop.errors import FINISHED, INTERRUPTED, Diverged, InputError, Interrupted


class Parser(argparse.ArgumentParser):
    """A mistake on the command line is an InputError."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


class Output:
    """A stream whose reader may leave (`| head`): what it is given from then on is lost.

    ``ends``: it is all that the command is for, and so the command exits 0 there.
    """

    def __init__(self, stream: TextIO, *, ends: bool = False) -> None:
        self.stream, self.ends = stream, ends
        if hasattr(stream, "reconfigure"):  # help and messages hold σ, β and ≥
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._reader_may_leave():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._reader_may_leave():
            self.stream.flush()

    @contextmanager
    def _reader_may_leave(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if self.ends:
                sys.exit(FINISHED)


def nowhere() -> TextIO:
    """In place of a stream that was closed before the start, which Python has as None."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def run_command(main: Callable[[list[str]], int], *, ends_with_reader: bool = False) -> NoReturn:
    """Run ``main`` on the command line's arguments and exit with its code.

    InputError exits 2, Interrupted and Ctrl-C 75, Diverged 1, each with one line on stderr. Any
    other exception is a crash: it keeps its traceback and exits 1. Where nobody reads what it
    writes it goes on; with ``ends_with_reader`` it then exits 0, where nobody reads stdout.
    """
    sys.stdout = cast(TextIO, Output(sys.stdout or nowhere(), ends=ends_with_reader))
    sys.stderr = cast(TextIO, Output(sys.stderr or nowhere()))
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except (InputError, Interrupted, Diverged) as error:
        code = _report(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _report("interrupted; the same command again goes on", INTERRUPTED)
    sys.exit(code)


def _report(message: str, code: int) -> int:
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    print(f"gateloop: {line}", file=sys.stderr)
    return code
