"""A table in LaTeX, with booktabs: a document of its own prints it by \\input."""

from __future__ import annotations

from gateloop.experiment.schema import Best
from gateloop.table.content import Line, Table
from gateloop.table.words import number, reported_columns, text

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "Δ": r"$\Delta$",
    "π": r"$\pi$",
    "·": r"$\cdot$",
}


def latex(table: Table) -> str:
    """The tabular of every panel, one under the other, in one table environment."""
    published = reported_columns(table)
    columns = "l" + "r" * (len(table.columns) + 2 * len(published))
    lines = [
        r"% needs \usepackage{booktabs}; written by python -m gateloop.tables",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.experiment.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(["", *_heads(table)]),
        r"\midrule",
    ]
    for i, part in enumerate(table.parts):
        lines += [r"\midrule"] if i else []
        if part.label:
            lines.append(
                rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{escaped(part.label)}}}}} \\"
            )
        lines += [_row(_cells(table, line)) for line in part.lines]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)


def _heads(table: Table) -> list[str]:
    arrows = {Best.highest: r" $\uparrow$", Best.lowest: r" $\downarrow$", Best.none: ""}
    heads = [escaped(column.title) + arrows[column.best] for column in table.columns]
    for column in reported_columns(table):
        heads += [f"{escaped(column.title)}, reported", "difference"]
    return heads


def _cells(table: Table, line: Line) -> list[str]:
    cells = [escaped(line.label)]
    means = {}
    for column, entry in zip(table.columns, line.entries, strict=True):
        shown = "; ".join([text(entry, column), *entry.marks])
        cells.append(rf"\textbf{{{escaped(shown)}}}" if entry.leads else escaped(shown))
        means[column.metric] = entry.mean
    for column in reported_columns(table):
        there, mean = line.reported.get(column.metric), means[column.metric]
        cells.append(number(there.value, column.digits) if there else "")
        both = there is not None and mean is not None
        cells.append(f"${mean - there.value:+.{column.digits}f}$" if both else "")
    return cells


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
