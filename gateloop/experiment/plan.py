"""What an experiment runs: its trials, the settings they choose, and the runs of its table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from itertools import product
from typing import Any

from gateloop.compose import compose_started
from gateloop.config import Config
from gateloop.draft import choose
from gateloop.errors import InputError
from gateloop.experiment.corpus import own_paths
from gateloop.experiment.schema import TUNED_BY, Experiment, Panel, Row, Tuning
from gateloop.identity import identity


class Stage(Enum):
    """A trial only helps to choose; a final run fills the table."""

    trial = "trial"
    final = "final"


@dataclass(frozen=True)
class Setting:
    """What tuning varies: an initialisation by its label, and a value for each key of the grid."""

    variant: str = ""
    point: tuple[tuple[str, float], ...] = ()

    @property
    def label(self) -> str:
        values = [f"{key.rpartition('.')[2]} {value:g}" for key, value in self.point]
        return ", ".join([self.variant, *values] if self.variant else values)

    def overrides(self, row: Row) -> list[str]:
        values = [f"{key}={value!r}" for key, value in self.point]
        return [*row.variants.get(self.variant, []), *values]


@dataclass(frozen=True)
class Job:
    """One run. ``recipe``: its identity as text, whatever corpus it reads."""

    panel: str
    row: str
    stage: Stage
    seed: int
    setting: Setting
    arguments: tuple[str, ...]
    config: Config = field(repr=False, compare=False)
    recipe: str = field(repr=False)

    @property
    def key(self) -> str:
        """Tells it from every other."""
        paths = own_paths(self.config.data)
        return self.recipe + json.dumps(paths) if paths else self.recipe

    @property
    def title(self) -> str:
        """For a line of progress: modsum · GateLoop · lr 0.001 · seed 0."""
        named = [self.panel, self.row, self.setting.label, f"seed {self.seed}"]
        return " · ".join(part for part in named if part)


@dataclass
class Cell:
    """A row in a panel: its trials so far, what they chose, and a run for each seed.

    ``final`` is empty until the trials are through; until then ``later`` has as many runs, whose
    setting is not theirs yet. ``failure`` says why the trials chose nothing.
    """

    panel: Panel
    row: Row
    trials: list[Job] = field(default_factory=list)
    chosen: Setting | None = None
    final: list[Job] = field(default_factory=list)
    later: list[Job] = field(default_factory=list)
    failure: str = ""

    @property
    def jobs(self) -> list[Job]:
        return [*self.trials, *self.final]


# The lowest value that a trial's validations had: None before it ran, infinity where it has none.
Score = Callable[[Job], "float | None"]


def recipe_of(described: dict[str, Any]) -> str:
    """A run's identity as text, without the corpus's fingerprint: that needs the corpus."""
    known = {"seed": Config.seed, **described}
    known.pop("fingerprint", None)
    return json.dumps(known, sort_keys=True, separators=(",", ":"))


def merged(*lists: Iterable[str]) -> list[str]:
    """Overrides in one list; of two of the same key the later counts."""
    found: dict[str, str] = {}
    for overrides in lists:
        for override in overrides:
            found[override.partition("=")[0]] = override
    return list(found.values())


def plan(
    experiment: Experiment,
    score: Score,
    *,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> list[Cell]:
    """The experiment's cells, panel by panel, as far as what has run decides them.

    ``seeds`` in place of the file's; ``only`` these rows; ``changes`` overrule every override.
    Raises InputError where a row of ``only`` is not there, and where a run does not compose.
    """
    labels = [row.label for row in experiment.rows]
    for label in only:
        if label not in labels:
            raise InputError(f"--only {label}: no such row; {choose(label, labels)}")
    seeds = experiment.seeds if seeds is None else seeds
    tried = [experiment.tuning.seed] if experiment.tuning else []
    for seed in (min(seeds), max(seeds), *tried):  # those between them then compose as well
        _composed((f"seed={seed}",))
    cells = [
        Cell(panel, row)
        for panel in experiment.panels
        for row in experiment.rows
        if not only or row.label in only
    ]
    for cell in cells:
        base = merged(experiment.overrides, cell.panel.overrides, cell.row.overrides)
        if experiment.tuning is None:
            cell.chosen = Setting()
        else:
            _tune(cell, experiment.tuning, score, base, changes)
        runs = [
            _job(cell, Stage.final, seed, cell.chosen or cell.trials[0].setting, base, changes)
            for seed in (experiment.seeds if seeds is None else seeds)
        ]
        if cell.chosen is not None:
            cell.final = runs
        elif not cell.failure:
            cell.later = runs
    return cells


def _tune(
    cell: Cell, tuning: Tuning, score: Score, base: list[str], changes: Sequence[str]
) -> None:
    """Fill in the trials; once all have run, the setting that has the lowest score."""
    axes = {key: sorted(values) for key, values in tuning.grid.items()}
    base = merged(base, tuning.overrides)
    best: Job | None = None
    for extensions_left in reversed(range(tuning.times + 1)):
        try:
            cell.trials = [
                _job(cell, Stage.trial, tuning.seed, setting, base, changes)
                for setting in _settings(cell.row, axes)
            ]
        except InputError:
            if best is None:
                raise
            cell.chosen = best.setting  # the axis ends here: a run admits no more
            return
        scores = {job: value for job in cell.trials if (value := score(job)) is not None}
        if len(scores) < len(cell.trials):
            return
        best = min(scores, key=lambda job: scores[job])
        if scores[best] == math.inf:
            cell.failure = f"none of {len(scores)} trials has a finite {TUNED_BY}"
            return
        if not extensions_left or not _extend(axes, best.setting, tuning):
            cell.chosen = best.setting
            return


def _settings(row: Row, axes: dict[str, list[float]]) -> list[Setting]:
    return [
        Setting(variant, tuple(zip(axes, values, strict=True)))
        for variant in row.variants or [""]
        for values in product(*axes.values())
    ]


def _extend(axes: dict[str, list[float]], best: Setting, tuning: Tuning) -> bool:
    """Add a value beyond the edge that the best setting lies on; False where it lies on none."""
    if tuning.extend is None:
        return False
    axis, value = axes[tuning.extend], dict(best.point)[tuning.extend]
    if value == axis[0]:
        axis.insert(0, _like(value, value / tuning.factor))
    elif value == axis[-1]:
        axis.append(_like(value, value * tuning.factor))
    else:
        return False
    return True


def _like(old: float, new: float) -> float:
    """``new`` to six digits; a whole number beside a whole one, for a key that takes no other."""
    new = float(f"{new:.6g}")
    return int(new) if isinstance(old, int) and new.is_integer() else new


@cache
def _composed(arguments: tuple[str, ...]) -> tuple[Config, dict[str, Any]]:
    config = compose_started(list(arguments))
    return config, identity(config)


def _job(
    cell: Cell, stage: Stage, seed: int, setting: Setting, base: list[str], changes: Sequence[str]
) -> Job:
    overrides = merged(base, setting.overrides(cell.row), changes)
    arguments = merged(overrides, [f"seed={seed}"])
    try:
        config, described = _composed(tuple(overrides))
    except InputError as error:
        place = " · ".join(part for part in (cell.panel.label, cell.row.label) if part)
        raise InputError(f"{place}: {error}") from error
    return Job(
        panel=cell.panel.label,
        row=cell.row.label,
        stage=stage,
        seed=seed,
        setting=setting,
        arguments=tuple(arguments),
        config=replace(config, seed=seed),
        recipe=recipe_of({**described, "seed": seed}),
    )
