"""How every ``python -m gateloop.…`` ends: an exit code, and at most one line on stderr."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from gateloop.errors import CRASHED, FINISHED, INTERRUPTED, Diverged, InputError, Interrupted

# In torch's words, of a CPU and of CUDA; the last is of a tensor whose bytes no number counts.
_NO_MEMORY = re.compile("can't allocate memory|out of memory|Storage size calculation overflowed")


class Parser(argparse.ArgumentParser):
    """A mistake on the command line is an InputError."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def runs_folder(text: str) -> Path:
    """What --runs-dir gives: also the runs' own runs_dir, where "${" refers to another key."""
    if "${" in text:
        raise InputError(f"--runs-dir {text}: references are refused; write the value itself")
    return Path(text)


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

    InputError exits 2, Interrupted and Ctrl-C 75, Diverged and what the memory does not hold 1,
    each with one line on stderr. Any other exception is a crash: it keeps its traceback and exits
    1. Where nobody reads what it writes it goes on; with ``ends_with_reader`` it then exits 0,
    where nobody reads stdout.
    """
    sys.stdout = cast(TextIO, Output(sys.stdout or nowhere(), ends=ends_with_reader))
    sys.stderr = cast(TextIO, Output(sys.stderr or nowhere()))
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except (InputError, Interrupted, Diverged) as error:
        code = _report(str(error), error.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        code = _report(_too_large(error), CRASHED)
    except KeyboardInterrupt:
        code = _report("interrupted; the same command again goes on", INTERRUPTED)
    sys.exit(code)


def _too_large(error: Exception) -> str:
    asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
    more = f", of which a single tensor wants {asked[1]}" if asked else ""
    return (
        f"more than the memory holds{more}; take a smaller batch at once "
        "(data.micro_batch_size), length, vocabulary or model: dry_run=true says what a run needs"
    )


def _report(message: str, code: int) -> int:
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    print(f"gateloop: {line}", file=sys.stderr)
    return code
