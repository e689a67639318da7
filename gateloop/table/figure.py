"""A table as pictures: every seed's result, and every seed's curve. PNG and SVG, same bytes."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from gateloop.table.content import Line, Part, Table
from gateloop.table.picture import COLOURS, blank, files
from gateloop.table.words import reported_columns

STYLES = ("-", "--", ":", "-.")
CURVE = "val/loss"
PLAIN: dict[str, Any] = {"parse_math": False}  # of two $ matplotlib would make a formula
WIDE = 20.0  # values that lie further apart than this factor are drawn on a logarithmic axis
MANY = 500  # lines or dots of a panel; more in an SVG would be too much for a browser
TICKS = 5  # intervals of a linear axis at most, so that their numbers do not touch


def pictures(table: Table, folder: Path) -> dict[str, bytes]:
    """The pictures by file name, {} where nothing is measured.

    A picture in ``folder`` that already shows the same numbers is left as it is, since another
    version of matplotlib draws the same numbers with other bytes.
    """
    found: dict[str, bytes] = {}
    for name, shown, draw in (
        ("figure", _numbers(table), _results),
        ("curves", _curve_numbers(table), _curves),
    ):
        if shown:
            found |= files(name, shown, partial(draw, table), folder, Path(__file__))
    return found


# -- what is drawn -----------------------------------------------------------------------


def _numbers(table: Table) -> list[Any]:
    """Everything that the results' picture shows; [] where no run has a number."""
    entries = [
        [part.label, line.label, sorted(entry.by_seed.items()), entry.states, entry.ranked]
        for part in table.parts
        for line in part.lines
        for entry in line.entries
    ]
    reported = [[line.label, m, r.value] for line in table.lines for m, r in line.reported.items()]
    titles = [column.title for column in table.columns]
    return [titles, entries, reported] if any(entry[2] for entry in entries) else []


def _curve_numbers(table: Table) -> list[Any]:
    """Everything that the curves' picture shows, all rows' labels too, which choose the colours."""
    found = [
        [part.label, line.label, curves]
        for part in table.parts
        for line in part.lines
        if (curves := _curves_of(line))
    ]
    return [[row.label for row in table.experiment.rows], found] if found else []


def _curves_of(line: Line) -> list[list[tuple[float, float]]]:
    """Each seed's (step, value) pairs, those that are finite."""
    found = []
    for outcome in line.outcomes.values():
        curves = (outcome.record.content.get("curves") if outcome.record else None) or {}
        curve = curves.get(CURVE, {"steps": [], "values": []})
        pairs = zip(curve["steps"], curve["values"], strict=True)
        found.append([(s, v) for s, v in pairs if v is not None and math.isfinite(v)])
    return [curve for curve in found if curve]


# -- drawing -----------------------------------------------------------------------------


def _results(table: Table) -> Any:
    """A panel for each column, a line for each row: a dot for a seed, a bar at their mean."""
    parts = [part for part in table.parts if not part.is_empty]
    rows = max(len(part.lines) for part in parts)
    columns = len(table.columns)
    figure = blank(2.2 + 2.6 * columns, 0.5 + (0.7 + 0.22 * rows) * len(parts))
    grid = figure.subplots(len(parts), columns, squeeze=False, sharey="row", sharex="col")
    for index, column in enumerate(table.columns):
        values = [v for line in table.lines for v in line.entries[index].by_seed.values()]
        if _is_wide(values) and "accuracy" not in column.metric:
            grid[0][index].set_xscale("log")
        else:
            grid[0][index].locator_params(axis="x", nbins=TICKS)
        for axes, part in zip(grid, parts, strict=True):
            axis = axes[index]
            _dots(axis, part, index, column.metric)
            title = " · ".join(t for t in (part.label, column.title) if t)
            axis.set_title(title, fontsize=9, **PLAIN)
            axis.set_yticks(range(len(part.lines)), [line.label for line in part.lines], **PLAIN)
            axis.set_ylim(len(part.lines) - 0.4, -0.6)
            axis.grid(axis="x", alpha=0.3)
            axis.tick_params(labelsize=8)
    figure.supxlabel(_key(table), fontsize=8)
    return figure


