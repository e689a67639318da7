"""A small real training: Lightning, run folder and checkpoints, in a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gateloop.compose import compose
from gateloop.config import Config
from gateloop.data import open_source
from gateloop.identity import identity
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from gateloop.training.checkpoint import STEP, listing
from gateloop.training.fit import fit
from gateloop.training.interruption import Interruption
from gateloop.training.module import Training
from gateloop.training.record import RunFolder
from gateloop.training.tracking import open_tracker

SMALL = (
    "model.d_model=16 data.length=12 data.resets=2 data.batch_size=8 data.test_lengths=[12] "
    "data.test_resets=[4] data.test_samples=8 data.validation_samples=8 trainer.max_steps=2 "
    "trainer.device=cpu trainer.progress=false tracker=none"
).split()


def config(*overrides: str) -> Config:
    """The small config with overrides; a key given twice takes the last."""
    given = dict(word.split("=", 1) for word in [*SMALL, *overrides])
    return compose([f"{key}={value}" for key, value in given.items()])


def model_of(settings: Config) -> LanguageModel:
    source = open_source(settings.data)
    torch.manual_seed(settings.seed)
    return build(settings.model, source.inputs, source.classes)


def train(settings: Config, folder: Path) -> LanguageModel:
    """The model after ``fit`` has taken it to the last step."""
    model = model_of(settings)
    run = RunFolder(folder, "run")
    with run.locked():
        run.open(settings, identity(settings, None))
        device = torch.device("cpu")
        tracker = open_tracker(settings.tracker, run.path, run.id, {})
        fit(settings, model, open_source(settings.data), device, run, Interruption(), tracker)
    return model


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def resumed(folder: Path, at: int, settings: Config) -> Path:
    """A copy of the run in ``folder``, gone on with from its checkpoint of step ``at``."""
    copy = folder / "resumed"
    last = f"step-{settings.trainer.max_steps:08d}-*"
    shutil.copytree(folder / "run", copy / "run", ignore=shutil.ignore_patterns(last))
    assert [c.step for c in listing(copy / "run/checkpoints", STEP)][-1] == at
    train(settings, copy)
    return copy / "run"


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Fills with every optimiser step's gradients, as they are before clipping."""
    seen: list[dict[str, torch.Tensor]] = []
    clip = Training.configure_gradient_clipping

    def watched(self: Training, *arguments: Any, **options: Any) -> None:
        named = self.model.named_parameters()
        seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        clip(self, *arguments, **options)

    monkeypatch.setattr(Training, "configure_gradient_clipping", watched)
    return seen
