"""A table in GitHub's Markdown."""

from __future__ import annotations

from gateloop.table.content import Entry, Line, Part, Table
from gateloop.table.words import number, reported_columns, sources, text


def markdown(table: Table) -> str:
    """The experiment's page: its prediction, a table for each panel, the trials, the runs."""
    experiment = table.experiment
    blocks = [f"# {experiment.title}"]
    blocks += [experiment.about.strip()] if experiment.about.strip() else []
    blocks += [f"    python -m gateloop.reproduce {experiment.name}"]
    blocks += [
        "## Prediction, written before the runs",
        experiment.prediction.strip(),
        "## Outcome",
    ]
    blocks.append(f"Mean ± standard deviation over {table.seeds} seeds." + _legend(table))
    for part in table.parts:
        blocks += [f"### {part.label}"] if part.label else []
        blocks.append(_rows([_heads(table), *(_line(table, line) for line in part.lines)]))
    blocks += _published(table)
    blocks += _trials(table)
    blocks += ["## Runs", _runs(table)]
    return "\n\n".join(blocks) + "\n"


def _legend(table: Table) -> str:
    if not any(entry.leads for entry in _entries(table)):
        return ""
    return (
        " Bold: the best of a column, and all whose paired 95 % interval against it contains 0"
        " (Student's t over the seeds that both have)."
    )


def _entries(table: Table) -> list[Entry]:
    return [entry for part in table.parts for line in part.lines for entry in line.entries]


def _heads(table: Table) -> list[str]:
    arrows = {"highest": " ↑", "lowest": " ↓", "none": ""}
    heads = ["", *(column.title + arrows[column.best.name] for column in table.columns)]
    for column in reported_columns(table):
        heads += [f"{column.title}, reported", "difference"]
    return heads


def _line(table: Table, line: Line) -> list[str]:
    cells = [_escaped(line.label)]
    for column, entry in zip(table.columns, line.entries, strict=True):
        shown = _escaped(text(entry, column))
        shown = f"**{shown}**" if entry.leads else shown
        cells.append("; ".join([shown, *entry.marks]))
    by_metric = dict(zip((c.metric for c in table.columns), line.entries, strict=True))
    for column in reported_columns(table):
        there = line.reported.get(column.metric)
        mean = by_metric[column.metric].mean
        cells.append(number(there.value, column.digits) if there else "")
        known = there is not None and mean is not None
        cells.append(f"{mean - there.value:+,.{column.digits}f}" if known else "")
    return cells


def _published(table: Table) -> list[str]:
    lines = [
        f"- {line.label}: {there.value:g}, {there.model}"
        + "".join(f", {part}" for part in (there.size, there.tokenizer, there.protocol) if part)
        + f" ({there.source}; {there.confidence})"
        for part in table.parts
        for line in part.lines
        for there in line.reported.values()
    ]
    return ["## Reported, not measured here", "\n".join(dict.fromkeys(lines))] if lines else []


def _trials(table: Table) -> list[str]:
    """Every trial with its score, those of a row in its order; what they chose in bold."""
    tuning = table.experiment.tuning
    if tuning is None:
        return []
    rows = [["panel", "row", "setting", f"lowest {tuning.metric}"]]
    for part in table.parts:
        for line in part.lines:
            for job in line.cell.trials:
                setting, score = job.setting.label, line.scores.get(job.setting)
                chosen = job.setting == line.cell.chosen
                shown = "" if score is None else number(score, 4)
                rows.append(
                    [
                        part.label,
                        _escaped(line.label),
                        _escaped(f"**{setting}**" if chosen else setting),
                        shown,
                    ]
                )
    return [f"## Trials, by seed {tuning.seed}", _rows(rows)]


def _runs(table: Table) -> str:
    heads = [
        "row",
        "setting",
        "seed",
        "parameters",
        "tokens",
        "minutes",
        "commit",
        "hardware",
        "id",
    ]
    rows = [
        [
            _escaped(source.row),
            _escaped(source.setting),
            str(source.seed),
            f"{source.parameters:,}",
            f"{source.tokens:,}",
            f"{source.seconds / 60:.1f}",
            source.commit,
            source.hardware,
            f"`{source.id}`",
        ]
        for part in table.parts
        for line in part.lines
        for source in sources(line)
    ]
    return _rows([heads, *rows]) if rows else "None yet."


def _rows(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


__all__ = ["Part", "markdown"]
