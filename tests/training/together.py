"""What the processes of a job do in test_devices: each case's training or scoring, side by side.

python -m tests.training.together FOLDER CASES, started once for each process.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gateloop.config import Config
from gateloop.data import IGNORE, Batch, Source, open_source
from gateloop.identity import identity
from gateloop.names import ModeName, Protocol
from gateloop.training.evaluation import evaluate
from gateloop.training.fit import fit
from gateloop.training.interruption import Interruption
from gateloop.training.job import Job, leave
from gateloop.training.launch import find_place
from gateloop.training.record import RunFolder
from gateloop.training.test import test as run_test
from tests.training.small import config, model_of
from tests.training.test_evaluation import make_model, text_evaluation

CPU = torch.device("cpu")
Cases = list[dict[str, Any]]


class Holes:
    """A source of which sample i leaves its last i modulo 7 targets unscored."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def samples(self, seed: int, first: int, count: int) -> Batch:
        batch = self.source.samples(seed, first, count)
        for row in range(count):
            unscored = (first + row) % 7
            batch.targets_BL[row, batch.targets_BL.shape[1] - unscored :] = IGNORE
        return batch


def train_together(settings: Config, folder: Path, job: Job, *, holes: bool) -> None:
    run, source = RunFolder(folder.parent, folder.name), open_source(settings.data)
    with ExitStack() as lock:
        if job.first:
            lock.enter_context(run.locked())
            run.open(settings, identity(settings, None))
        source = Holes(source) if holes else source
        model = model_of(settings)
        fit(settings, model, source, CPU, run, Interruption(), None, job)


def test_together(settings: Config, folder: Path, job: Job) -> dict[str, Any]:
    """The test of the run that ``folder`` holds."""
    run, source = RunFolder(folder.parent, folder.name), open_source(settings.data)
    return run_test(settings, model_of(settings), source, CPU, run, Interruption(), job)


def score_text(folder: Path, job: Job) -> dict[str, Any]:
    """Scores of one model under every protocol, by position too."""
    model, found = make_model(), {}
    for protocol in Protocol:
        evaluation = text_evaluation(folder, protocol)
        scores = evaluate(model, evaluation, mode=ModeName.auto, sequences=3, job=job)
        found[protocol.value] = {**scores.metrics, **scores.by_position.as_lists()}
    return found


def work(cases: Cases, folder: Path, job: Job) -> None:
    """Do the cases; what they return goes to ``folder/<case>.json``."""
    for case in cases:
        kind, path = case["kind"], folder / case.get("run", case["name"])
        settings = config(*case.get("overrides", ()))
        result = None
        if kind == "train":
            train_together(settings, path, job, holes=case.get("holes", False))
        elif kind == "test":
            result = test_together(settings, path, job)
        else:
            result = score_text(folder, job)
        if result is not None and job.first:
            text = json.dumps(result)
            (folder / f"{case['name']}-{job.size}.json").write_text(text, encoding="utf-8")


def main(folder: Path, cases: Cases, devices: str) -> None:
    torch.set_num_threads(1)
    place = find_place(config(f"trainer.devices={devices}", "data.batch_size=12"))
    with Job(place) as job:
        work(cases, folder, job)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
    leave(0)
