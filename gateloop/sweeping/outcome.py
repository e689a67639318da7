"""How trials ended, and which is the best."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from gateloop.sweeping.file import Sweep
from gateloop.sweeping.journal import OUTCOME

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class Outcome(Enum):
    """How a trial ended, in the words that a table prints. Only what is measured is ranked."""

    measured = "measured"
    stopped = "stopped early"
    not_causal = "not causal"
    diverged = "diverged"
    failed = "failed"


def outcome(trial: FrozenTrial) -> Outcome:
    return Outcome(trial.user_attrs[OUTCOME])


def ranked(trials: list[FrozenTrial], sweep: Sweep) -> list[FrozenTrial]:
    """The best first; behind what is measured the others, kind by kind."""
    kinds = list(Outcome)

    def place(trial: FrozenTrial) -> tuple[int, float, int]:
        kind = outcome(trial)
        value = trial.value if kind is Outcome.measured and trial.value is not None else 0.0
        return kinds.index(kind), -value if sweep.maximize else value, trial.number

    return sorted(trials, key=place)


def best(trials: list[FrozenTrial], sweep: Sweep) -> FrozenTrial | None:
    """None where nothing is measured."""
    measured = [trial for trial in trials if outcome(trial) is Outcome.measured]
    return ranked(measured, sweep)[0] if measured else None


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
