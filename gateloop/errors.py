"""The ways a run ends early, and their exit codes."""

FINISHED = 0
CRASHED = 1
WRONG_INPUT = 2
INTERRUPTED = 75  # EX_TEMPFAIL: the same command again goes on


class InputError(Exception):
    """Something the user gave cannot work. The message is one line: the thing, and the remedy."""

    exit_code = WRONG_INPUT


class Interrupted(Exception):
    """Stopped from outside with everything saved, or held by another process; resumable."""

    exit_code = INTERRUPTED


class Lost(Exception):
    """Another process of the same run has ended; the last checkpoint stands."""

    exit_code = CRASHED


class Diverged(Exception):
    """Training met a number that is not finite; the last good checkpoint stands."""

    exit_code = CRASHED
