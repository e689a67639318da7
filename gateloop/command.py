"""How every ``python -m gateloop.…`` ends: an exit code, and at most one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from gateloop.errors import INTERRUPTED, Diverged, InputError, Interrupted


class Parser(argparse.ArgumentParser):
    """A mistake on the command line is an InputError."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run ``main`` on the command line's arguments and exit with its code.

    InputError exits 2, Interrupted and Ctrl-C 75, Diverged 1, each with one line on stderr. Any
    other exception is a crash: it keeps its traceback and exits 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # help and messages hold σ, β and ≥
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except (InputError, Interrupted, Diverged) as error:
        code = _report(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _report("interrupted; the same command again goes on", INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain once more at its own exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _report(message: str, code: int) -> int:
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    print(f"gateloop: {line}", file=sys.stderr)
    return code
