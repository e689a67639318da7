"""A table as CSV: a line for every seed's every metric, measured or not."""

from __future__ import annotations

import csv as writer
import io

from gateloop.table.content import Table
from gateloop.table.words import sources

HEADS = (
    "experiment panel row setting metric seed value state id commit hardware parameters tokens "
    "train_seconds"
).split()


def csv(table: Table) -> str:
    text = io.StringIO()
    out = writer.writer(text, lineterminator="\n")
    out.writerow(HEADS)
    for part in table.parts:
        for line in part.lines:
            by_seed = {source.seed: source for source in sources(line)}
            for column, entry in zip(table.columns, line.entries, strict=True):
                for seed, outcome in line.outcomes.items():
                    source = by_seed.get(seed)
                    state = outcome.state.value
                    if outcome.record is not None and not outcome.record.causal:
                        state += ", not causal"
                    facts = (
                        [
                            source.id,
                            source.commit,
                            source.hardware,
                            source.parameters,
                            source.tokens,
                            f"{source.seconds:.1f}",
                        ]
                        if source
                        else [""] * 6
                    )
                    value = entry.by_seed.get(seed)
                    out.writerow(
                        [
                            table.experiment.name,
                            part.label,
                            line.label,
                            line.chosen,
                            column.metric,
                            seed,
                            "" if value is None else repr(value),
                            state,
                            *facts,
                        ]
                    )
    return text.getvalue()
