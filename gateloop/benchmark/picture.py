"""The recurrence's time against length, as PNG and SVG."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gateloop.benchmark.cell import What
from gateloop.benchmark.ratio import spread
from gateloop.benchmark.record import DEVICES, Record, seconds_by_label
from gateloop.table.picture import COLOURS, blank, files

NAME = "time_against_length"
STYLES = ("-", "--", ":")
# title of a panel, and by contestant (length, milliseconds)
Panel = tuple[str, dict[str, list[tuple[int, float]]]]


def pictures(records: dict[tuple[What, str], Record], folder: Path) -> dict[str, bytes]:
    """By file name; {} where it is not measured."""
    found = panels(records)
    if not found:
        return {}
    return files(NAME, [list(panel) for panel in found], partial(_draw, found), folder,
                 Path(__file__))  # fmt: skip


def panels(records: dict[tuple[What, str], Record]) -> list[Panel]:
    """What is drawn."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for device in DEVICES:
        record = records.get((What.recurrence, device), {"cells": []})
        for outcome in record["cells"]:
            if outcome["cell"]["kind"] != "by_length" or "failed" in outcome:
                continue
            length = outcome["cell"]["sizes"]["length"]
            for part in outcome["parts"]:
                panel = found.setdefault(f"{part['title']}, {device}", {})
                for label, seconds in seconds_by_label(part).items():
                    middle = spread(seconds)
                    if middle:
                        panel.setdefault(label, []).append((length, 1000 * middle.median))
    return list(found.items())


def _draw(panels: list[Panel]) -> Any:
    figure = blank(0.8 + 3.6 * len(panels), 5.2)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    labels = list(dict.fromkeys(label for _, lines in panels for label in lines))
    for axes, (title, lines) in zip(grid, panels, strict=True):
        for label, points in lines.items():
            place = labels.index(label)
            axes.plot(
                *zip(*points, strict=True),
                STYLES[place // len(COLOURS) % len(STYLES)],
                color=COLOURS[place % len(COLOURS)],
                marker="o",
                markersize=3,
                label=label,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("length", fontsize=8)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    grid[0].set_ylabel("milliseconds", fontsize=8)
    handles: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        [handles[label] for label in labels], labels, loc="outside lower center", ncols=2,
        fontsize=7, frameon=False,
    )  # fmt: skip
    return figure
