"""What came of a sweep: results/sweeps/<name>/ with its page, its trials as CSV, its pictures."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateloop.errors import InputError
from gateloop.files import clear_disk_errors, packed, write_bytes_atomic
from gateloop.sweeping.file import FOLDER as SHIPPED
from gateloop.sweeping.file import Sweep
from gateloop.sweeping.outcome import Outcome, best, number, outcome, ranked
from gateloop.sweeping.pictures import pictures
from gateloop.table.markdown import escaped

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

FOLDER = "sweeps"  # in the folder of results
PICTURES = ("history.png", "history.svg", "importance.png", "importance.svg")


def check_packages(*packages: str) -> None:
    """Raise InputError where one of ``packages`` is missing, or what a local sweep needs in all."""
    from importlib.util import find_spec

    for package in packages or ("optuna", "matplotlib", "scipy"):
        if not find_spec(package):
            raise InputError(f"--local needs the package {package}; pip install {package}")


def write(sweep: Sweep, study: optuna.Study, trials: list[FrozenTrial], results: Path) -> Path:
    """Write the folder of ``sweep``'s results, from its ``trials`` that have ended; where it is."""
    folder = results / FOLDER / sweep.name
    drawn = pictures(study, trials, sweep, folder)
    files = {
        "table.md": page(sweep, trials, [name for name in drawn if name.endswith(".png")]).encode(),
        "table.csv": as_csv(sweep, trials).encode(),
        **drawn,
    }
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes_atomic(folder / name, content)
        for name in set(PICTURES) - drawn.keys():
            (folder / name).unlink(missing_ok=True)
    return folder


def command(sweep: Sweep, trial: FrozenTrial) -> str:
    """The command line of ``trial``'s run."""
    return shlex.join(["python", "-m", "gateloop.run", *sweep.arguments(trial.params)])


def counts(trials: list[FrozenTrial]) -> str:
    """ "20 trials: 14 measured, 6 stopped early" """
    found = Counter(outcome(trial) for trial in trials)
    parts = [f"{found[kind]} {kind.value}" for kind in Outcome if found[kind]]
    total = "1 trial" if len(trials) == 1 else f"{len(trials)} trials"
    return total + (f": {', '.join(parts)}" if parts else "")


def page(sweep: Sweep, trials: list[FrozenTrial], shown: list[str]) -> str:
    """The page, in Markdown."""
    metric = sweep.file.metric.name
    given = [f"--set={change}" for change in sweep.changes]
    made = shlex.join(["python", "-m", "gateloop.sweep", _named(sweep), "--local", *given])
    order = "highest" if sweep.maximize else "lowest"
    blocks = [
        f"# Sweep: {escaped(sweep.file.name or sweep.name)}",
        f"    {made}",
        f"Method {sweep.file.method.name}"
        + (", with hyperband" if sweep.file.early_terminate else "")
        + f". A trial's value is the {order} {metric} of its validations after the first step. "
        + f"{counts(trials)}.",
        "## Best",
        *_best(sweep, trials),
        *(f"![{name.partition('.')[0]}]({name})" for name in shown),
        "## Trials",
        _table(sweep, trials) if trials else "None yet.",
    ]
    return "\n\n".join(blocks) + "\n"


def _named(sweep: Sweep) -> str:
    """The sweep as the command line takes it."""
    path = sweep.path
    return path.stem if path.parent == packed(SHIPPED) else path.as_posix()


def _best(sweep: Sweep, trials: list[FrozenTrial]) -> list[str]:
    first = best(trials, sweep)
    if first is None:
        return ["No trial is measured."]
    values = [t.value for t in trials if outcome(t) is Outcome.measured and t.value is not None]
    said = (
        f"{sweep.file.metric.name} {number(first.value)}, trial {first.number}, run "
        f"`{first.user_attrs['run']}`; the median of what is measured is "
        f"{number(statistics.median(values))}."
    )
    return [said, f"    {command(sweep, first)}"]


def _table(sweep: Sweep, trials: list[FrozenTrial]) -> str:
    names = [axis.key for axis in sweep.varied]
    heads = ["", sweep.file.metric.name, *names, "validations", "minutes", "trial", "run"]
    lines = [heads]
    for place, trial in enumerate(ranked(trials, sweep), start=1):
        kind = outcome(trial)
        is_measured = kind is Outcome.measured
        lines.append(
            [
                str(place) if is_measured else "",
                number(trial.value) if is_measured else kind.value,
                *(escaped(_text(trial.params.get(name, ""))) for name in names),
                str(trial.user_attrs.get("validations", "")),
                f"{trial.user_attrs.get('seconds', 0) / 60:.1f}",
                str(trial.number),
                f"`{trial.user_attrs['run']}`" if "run" in trial.user_attrs else "",
            ]
        )
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|---" * len(heads) + "|", *rows[1:]])


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_csv(sweep: Sweep, trials: list[FrozenTrial]) -> str:
    """A line for each trial, in the order that they were begun."""
    names = [axis.key for axis in sweep.varied]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    heads = ["trial", "outcome", sweep.file.metric.name, *names, "validations", "seconds", "run"]
    out.writerow(heads)
    for trial in sorted(trials, key=lambda trial: trial.number):
        kind, facts = outcome(trial), trial.user_attrs
        value = repr(trial.value) if kind is Outcome.measured else ""
        settings = (trial.params.get(name, "") for name in names)
        measured = [facts.get("validations", ""), facts.get("seconds", "")]
        out.writerow([trial.number, kind.value, value, *settings, *measured, facts.get("run", "")])
    return text.getvalue()
