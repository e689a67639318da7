"""A table as CSV: a line for every seed's every metric, measured or not."""

from __future__ import annotations

import csv as writer
import io

from gateloop.experiment.archive import State
from gateloop.table.content import NOT_CAUSAL, Table
from gateloop.table.words import Source, sources

HEADS = (
    "experiment panel row setting metric seed value state reported id commit hardware parameters "
    "tokens train_seconds"
).split()


def csv(table: Table) -> str:
    text = io.StringIO()
    out = writer.writer(text, lineterminator="\n")
    out.writerow(HEADS)
    for part in table.parts:
        for line in part.lines:
            runs = sources(line)
            for column in (column for column in part.columns if column.metric):
                there = line.reported.get(column.metric)
                place = [table.experiment.name, part.label, line.label, line.chosen, column.metric]
                for seed, outcome in line.outcomes.items():
                    found: list[Source | None] = [run for run in runs if run.seed == seed]
                    for run in found or [None]:
                        state, value = outcome.state.value, None
                        if run is not None and outcome.state is not State.other_corpus:
                            value = run.record.metric(column.metric)
                            state += "" if run.shown else ", and another run"
                            state += "" if run.record.causal else f", {NOT_CAUSAL}"
                        out.writerow(
                            [
                                *place,
                                seed,
                                "" if value is None else repr(value),
                                state,
                                repr(there.value) if there else "",
                                *_facts(run),
                            ]
                        )
    return text.getvalue()


def _facts(run: Source | None) -> list[object]:
    if run is None:
        return [""] * 6
    seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
    return [run.id, run.commit, run.hardware, run.parameters, run.tokens, seconds]
