"""A table as pictures: every seed's result, and every seed's curve. PNG and SVG, same bytes."""

from __future__ import annotations

import io
import statistics
from typing import Any

from gateloop.table.content import Line, Part, Table

COLOURS = ("#1f6fb4", "#c8553d", "#2a9d6f", "#8a5fbf", "#c99700", "#5b6770", "#d4588c", "#3aa6b9")


def results(table: Table) -> dict[str, bytes]:
    """A panel for each column, a line for each row: a dot for a seed, a bar at their mean.

    {"figure.png": …, "figure.svg": …}
    """
    height = 1.2 + 0.28 * max(len(part.lines) for part in table.parts)
    size = (2.4 + 2.9 * len(table.columns), height * len(table.parts))
    figure = _figure(size)
    grid = figure.subplots(
        len(table.parts), len(table.columns), squeeze=False, sharey="row", sharex="col"
    )
    for axes, part in zip(grid, table.parts, strict=True):
        labels = [line.label for line in part.lines]
        for index, (axis, column) in enumerate(zip(axes, table.columns, strict=True)):
            for place, line in enumerate(part.lines):
                values = list(line.entries[index].by_seed.values())
                ranked = "not causal" not in line.entries[index].marks
                axis.plot(
                    values,
                    [place] * len(values),
                    "o" if ranked else "x",
                    color=COLOURS[0] if ranked else COLOURS[5],
                    alpha=0.65,
                    markersize=5,
                )
                if values:
                    mean = statistics.fmean(values)
                    axis.plot([mean], [place], "|", color="black", markersize=13)
            axis.set_title(" · ".join(t for t in (part.label, column.title) if t), fontsize=9)
            axis.set_yticks(range(len(labels)), labels, fontsize=8)
            axis.grid(axis="x", alpha=0.3)
            axis.tick_params(axis="x", labelsize=8)
        axes[0].invert_yaxis()
    return _files(figure, "figure")


def curves(table: Table, metric: str) -> dict[str, bytes]:
    """Every seed's ``metric`` by training step, a colour for each row; {} where there is none."""
    figure = _figure((7.2, 0.6 + 3.1 * len(table.parts)))
    grid = figure.subplots(len(table.parts), 1, squeeze=False, sharex=True)
    drawn = False
    for (axis,), part in zip(grid, table.parts, strict=True):
        for index, line in enumerate(part.lines):
            drawn |= _curves(axis, line, metric, COLOURS[index % len(COLOURS)], index)
        axis.set_ylabel(metric, fontsize=8)
        axis.set_title(part.label, fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=2, frameon=False)
        axis.tick_params(labelsize=8)
    grid[-1][0].set_xlabel("optimiser step", fontsize=8)
    return _files(figure, "curves") if drawn else {}


def _curves(axis: Any, line: Line, metric: str, colour: str, index: int) -> bool:
    style = ("-", "--", ":", "-.")[index // len(COLOURS) % 4]
    label: str | None = line.label
    for outcome in line.outcomes.values():
        curve = (outcome.record.content if outcome.record else {}).get("curves", {}).get(metric)
        if curve:
            axis.plot(
                curve["steps"], curve["values"], style, color=colour, alpha=0.7, lw=1, label=label
            )
            label = None
    return label is None


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _files(figure: Any, name: str) -> dict[str, bytes]:
    import matplotlib

    found = {}
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            file = io.BytesIO()
            figure.savefig(file, format=form, dpi=110, metadata=metadata)
            found[f"{name}.{form}"] = file.getvalue()
    return found


__all__ = ["Part", "curves", "results"]
