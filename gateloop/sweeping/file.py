"""A sweep file, in W&B's schema: which parameters are varied, how, and what is to be lowest.

    method: bayes
    metric: {name: val/loss, goal: minimize}
    early_terminate: {type: hyperband, min_iter: 3, eta: 2}
    run_cap: 40
    command: ["${env}", python, "-m", gateloop.run, "${args_no_hyphens}"]
    parameters:
      model: {value: gateloop}
      optimizer.lr: {distribution: log_uniform_values, min: 0.001, max: 0.1}
      model.heads: {values: [1, 4, 16]}

``wandb sweep`` takes the same file. Every trial is what ``python -m gateloop.run`` makes of one
value for each parameter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any

from gateloop.compose import compose_started, parse
from gateloop.config import Config, TextConfig
from gateloop.document import load
from gateloop.draft import choose, shipped_file
from gateloop.errors import InputError
from gateloop.experiment.corpus import own_paths
from gateloop.experiment.plan import recipe_of
from gateloop.identity import digest, identity
from gateloop.sweeping.axis import Axis, Parameter, as_axis

FOLDER = "sweeps"
COMMAND = ["${env}", "python", "-m", "gateloop.run", "${args_no_hyphens}"]
METRICS = ("val/loss", "val/accuracy", "val/perplexity", "val/word_perplexity", "val/bits_per_byte")
OF_TEXT = METRICS[2:]
MOST_POINTS = 1_000  # of a grid


class Method(Enum):
    grid = "grid"
    random = "random"
    bayes = "bayes"


class Goal(Enum):
    minimize = "minimize"
    maximize = "maximize"


class Stopping(Enum):
    hyperband = "hyperband"


@dataclass
class Metric:
    """What a trial's validations measure; the best of them is the trial's value."""

    name: str
    goal: Goal = Goal.minimize


@dataclass
class EarlyTerminate:
    """Hyperband: a trial is compared with others after ``min_iter`` validations, then after
    ``eta`` times as many, and so on; or backwards from ``max_iter``, ``s`` times."""

    type: Stopping
    min_iter: int | None = None
    max_iter: int | None = None
    s: int | None = None
    eta: int = 3
    strict: bool = False


@dataclass
class SweepFile:
    """The file as W&B's schema has it. ``name`` is what W&B displays."""

    method: Method
    metric: Metric
    parameters: dict[str, Parameter]
    command: list[str]
    name: str = ""
    description: str = ""
    project: str | None = None
    entity: str | None = None
    program: str | None = None
    run_cap: int | None = None
    early_terminate: EarlyTerminate | None = None


@dataclass
class Sweep:
    """A sweep that holds together. ``name``, the file's own, also names its folder of results.

    ``changes``: parameters set over the file's, "key=value".
    """

    name: str
    path: Path
    file: SweepFile
    axes: list[Axis]
    changes: list[str] = field(default_factory=list)

    @property
    def varied(self) -> list[Axis]:
        return [axis for axis in self.axes if not axis.fixed]

    @property
    def maximize(self) -> bool:
        return self.file.metric.goal is Goal.maximize

    def arguments(self, values: dict[str, Any]) -> list[str]:
        """A run's arguments: ``values`` for what is varied, and what is fixed."""
        return [
            axis.argument(axis.choices[0] if axis.fixed else values[axis.key]) for axis in self.axes
        ]

    def config(self, values: dict[str, Any]) -> Config:
        """The run of ``values``. Raises InputError where it does not compose."""
        return compose_started(self.arguments(values))

    def first(self) -> Config:
        """The run at the first value of every parameter."""
        return self.config({axis.key: axis.corners[0] for axis in self.varied})

    def points(self) -> list[dict[str, Any]]:
        """Every setting of a grid. Raises InputError where there are too many."""
        axes = {axis.key: axis.grid() for axis in self.varied}
        try:
            number: float = math.prod(map(len, axes.values()))
        except OverflowError:  # a range of more than len can tell
            number = math.inf
        if number > MOST_POINTS:
            raise InputError(
                f"{self.path}: the grid has {number:,} points; take fewer values, or method random"
            )
        return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]

    def definition(self) -> dict[str, Any]:
        """What makes a study this sweep's: not how many trials there are, nor where a WikiText
        lies."""
        config = self.first()
        described = {**json.loads(recipe_of(identity(config))), **own_paths(config.data)}
        for axis in self.varied:
            described.pop(axis.key, None)
        stop = self.file.early_terminate
        return {
            "method": self.file.method.name,
            "metric": [self.file.metric.name, self.file.metric.goal.name],
            "early_terminate": stop and [stop.min_iter, stop.max_iter, stop.s, stop.eta],
            "parameters": {
                axis.key: [axis.kind.name, list(map(str, axis.corners)), axis.step]
                for axis in self.varied
            },
            "run": described,
        }


