"""The table and the picture of this folder, from its records: python results/controls/table.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
TESTS = {"in distribution": "test", "L 128, R 12": "test/L128_R12", "L 512, R 12": "test/L512_R12"}
ARMS = [f"{a} × {p}" for a in ("data", "fixed", "one") for p in ("data", "fixed", "none")]
ARMS += ["real", "signed"]
TASKS = ("modsum", "hold")


def arm(command: list[str]) -> tuple[str, str, int]:
    """(task, arm, seed) that a record's command asked for."""
    given = dict(argument.split("=", 1) for argument in command)
    domain = given.get("model.transition.domain")
    controls = [
        given.get(f"model.transition.{part}.control", "data") for part in ("amplitude", "phase")
    ]
    name = domain or " × ".join(controls)
    return given.get("data.task", "modsum"), name, int(given.get("seed", "0"))


def load() -> dict[tuple[str, str, int], dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("records/*.json"))]
    return {arm(record["command"]): record for record in records if record["status"] == "finished"}


def accuracies(record: dict[str, Any] | None) -> list[float | None]:
    if record is None:
        return [None] * len(TESTS)
    return [record["metrics"][f"{prefix}/accuracy"] for prefix in TESTS.values()]


def table(found: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    heads = [f"{task}: {test}" for task in TASKS for test in TESTS]
    lines = ["| amplitude × phase | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in ARMS:
        cells = [cell for task in TASKS for cell in accuracies(found.get((task, name, 0)))]
        shown = ["not run" if cell is None else f"{cell:.3f}" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def picture(found: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots(1, len(TASKS), sharey=True)
    for axis, task in zip(axes, TASKS, strict=True):
        cells = [accuracies(found.get((task, name, 0))) for name in ARMS]
        values = [[float("nan") if cell is None else cell for cell in row] for row in cells]
        axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_title(f"{task}: test accuracy")
        axis.set_xticks(range(len(TESTS)), list(TESTS))
        axis.set_yticks(range(len(ARMS)), ARMS)
        for row, line in enumerate(cells):
            for column, cell in enumerate(line):
                text = "–" if cell is None else f"{cell:.2f}"
                color = "black" if cell is not None and cell > 0.6 else "white"
                axis.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    axes[0].set_ylabel("amplitude × phase, or domain")
    figure.savefig(FOLDER / "figure.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    records = load()
    (FOLDER / "table.md").write_text(table(records))
    picture(records)
    print(table(records))
