"""A table in LaTeX, with booktabs: a document of its own prints it by \\input."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import groupby

from gateloop.table.content import Line, Part, Table
from gateloop.table.words import heads, legend, published, text

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"${character}$" for character in "<>|"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{
        character: f"$\\{command}$"
        for character, command in zip(
            "±×·↑↓→≤≥≈∞⊙",
            "pm times cdot uparrow downarrow rightarrow leq geq approx infty odot".split(),
            strict=True,
        )
    },
    "−": "$-$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "’": "'",
}
_CAPITALS = ("GAMMA DELTA THETA LAMDA XI PI SIGMA UPSILON PHI PSI OMEGA").split()


def latex(table: Table) -> str:
    """The tabular of every panel, one under the other, in one table environment."""
    titles = ["", *heads(table)]
    columns = "l" + "r" * (len(titles) - 1)
    lines = [
        r"% needs \usepackage{booktabs}; written by python -m gateloop.tables",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.experiment.title)}. {escaped(legend(table))}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(escaped(title) for title in titles),
    ]
    for part in table.parts:
        lines.append(r"\midrule")
        lines += [_across(part.label, len(titles))] if part.label else []
        for section, group in groupby(part.lines, key=lambda line: line.section):
            lines += [_across(section, len(titles))] if section else []
            lines += [_row(_cells(table, part, line)) for line in group]
    lines += [r"\bottomrule", r"\end{tabular}"]
    found = [there for line in table.lines for there in line.reported.values()]
    cited = dict.fromkeys(f"{there.model} ({there.source})" for there in found)
    if cited:
        lines.append(rf"\par\footnotesize Reported, not measured: {escaped('; '.join(cited))}.")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    return "".join(map(_character, " ".join(text.split())))


def _character(character: str) -> str:
    """As pdflatex prints it; what it has no glyph for becomes its plain letter, or a ?"""
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isascii():
        return character
    name = unicodedata.name(character, "")
    script, _, letter = name.partition(" LETTER ")
    if script == "GREEK SMALL" and letter.isalpha() and letter != "OMICRON":
        return f"$\\{letter.lower().replace('lamda', 'lambda')}$"
    if script == "GREEK CAPITAL" and letter in _CAPITALS:
        return f"$\\{letter.capitalize().replace('Lamda', 'Lambda')}$"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return character if script.startswith("LATIN") else plain or "?"


def _cells(table: Table, part: Part, line: Line) -> list[str]:
    cells = [escaped(line.label)]
    for column, entry in zip(table.columns, line.entries, strict=True):
        shown = escaped("; ".join([text(entry, column), *entry.marks]))
        cells.append(rf"\textbf{{{shown}}}" if entry.leads else shown)
    reported = published(table, part, line)
    return [*cells, *(escaped(cell.replace("-", "−")) for cell in reported)]


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _across(text: str, width: int) -> str:
    return rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escaped(text)}}}}} \\"
