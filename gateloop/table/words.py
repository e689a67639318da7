"""What a table says in every form: the text of an entry, and where its runs come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gateloop.experiment.archive import State
from gateloop.experiment.schema import Column
from gateloop.table.content import Entry, Line, Table


def number(value: float, digits: int) -> str:
    """With ``digits`` decimals; large ones with fewer, tiny ones in powers of ten."""
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value:,.{digits if abs(value) < 100 else min(digits, 1)}f}"


def text(entry: Entry, column: Column, plus_minus: str = "±") -> str:
    """ "0.995 ± 0.004", how many seeds where some are not measured, and how those stand."""
    missing = Counter(entry.states)
    states = ", ".join(f"{n} {state}" if n > 1 else state for state, n in missing.items())
    if entry.mean is None:
        return states or State.missing.value
    shown = number(entry.mean, column.digits)
    if entry.deviation is not None:
        shown += f" {plus_minus} {number(entry.deviation, column.digits)}"
    aside = [f"n = {entry.seeds}"] if entry.states else []
    return shown + (f" ({', '.join([*aside, states])})" if states else "")


def reported_columns(table: Table) -> list[Column]:
    """Those for which some row has a published number."""
    named = {m for part in table.parts for line in part.lines for m in line.reported}
    return [column for column in table.columns if column.metric in named]


@dataclass(frozen=True)
class Source:
    """One run behind a line."""

    row: str
    setting: str
    seed: int
    id: str
    commit: str
    hardware: str
    parameters: int
    tokens: int
    seconds: float


def sources(line: Line) -> list[Source]:
    found = []
    for seed, outcome in line.outcomes.items():
        if outcome.record is None:
            continue
        content = outcome.record.content
        commit = (content.get("commit") or "no commit")[:7]
        hardware = [content.get("device"), content.get("processor")]
        found.append(
            Source(
                row=line.label,
                setting=line.chosen,
                seed=seed,
                id=outcome.record.id,
                commit=commit + ("+" if content.get("dirty") else ""),
                hardware=" on ".join(str(part) for part in dict.fromkeys(hardware) if part),
                parameters=int(content.get("parameters") or 0),
                tokens=int(content.get("tokens_seen") or 0),
                seconds=float(content.get("train_seconds") or 0.0),
            )
        )
    return found
