"""From the records: the tables and the picture of this folder, and the README's table.

python results/baselines/table.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from runs import ARMS, SEEDS, TASKS  # beside this file

FOLDER = Path(__file__).parent
TESTS = {"in distribution": "test", "L 128, R 12": "test/L128_R12", "L 512, R 12": "test/L512_R12"}
Record = dict[str, Any]


def load(stage: str) -> list[Record]:
    records = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("records/*.json"))]
    return [record for record in records if record["stage"] == stage]


def of(records: list[Record], task: str, arm: str) -> list[Record]:
    found = [record for record in records if (record["task"], record["arm"]) == (task, arm)]
    return sorted(found, key=lambda record: (record["initial"], record["lr"], record["seed"]))


def accuracies(records: list[Record], test: str) -> list[float]:
    return [
        record["metrics"][f"{TESTS[test]}/accuracy"]
        for record in records
        if record["status"] == "finished"
    ]


def spread(values: list[float]) -> str:
    """Mean ± standard deviation (n − 1), and how many where they are not all the seeds."""
    if not values:
        return "not run"
    text = f"{statistics.mean(values):.3f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.3f}"
    return text if len(values) == len(SEEDS) else f"{text} (n = {len(values)})"


def outcome(task: str) -> str:
    """A row a model: what was chosen, parameters of the layers and all, and accuracy by test."""
    final = load("final")
    heads = ["model", "chosen", "parameters", *TESTS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm in ARMS:
        records = of(final, task, arm)
        chosen, parameters = "", ""
        if records:
            first = records[0]
            chosen = f"{first['initial']}, lr {first['lr']:g}"
            parameters = f"{first['parameters']:,}"
        cells = [spread(accuracies(records, test)) for test in TESTS]
        lines.append(f"| {arm} | {chosen} | {parameters} | {' | '.join(cells)} |")
    return "\n".join(lines)


def grid(task: str) -> str:
    """Validation loss of every setting tried; the lowest of each model in bold."""
    records = load("grid")
    rates = sorted({record["lr"] for record in records if record["task"] == task})
    heads = ["model", "initialisation", *(f"lr {rate:g}" for rate in rates)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm in ARMS:
        tried = of(records, task, arm)
        losses = {
            (record["initial"], record["lr"]): record["best_validation_loss"]
            for record in tried
            if record["status"] == "finished"
        }
        for initial in ARMS[arm][1]:
            cells = []
            for rate in rates:
                loss = losses.get((initial, rate))
                best = loss is not None and loss == min(losses.values())
                shown = "" if loss is None else f"{loss:.3g}"
                cells.append(f"**{shown}**" if best else shown)
            lines.append(f"| {arm} | {initial} | {' | '.join(cells)} |")
    return "\n".join(lines)


def together() -> str:
    """Both targets side by side, for the README at the root."""
    final = load("final")
    heads = ["", *(f"{task}: {test}" for task in TASKS for test in TESTS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm in ARMS:
        cells = [spread(accuracies(of(final, task, arm), t)) for task in TASKS for t in TESTS]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture() -> None:
    """Every seed as a point, by model; one panel a target and test."""
    final = load("final")
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(len(TASKS), len(TESTS), sharex=True, sharey=True)
    arms = list(ARMS)
    for row, task in zip(axes, TASKS, strict=True):
        for axis, test in zip(row, TESTS, strict=True):
            for place, arm in enumerate(arms):
                values = accuracies(of(final, task, arm), test)
                axis.plot(values, [place] * len(values), "o", color="#1f6fb4", alpha=0.6)
                if values:
                    axis.plot(statistics.mean(values), place, "|", color="black", markersize=14)
            axis.set_title(f"{task}: {test}")
            axis.set_yticks(range(len(arms)), arms)
            axis.set_xlim(-0.02, 1.02)
            axis.grid(axis="x", alpha=0.3)
    axes[0][0].invert_yaxis()
    for axis in axes[-1]:
        axis.set_xlabel("test accuracy: seeds, and their mean")
    figure.savefig(FOLDER / "figure.png", dpi=110, metadata={"Software": None})


def main() -> None:
    parts = []
    for task in TASKS:
        parts += [f"## {task}: test accuracy, mean ± std over seeds", outcome(task)]
        parts += [f"## {task}: validation loss in the grid", grid(task)]
    (FOLDER / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    readme = FOLDER.parents[1] / "README.md"
    before, mark, rest = readme.read_text(encoding="utf-8").partition("<!-- baselines -->\n")
    _, end, after = rest.partition("<!-- end of baselines -->")
    readme.write_text(before + mark + together() + "\n" + end + after, encoding="utf-8")
    picture()
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