def _dots(axis: Any, part: Part, index: int, metric: str) -> None:
    dots: list[tuple[float, int]] = []
    crosses: list[tuple[float, int]] = []
    means, published = [], []
    for place, line in enumerate(part.lines):
        entry = line.entries[index]
        values = list(entry.by_seed.values())
        (dots if entry.ranked else crosses).extend((value, place) for value in values)
        if values:
            means.append((statistics.fmean(values), place))
        else:
            states, where = ", ".join(dict.fromkeys(entry.states)), axis.get_yaxis_transform()
            axis.text(0.02, place, states, transform=where, fontsize=7, color="0.5", va="center")
        if metric in line.reported:
            published.append((line.reported[metric].value, place))
    for points, marker, look in (
        (dots, "o", {"color": COLOURS[0], "alpha": 0.6, "markersize": 4.5}),
        (crosses, "x", {"color": COLOURS[5], "alpha": 0.8, "markersize": 5}),
        (means, "|", {"color": "black", "markersize": 11}),
        (published, "D", {"color": COLOURS[1], "mfc": "none", "markersize": 5}),
    ):
        if points:
            many = len(points) > MANY
            axis.plot(*zip(*points, strict=True), marker, **look, rasterized=many)


def _key(table: Table) -> str:
    parts = ["dot: a seed", "bar: their mean"]
    parts += (
        ["×: not causal"] if not all(e.ranked for ln in table.lines for e in ln.entries) else []
    )
    parts += ["diamond: reported, not measured here"] if reported_columns(table) else []
    return " · ".join(parts)


def _curves(table: Table) -> Any:
    """Validation loss by training step, a colour for each row, a line for each seed."""
    from matplotlib.lines import Line2D

    labels = [row.label for row in table.experiment.rows]
    styles: dict[str, dict[str, Any]] = {
        label: {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % 4]}
        for i, label in enumerate(labels)
    }
    parts = [part for part in table.parts if any(map(_curves_of, part.lines))]
    figure = blank(8.0, 0.4 + max(2.9 * len(parts), 0.19 * len(labels) + 0.6))
    grid = figure.subplots(len(parts), 1, squeeze=False, sharex=True)
    drawn = set()
    for (axis,), part in zip(grid, parts, strict=True):
        curves = [(line.label, curve) for line in part.lines for curve in _curves_of(line)]
        draw = _every_seed if len(curves) <= MANY else _band
        for label, found in groupby(curves, key=lambda pair: pair[0]):
            draw(axis, [curve for _, curve in found], styles[label])
            drawn.add(label)
        if _is_wide([value for _, curve in curves for _, value in curve]):
            axis.set_yscale("log")
        axis.set_ylabel("validation loss", fontsize=8)
        axis.set_title(part.label, fontsize=9, **PLAIN)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    shown = "every seed a line"
    if any(len([c for line in part.lines for c in _curves_of(line)]) > MANY for part in parts):
        shown += f"; of more than {MANY} the mean, in a band from the lowest to the highest"
    grid[-1][0].set_xlabel(f"optimiser step, {shown}", fontsize=8)
    handles = [Line2D([], [], label=label, **styles[label]) for label in labels if label in drawn]
    legend = figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set(**PLAIN)
    return figure


def _every_seed(axis: Any, curves: list[list[tuple[float, float]]], look: dict[str, Any]) -> None:
    joined = [point for curve in curves for point in (*curve, (math.nan, math.nan))]
    steps, values = zip(*joined, strict=True)
    axis.plot(steps, values, **look, alpha=0.7, lw=1)


def _band(axis: Any, curves: list[list[tuple[float, float]]], look: dict[str, Any]) -> None:
    """Thousands of lines take longer to draw than everything else, and hide each other."""
    by_step: dict[float, list[float]] = defaultdict(list)
    for step, value in (point for curve in curves for point in curve):
        by_step[step].append(value)
    steps, values = zip(*sorted(by_step.items()), strict=True)
    lowest, highest = list(map(min, values)), list(map(max, values))
    axis.fill_between(steps, lowest, highest, color=look["color"], alpha=0.15, lw=0)
    axis.plot(steps, list(map(statistics.fmean, values)), **look, lw=1)


def _is_wide(values: list[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > WIDE
