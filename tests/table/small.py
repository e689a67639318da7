"""An experiment of two panels with a run in every state, made by hand.

python -m tests.table.small    writes the golden files anew
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from gateloop.experiment.archive import Archive
from gateloop.experiment.plan import Job, plan
from gateloop.experiment.record import FAILURE, keep
from gateloop.experiment.schema import Experiment, load_experiment
from gateloop.identity import identity
from gateloop.table.content import Table, tabulate
from gateloop.table.csv import csv
from gateloop.table.latex import latex
from gateloop.table.markdown import markdown
from gateloop.table.reported import load_reported

GOLDEN = Path(__file__).parent / "golden"
FORMS = {
    "table.md": lambda table: markdown(table, ["figure.png"]),
    "table.tex": latex,
    "table.csv": csv,
}

EXPERIMENT = """
title: "Every state & sign: 100 % of them"
about: Made by hand.
prediction: None of these runs was ever made.
overrides: [data=memory_horizon]
seeds: [0, 1, 2]
columns:
  - {metric: test/accuracy, title: accuracy, best: highest}
  - {metric: test/perplexity, title: perplexity_α, best: lowest, digits: 1}
  - {metric: test/causality_gap, title: gap}
panels:
  - {label: modsum}
  - {label: hold, overrides: [data.task=hold]}
rows:
  - {label: best, overrides: [model=gateloop], reported: published, section: ranked}
  - {label: tied, overrides: [model=s4d], section: ranked}
  - {label: worse, overrides: [model=s5], section: ranked}
  - {label: looks ahead, overrides: [model=lru], section: not ranked}
  - {label: two of three, overrides: [model=retnet], section: not ranked}
  - {label: no number, overrides: [model=gla], section: not ranked}
  - {label: diverges, overrides: [model=hgrn2], section: not ranked}
  - {label: on its way, overrides: [model=rglru], section: not ranked}
  - {label: "twice | run_twice", overrides: [model=mingru], section: not ranked}
  - {label: "another corpus, Δ < 1", overrides: [model=lstm], section: not ranked}
"""

REPORTED = """
numbers:
  - key: published
    metric: test/perplexity
    value: 1250.04
    model: Model
    size: 125M
    tokenizer: GPT-2
    source: "a paper, table 4"
    confidence: recalled
"""

ACCURACY = {
    "best": (0.995, 0.999, 0.991),
    "tied": (0.994, 0.999, 0.992),
    "worse": (0.5, 0.51, 0.49),
    "looks ahead": (1.0, 1.0, 1.0),
    "two of three": (0.9, None, 0.7),
    "no number": (None, None, None),
    "diverges": (0.8, 0.8, 0.8),
    "twice | run_twice": (0.6, 0.6, 0.6),
    "another corpus, Δ < 1": (1.0, 1.0, 1.0),
}


def id_of(job: Job) -> str:
    """An id that no new key of the config changes, and with it the golden files."""
    return f"{job.config.model.name}-memory_horizon-s{job.seed}-00000000"


def record_of(job: Job, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    """A record as a run leaves it."""
    perplexity = None if accuracy is None else 2000.0 - 768.8 * accuracy
    return {
        "id": id_of(job),
        "status": "finished",
        "model": job.config.model.name,
        "data": job.config.data.name,
        "mode": "auto",
        "seed": job.seed,
        "parameters": 95282,
        "device": "CPU, 1 threads",
        "steps": 1500,
        "tokens_seen": 6144000,
        "train_seconds": 150.0 + job.seed,
        "tokens_per_second": 40960.0,
        "causal": True,
        "metrics": {
            "test/accuracy": accuracy,
            "test/perplexity": perplexity,
            "test/causality_gap": 2e-6,
        },
        "identity": identity(job.config),
        "commit": "0123456789abcdef",
        "dirty": job.seed == 1,
        "processor": "Some CPU",
        "curves": {"val/loss": {"steps": [100, 200], "values": [2.0, 1.0 - (accuracy or 0) / 2]}},
        **changes,
    }


def fill(folder: Path) -> tuple[Experiment, list[int]]:
    """Results and runs in ``folder``; the open files hold a lock that a running run has."""
    (folder / "states.yaml").write_text(EXPERIMENT, encoding="utf-8")
    results, runs = folder / "results", folder / "runs"
    results.mkdir()
    (results / "reported.yaml").write_text(REPORTED, encoding="utf-8")
    experiment = load_experiment(str(folder / "states.yaml"))
    locks: list[int] = []
    records = results / "states" / "records"
    for cell in plan(experiment, lambda job: None)[: len(experiment.rows)]:
        for job in cell.final:
            label = cell.row.label
            if label == "on its way":
                locks += _open_run(runs, job)
                continue
            changes: dict[str, Any] = {}
            if label == "looks ahead":
                changes = {"causal": False}
            if label == "another corpus, Δ < 1":
                changes = {"data": "memory_horizon-partial"}
            if label == "diverges" and job.seed == 2:
                changes = {"status": "diverged", "metrics": {}}
            keep(record_of(job, ACCURACY[label][job.seed], **changes), records)
            if label.startswith("twice") and job.seed == 0:
                again = record_of(job, 0.61)
                keep({**again, "id": f"{again['id'][:-8]}ffffffff"}, records)
    return experiment, locks


def _open_run(runs: Path, job: Job) -> list[int]:
    """Seed 0 failed, seed 1 is running, seed 2 was interrupted."""
    run = runs / id_of(job)
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"identity": identity(job.config)}))
    lock = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
    if job.seed == 0:
        (run / FAILURE).write_text("{}")
    if job.seed != 1:
        os.close(lock)
        return []
    fcntl.flock(lock, fcntl.LOCK_EX)
    return [lock]


def table_of(experiment: Experiment, folder: Path) -> Table:
    archive = Archive(folder / "results" / experiment.name, folder / "runs")
    score = archive.score
    cells = plan(experiment, score)
    archive.keep(cells)
    return tabulate(experiment, cells, archive.outcome, score, load_reported(folder / "results"))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        experiment, _ = fill(Path(name))
        table = table_of(experiment, Path(name))
    for name, form in FORMS.items():
        (GOLDEN / name).write_text(form(table), encoding="utf-8")