def load_sweep(given: str, changes: list[str] | None = None) -> Sweep:
    """The sweep in a file, or of a name that is shipped (``gateloop_memory_horizon``).

    ``changes`` ("key=value") fix parameters; those that make other runs make another sweep, which
    has a name of its own. Raises InputError where there is no file, and for the first mistake in
    it: in W&B's schema, in a parameter's name or in a value that a run would refuse.
    """
    path = shipped_file(given, FOLDER, "sweep")
    file = load(SweepFile, path)
    try:
        sweep = _checked(path, file, changes or [])
        if changes and not _is_same(sweep, _checked(path, file, [])):
            sweep.name += f"_{digest({'changes': sorted(changes)})}"
        for values in probes(sweep):
            _check_metric(file.metric.name, sweep.config(values))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return sweep


def _is_same(changed: Sweep, sweep: Sweep) -> bool:
    definition = changed.definition()
    try:
        return sweep.definition() == definition
    except InputError:  # it lacks what the changes supply
        return False


def _check_metric(metric: str, config: Config) -> None:
    if metric in OF_TEXT and not isinstance(config.data, TextConfig):
        rest = ", ".join(name for name in METRICS if name not in OF_TEXT)
        raise InputError(
            f"metric.name: {metric} is only measured of text, and data is {config.data.name}; "
            f"take one of {rest}"
        )


def probes(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Settings that must compose as runs: each parameter's choices or ends, the others at their
    first; all at their last; of a grid every point."""
    if sweep.file.method is Method.grid:
        yield from sweep.points()
        return
    first = {axis.key: axis.corners[0] for axis in sweep.varied}
    yield first
    for axis in sweep.varied:
        yield from ({**first, axis.key: corner} for corner in axis.corners[1:])
    yield {axis.key: axis.corners[-1] for axis in sweep.varied}


def _checked(path: Path, file: SweepFile, changes: list[str]) -> Sweep:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", path.stem):
        raise InputError(
            f"the file's name {path.stem!r} also names a folder of results; take small letters, "
            "digits and underscores"
        )
    if file.command != COMMAND:
        raise InputError(f"command: a trial is a run; write command: {json.dumps(COMMAND)}")
    if file.metric.name not in METRICS:
        raise InputError(
            f"metric.name: {file.metric.name} is nothing that a validation measures; "
            f"{choose(file.metric.name, list(METRICS))}"
        )
    if file.run_cap is not None and file.run_cap < 1:
        raise InputError(f"run_cap: {file.run_cap}; must be at least 1")
    _check_stopping(file.early_terminate)
    given = {override.key: override.text for override in map(parse, changes)}
    parameters = {
        **file.parameters,
        **{key: Parameter(value=text) for key, text in given.items()},
    }
    axes = [as_axis(key, parameter) for key, parameter in parameters.items()]
    sweep = Sweep(path.stem, path, file, axes, changes)
    if not sweep.varied:
        raise InputError("parameters: nothing is varied; give values, or min and max")
    return sweep


def _check_stopping(stop: EarlyTerminate | None) -> None:
    if stop is None:
        return
    forward, backward = stop.min_iter is not None, stop.max_iter is not None
    if forward == backward:
        raise InputError("early_terminate: give min_iter, or max_iter and s")
    if backward and stop.s is None:
        raise InputError("early_terminate.s: missing; how many times max_iter is divided by eta")
    for name in ("min_iter", "max_iter", "s"):
        number = getattr(stop, name)
        if number is not None and number < 1:
            raise InputError(f"early_terminate.{name}: {number}; must be at least 1")
    if stop.eta < 2:
        raise InputError(f"early_terminate.eta: {stop.eta}; must be at least 2")
