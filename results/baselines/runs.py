"""Tunes and trains every model on Memory Horizon: python results/baselines/runs.py --help

For each model and target: the grid (learning rates × initialisations, one seed, half budget), the
setting with the lowest validation loss, then three seeds of it at full budget. Everything finished
is skipped, so the same command goes on where it stopped. Runs are copied into records/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateloop.compose import compose
from gateloop.identity import run_id

FOLDER = Path(__file__).parent
TASKS = ("modsum", "hold")
SEEDS = (0, 1, 2)
STEPS = 1500
LEARNING_RATES = [1e-3, 2.5e-3, 6.25e-3]
FACTOR = 2.5  # between neighbouring learning rates, and to what an edge is extended by
COMPOSING = threading.Lock()  # Hydra's compose is not for several threads
EXTENSIONS = 3  # at most so many learning rates are added to the three
# What every run has: the default scale, the channel mixing solved to GateLoop's parameters.
COMMON = ("data=memory_horizon", "model.parameters=91520", "tracker=none", "trainer.threads=1")

SLOW_STEP = "model.step.least=0.001 model.step.most=0.1"
FAST_STEP = "model.step.least=0.01 model.step.most=1"
NARROW = "model.ring.inner=0.9 model.ring.outer=0.999 model.ring.phase=0.314"
WIDE = "model.ring.inner=0.001 model.ring.outer=0.999 model.ring.phase=6.28"
ONE = {"its own": ""}
# label: (what makes the model, its initialisations)
ARMS: dict[str, tuple[str, dict[str, str]]] = {
    "gateloop": (
        "model=gateloop",
        {f"amplitude {a}": f"model.transition.amplitude.initial={a}" for a in (0.5, 0.9)},
    ),
    "s4": ("model=s4", {"Δ 0.001–0.1": SLOW_STEP, "Δ 0.01–1": FAST_STEP}),
    "s4d": (
        "model=s4d",
        {"lin": "model.spectrum=lin", "legs": "model.spectrum=legs"},
    ),
    "s5": ("model=s5", {"Δ 0.001–0.1": SLOW_STEP, "Δ 0.01–1": FAST_STEP}),
    "lru": ("model=lru", {"ring 0.9–0.999, phase < 0.314": NARROW, "ring 0–1, full circle": WIDE}),
    "retnet": ("model=retnet", ONE),
    "linear_attention": ("model=linear_attention", ONE),
    "gla": ("model=gla", ONE),
    "hgrn2": ("model=hgrn2", ONE),
    "rglru": ("model=rglru", ONE),
    "mingru": ("model=mingru", ONE),
    "transformer": ("model=transformer", ONE),
    "transformer, data-controlled": ("model=transformer model.position=data_controlled", ONE),
    # its position table counts as parameters: no longer than the longest test
    "gpt2": ("model=gpt2 model.max_length=512", ONE),
    "lstm": ("model=lstm", ONE),
    "gru": ("model=gru", ONE),
}


def arguments(arm: str, task: str, initial: str, lr: float, steps: int, seed: int) -> list[str]:
    model, initials = ARMS[arm]
    half = steps < STEPS
    return [
        *model.split(),
        *COMMON,
        *initials[initial].split(),
        f"data.task={task}",
        f"optimizer.lr={lr:g}",
        f"trainer.max_steps={steps}",
        f"trainer.validate_every={steps // 5}",
        f"trainer.checkpoint_every={steps // 5}",
        # the grid looks at the validation alone
        *(["data.test_samples=16"] if half else []),
        f"seed={seed}",
    ]


def train(runs: Path, given: list[str]) -> dict[str, Any]:
    """The record of a run: kept already, or trained now. Diverged ones have a record too."""
    with COMPOSING:
        folder = runs / run_id(compose(given))
    kept = FOLDER / "records" / f"{folder.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    summary = folder / "summary.json"
    status = json.loads(summary.read_text())["status"] if summary.exists() else "new"
    if status not in ("finished", "diverged"):
        command = [sys.executable, "-m", "gateloop.run", *given, f"runs_dir={runs}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1) or not summary.exists():
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr[-500:]}")
    record = json.loads(summary.read_text())
    session = json.loads((folder / "manifest.json").read_text())["sessions"][-1]
    # "changed": records of earlier runs are new files to git, and so make the checkout "dirty"
    facts = ("commit", "dirty", "changed", "processor", "cores", "packages", "python")
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = [row["val/loss"] for row in rows if row.get("val/loss") is not None]
    return {
        **record,
        "command": ["gateloop.run", *given],
        "best_validation_loss": min(losses) if losses else None,
        **{name: session.get(name) for name in facts},
    }


def keep(record: dict[str, Any], labels: dict[str, Any]) -> None:
    path = FOLDER / "records" / f"{record['id']}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**labels, **record}, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(path)


def tune(runs: Path, arm: str, task: str) -> tuple[str, float]:
    """(initialisation, learning rate) of the lowest validation loss, extended from an edge."""
    found: dict[tuple[str, float], float] = {}
    rates = list(LEARNING_RATES)

    def fill() -> tuple[str, float]:
        for initial in ARMS[arm][1]:
            for lr in rates:
                if (initial, lr) not in found:
                    record = train(runs, arguments(arm, task, initial, lr, STEPS // 2, 0))
                    diverged = record["status"] == "diverged"
                    loss = record["best_validation_loss"]
                    found[initial, lr] = float("inf") if diverged or loss is None else loss
                    labels = {"arm": arm, "task": task, "initial": initial, "lr": lr}
                    keep(record, {**labels, "stage": "grid"})
        return min(found, key=lambda setting: found[setting])

    best = fill()
    for _ in range(EXTENSIONS):
        if best[1] == min(rates):
            rates.insert(0, round(min(rates) / FACTOR, 9))
        elif best[1] == max(rates):
            rates.append(round(max(rates) * FACTOR, 9))
        else:
            break
        best = fill()
    return best


def whole(runs: Path, arm: str, task: str) -> str:
    initial, lr = tune(runs, arm, task)
    accuracies = []
    for seed in SEEDS:
        record = train(runs, arguments(arm, task, initial, lr, STEPS, seed))
        labels = {"arm": arm, "task": task, "initial": initial, "lr": lr}
        keep(record, {**labels, "stage": "final"})
        accuracies.append(record.get("metrics", {}).get("test/accuracy"))
    return f"{task} {arm}: {initial}, lr {lr:g}: {accuracies}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--workers", type=int, default=1, help="runs at once, a thread each (1)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    options = parser.parse_args()
    jobs = [(arm, task) for task in options.tasks for arm in options.arms]
    with ThreadPoolExecutor(options.workers) as pool:
        futures = {pool.submit(whole, options.runs_dir, *job): job for job in jobs}
        for future, job in futures.items():
            error = future.exception()
            print(f"{job}: {error}" if error else future.result(), flush=True)


if __name__ == "__main__":
    main()
