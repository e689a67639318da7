"""An experiment file: what is compared with what, on what, and what was predicted.

    title: …
    prediction: |            # committed before the first run
      …
    overrides: [data=memory_horizon]
    seeds: [0, 1, 2]
    columns: [{metric: test/accuracy, title: in distribution, best: highest}]
    panels:                  # optional: the whole table once for each
      - {label: modsum, overrides: [data.task=modsum]}
    rows:
      - {label: GateLoop, overrides: [model=gateloop]}

Every run is what ``python -m gateloop.run`` makes of the file's overrides, then the panel's, the
row's, and the seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from gateloop.document import load
from gateloop.draft import choose, shipped_file
from gateloop.errors import InputError
from gateloop.files import packed

FOLDER = "experiments"
TUNED_BY = "val/loss"  # the metric whose lowest value chooses among trials
DIGITS = 12  # decimals of a number at most; no metric has more


class Best(Enum):
    """Which value of a column is the best; ``none``: the column ranks nothing."""

    highest = "highest"
    lowest = "lowest"
    none = "none"


@dataclass
class Column:
    """A metric of the runs' summaries."""

    metric: str
    title: str
    best: Best = Best.none
    digits: int = 3


@dataclass
class Panel:
    """A setting in which every row is run: a target, a budget, a corpus.

    ``metrics``: by a column's title, the metric that stands in for it here; "" for none.
    """

    label: str = ""
    overrides: list[str] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)


@dataclass
class Row:
    """A line of the table. ``variants``: initialisations that tuning tries, each with its own
    overrides. ``reported``: the key of a published number in results/reported.yaml."""

    label: str
    overrides: list[str] = field(default_factory=list)
    variants: dict[str, list[str]] = field(default_factory=dict)
    reported: str | None = None
    section: str = ""


@dataclass
class Tuning:
    """The same trials for every row: the product of ``grid`` and the row's variants, by one seed.

    The setting with the lowest TUNED_BY over a trial's validations is run with all seeds. While
    it lies on an edge of the axis ``extend``, that axis grows by ``factor``, at most ``times``.
    """

    grid: dict[str, list[float]]
    overrides: list[str] = field(default_factory=list)
    seed: int = 0
    extend: str | None = None
    factor: float = 2.0
    times: int = 0


@dataclass
class Experiment:
    """A table of the results. ``name`` is the file's; ``given``: what a command is to name.

    ``reported``: keys of published numbers of models that have no row.
    """

    title: str
    prediction: str
    columns: list[Column]
    rows: list[Row]
    about: str = ""
    overrides: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    panels: list[Panel] = field(default_factory=lambda: [Panel()])
    tuning: Tuning | None = None
    reported: list[str] = field(default_factory=list)
    name: str = ""
    given: str = ""

    def __post_init__(self) -> None:
        self.given = self.given or self.name


def load_experiment(given: str) -> Experiment:
    """The experiment in a file, or of a name that is shipped (``memory_horizon``).

    Raises InputError where there is none, and for the first mistake in it.
    """
    path = shipped_file(given, FOLDER, "experiment")
    experiment = load(Experiment, path)
    experiment.name = experiment.given = path.stem
    if path.parent.resolve() != packed(FOLDER).resolve():  # a page names no folder of the machine
        experiment.given = f"path/to/{path.name}" if Path(given).is_absolute() else given
    try:
        _check(experiment)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return experiment


def _check(experiment: Experiment) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", experiment.name):
        raise InputError(
            f"the file's name {experiment.name!r} also names a folder of results; take small "
            "letters, digits and underscores"
        )
    parts = {"columns": experiment.columns, "rows": experiment.rows, "seeds": experiment.seeds}
    parts["panels"] = experiment.panels
    for name, part in parts.items():
        if not part:
            raise InputError(f"{name}: empty; give at least one")
    if not experiment.prediction.strip():
        raise InputError("prediction: empty; write down what you expect before the first run")
    for name, labels in {
        "rows": [row.label for row in experiment.rows],
        "panels": [panel.label for panel in experiment.panels],
        "columns": [column.title for column in experiment.columns],
        "seeds": [str(seed) for seed in experiment.seeds],
    }.items():
        twice = [label for i, label in enumerate(labels) if label in labels[:i]]
        if twice:
            raise InputError(f"{name}: {twice[0]!r} is there twice; rename or remove one")
    for i, column in enumerate(experiment.columns):
        if not 0 <= column.digits <= DIGITS:
            raise InputError(f"columns[{i}].digits: {column.digits}; must be 0 to {DIGITS}")
    titles = [column.title for column in experiment.columns]
    for i, panel in enumerate(experiment.panels):
        for title in panel.metrics:
            if title not in titles:
                raise InputError(f"panels[{i}].metrics: {title}: {choose(title, titles)}")
    tuning = experiment.tuning
    for i, row in enumerate(experiment.rows):
        if row.variants and tuning is None:
            raise InputError(
                f"rows[{i}].variants: without tuning nothing chooses between them; add tuning, or "
                "put the overrides of one into the row"
            )
    if tuning is None:
        return
    empty = [key for key, values in tuning.grid.items() if not values]
    if not tuning.grid or empty:
        raise InputError(f"tuning.grid{'.' + empty[0] if empty else ''}: empty; give values to try")
    if tuning.extend is not None and tuning.extend not in tuning.grid:
        raise InputError(
            f"tuning.extend: {tuning.extend} is no key of tuning.grid "
            f"({', '.join(tuning.grid)}); take one of them"
        )
    if tuning.extend is not None and tuning.factor <= 1:
        raise InputError(f"tuning.factor: {tuning.factor:g}; must be above 1")
    if tuning.times < 0:
        raise InputError(f"tuning.times: {tuning.times}; must be 0 or more")
