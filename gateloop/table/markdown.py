"""A table in GitHub's Markdown."""

from __future__ import annotations

from itertools import groupby

from gateloop.experiment.archive import State
from gateloop.experiment.schema import TUNED_BY
from gateloop.table.content import Line, Part, Table, Trial
from gateloop.table.words import heads, legend, published, sources, text

LONG = 12  # lines of a list; a longer one is folded away


def markdown(table: Table, pictures: list[str], outcome: str = "") -> str:
    """The experiment's page: its prediction, a table for each panel, the trials, the runs.

    ``pictures``: names of files beside it. ``outcome``: what a person says of it.
    """
    experiment = table.experiment
    blocks = [f"# {experiment.title}"]
    blocks += [experiment.about.strip()] if experiment.about.strip() else []
    blocks += [
        f"    python -m gateloop.reproduce {experiment.given}",
        "## Prediction, written before the runs",
        experiment.prediction.strip(),
        "## Outcome",
        legend(table),
    ]
    for part in table.parts:
        blocks += [f"### {part.label}"] if part.label else []
        nothing = part.is_empty and not any(line.reported for line in part.lines)
        blocks.append(_nothing(part) if nothing else panel_table(table, part))
    blocks += [f"![{experiment.title}]({name})" for name in pictures]
    blocks += [outcome.strip()] if outcome.strip() else []
    blocks += _published(table)
    blocks += _trials(table)
    blocks += ["## Runs", *_runs(table)]
    return "\n\n".join(blocks) + "\n"


def _nothing(part: Part) -> str:
    """In place of a table: one with nothing but missing cells says no more."""
    ended = sum(trial.score is not None for line in part.lines for trial in line.trials)
    tuned = f"; {ended} trials have run" if ended else ""
    return f"Not measured yet: {', '.join(escaped(line.label) for line in part.lines)}{tuned}."


def panel_table(table: Table, part: Part) -> str:
    titles = ["", *heads(table)]
    rows = [titles]
    for section, lines in groupby(part.lines, key=lambda line: line.section):
        rows += [[f"*{escaped(section)}*", *[""] * (len(titles) - 1)]] if section else []
        rows += [_line(table, part, line) for line in lines]
    return _rows(rows)


def _line(table: Table, part: Part, line: Line) -> list[str]:
    cells = [escaped(line.label)]
    for column, entry in zip(table.columns, line.entries, strict=True):
        shown = escaped(text(entry, column))
        cells.append("; ".join([f"**{shown}**" if entry.leads else shown, *entry.marks]))
    return [*cells, *published(table, part, line)]


def _published(table: Table) -> list[str]:
    of_rows = [(line.label, there) for line in table.lines for there in line.reported.values()]
    alone = [("", there) for numbers in table.reported.values() for there in numbers.values()]
    lines = [
        (f"- {escaped(label)}: " if label else "- ")
        + f"{there.value:g} {there.metric}, {there.model}"
        + "".join(f", {part}" for part in (there.size, there.tokenizer, there.protocol) if part)
        + f" ({there.source}; {there.confidence.value})"
        for label, there in [*of_rows, *alone]
    ]
    return ["## Reported, not measured here", "\n".join(dict.fromkeys(lines))] if lines else []


def _trials(table: Table) -> list[str]:
    """Every trial's score, a column for each value of the grid's last axis; the chosen bold.

    Rows of which no trial was begun are left out, and those whose trials stand there already,
    under a panel with another budget.
    """
    tuning = table.experiment.tuning
    if tuning is None:
        return []
    axis = tuning.extend or list(tuning.grid)[-1]
    tuned, shown = [], set()
    for line in table.lines:
        keys = frozenset(trial.job.key for trial in line.trials)
        if keys not in shown and any(trial.state is not State.missing for trial in line.trials):
            tuned.append(line)
            shown.add(keys)
    trials = [trial for line in tuned for trial in line.trials]
    if not trials:
        return []
    values = sorted({dict(trial.job.setting.point)[axis] for trial in trials})
    name = axis.rpartition(".")[2]
    rows = [["", "", "", *(f"{name} {value:g}" for value in values)]]
    for line in tuned:
        by_setting: dict[str, dict[float, str]] = {}
        for trial in line.trials:
            point = dict(trial.job.setting.point)
            value = point.pop(axis)
            others = (f"{key.rpartition('.')[2]} {v:g}" for key, v in point.items())
            label = ", ".join(part for part in (trial.job.setting.variant, *others) if part)
            chosen = trial.job.setting == line.cell.chosen
            by_setting.setdefault(label, {})[value] = _score(trial, chosen)
        place = [line.cell.panel.label, escaped(line.label)]
        rows += [
            [*place, escaped(label), *(found.get(v, "") for v in values)]
            for label, found in by_setting.items()
        ]
    rows = _without_empty_columns(rows)
    about = (
        f"The lowest {TUNED_BY} of each trial, by seed {tuning.seed}; bold: what the final "
        "runs took."
    )
    return ["## Trials", about, *_folded(rows, f"{len(trials)} trials")]


def _score(trial: Trial, chosen: bool) -> str:
    if trial.score is None or trial.state is not State.measured:
        return trial.state.value
    return f"**{trial.score:.4g}**" if chosen else f"{trial.score:.4g}"


def _runs(table: Table) -> list[str]:
    """Where every number comes from: a line for each run."""
    rows = [
        [
            escaped(part.label),
            escaped(line.label),
            escaped(line.chosen),
            str(run.seed),
            "" if run.parameters is None else f"{run.parameters:,}",
            "" if run.tokens is None else f"{run.tokens:,}",
            "" if run.seconds is None else f"{run.seconds / 60:.1f}",
            run.commit,
            escaped(run.hardware),
            f"`{run.id}`" + ("" if run.shown else ", a duplicate, not in the table"),
        ]
        for part in table.parts
        for line in part.lines
        for run in sources(line)
    ]
    if not rows:
        return ["None yet."]
    titles = ["", "", "setting", "seed", "parameters", "tokens", "minutes", "commit", "hardware"]
    rows = _without_empty_columns([[*titles, "id"], *rows])
    note = "+ after a commit: the working tree had changes, which the record lists."
    return [*_folded(rows, f"{len(rows) - 1} runs"), note]


def _folded(rows: list[list[str]], summary: str) -> list[str]:
    if len(rows) <= LONG:
        return [_rows(rows)]
    return [f"<details><summary>{summary}</summary>", _rows(rows), "</details>"]


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    used = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    return [[row[i] for i in used] for row in rows]


def _rows(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def escaped(text: str) -> str:
    """``text`` as one cell shows it."""
    for character in "\\|*`":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("<", "&lt;").split())
