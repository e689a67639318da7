"""A sweep as pictures: its trials in their order, and what its parameters matter."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateloop.sweeping.file import Sweep
from gateloop.sweeping.outcome import Outcome, outcome
from gateloop.table.figure import WIDE
from gateloop.table.picture import COLOURS, blank, files

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

LEAST = 8  # measured trials below which nothing is said of importance
TOP = 5  # trials that are taken for the good ones, or a tenth of all where that is more


def pictures(
    study: optuna.Study, trials: list[FrozenTrial], sweep: Sweep, folder: Path
) -> dict[str, bytes]:
    """The pictures by file name, {} where nothing is measured.

    A picture in ``folder`` that already shows the same numbers is left as it is.
    """
    measured = [trial for trial in trials if outcome(trial) is Outcome.measured]
    if not measured:
        return {}
    history: Any = [
        sweep.file.metric.name,
        sweep.maximize,
        [(trial.number, trial.value) for trial in measured],
        [
            (trial.number, trial.value)
            for trial in trials
            if outcome(trial) is Outcome.stopped and trial.value is not None
        ],
    ]
    source = Path(__file__)
    found = files("history", history, partial(_history, history), folder, source)
    weights = list(importances(study, measured).items())
    if weights:
        found |= files("importance", weights, partial(_importance, weights), folder, source)
    return found


def importances(study: optuna.Study, measured: list[FrozenTrial]) -> dict[str, float]:
    """Each parameter's share, by PED-ANOVA: how far the best trials' values differ from all."""
    if len(measured) < LEAST:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP / len(measured)))
    return get_param_importances(study, evaluator=evaluator)


def _history(shown: list[Any]) -> Any:
    """A dot for each trial, a step for the best so far, a cross where a trial was stopped."""
    metric, maximize, measured, stopped = shown
    figure = blank(7.0, 3.4)
    axes = figure.subplots()
    if stopped:
        look = {"color": COLOURS[5], "markersize": 5, "label": "stopped early, last value"}
        axes.plot(*zip(*stopped, strict=True), "x", **look)
    numbers, values = zip(*measured, strict=True)
    axes.plot(numbers, values, "o", color=COLOURS[0], alpha=0.7, markersize=4.5, label="a trial")
    record = list(accumulate(values, max if maximize else min))
    axes.step(numbers, record, where="post", color=COLOURS[1], lw=1, label="the best so far")
    every = [value for _, value in [*measured, *stopped]]
    if min(every) > 0 and max(every) / min(every) > WIDE:
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial", fontsize=8)
    axes.set_ylabel(metric, fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    return figure


def _importance(shown: list[Any]) -> Any:
    names, weights = zip(*reversed(shown), strict=True)
    figure = blank(7.0, 0.9 + 0.28 * len(names))
    axes = figure.subplots()
    axes.barh(names, weights, color=COLOURS[0])
    axes.set_xlabel("share of what tells the best trials from all (PED-ANOVA)", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(labelsize=8)
    return figure
