"""Every model in every mode it admits takes two training steps on every data source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gateloop.compose import compose
from gateloop.config import Config
from gateloop.data import Source, open_source
from gateloop.models import build
from gateloop.names import ModeName
from gateloop.registry import MODELS
from gateloop.training.fit import fit
from gateloop.training.interruption import Interruption
from gateloop.training.record import RunFolder

SMALL = (
    "model.d_model=16 data.length=10 data.batch_size=4 trainer.max_steps=2 trainer.device=cpu "
    "trainer.progress=false tracker=none optimizer.lr=0.01 optimizer.warmup_steps=0 "
    "optimizer.weight_decay=0"
).split()
SOURCES = ("memory_horizon", "text", "wt2", "wt103")
STATES = {"s4": 8, "s4d": 8}
CASES = [
    pytest.param(name, mode, id=f"{name}-{mode.name}")
    for name, entry in MODELS.items()
    for mode in (ModeName.auto, *entry.modes)
]


@pytest.fixture(scope="module")
def texts(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The beginnings of the first lines of each real text, by data source."""
    folder = tmp_path_factory.mktemp("texts")
    first = {"wt2": "wikitext-2", "wt103": "wikitext-103"}
    for source, name in first.items():
        (folder / source).mkdir()
        for file in sorted((shared_data / name).iterdir()):
            if ".tokens" in file.name or ".raw" in file.name:
                lines = file.read_text(encoding="utf-8").splitlines()[:8]
                short = "".join(f"{line[:120]}\n" for line in lines)
                (folder / source / file.name).write_text(short, encoding="utf-8")
    play = (shared_data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    (folder / "text.txt").write_text(play[:1000], encoding="utf-8")
    return {"text": folder / "text.txt", "wt2": folder / "wt2", "wt103": folder / "wt103"}


@pytest.fixture(scope="module")
def opened() -> dict[str, Source]:
    return {}


def settings(name: str, mode: ModeName, source: str, texts: dict[str, Path], cache: Path) -> Config:
    given = [*SMALL, f"model={name}", f"mode={mode.name}", f"data={source}"]
    if name in STATES:
        given.append(f"model.d_state={STATES[name]}")
    if source == "memory_horizon":
        given += "data.resets=2 data.test_lengths=[10] data.test_resets=[4]".split()
        given += "data.test_samples=4 data.validation_samples=4".split()
    else:
        given += [f"data.path={texts[source]}", "data.tokenizer=byte", f"data.cache_dir={cache}"]
        given += ["model.layers=2", "model.dropout=0.1"]
        if MODELS[name].resets and mode is not ModeName.convolution:
            given.append("data.reset_at_documents=true")
    return compose(given)


@pytest.mark.parametrize(("name", "mode"), CASES)
@pytest.mark.parametrize("source", SOURCES)
def test_two_steps(
    name: str,
    mode: ModeName,
    source: str,
    texts: dict[str, Path],
    opened: dict[str, Source],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = settings(name, mode, source, texts, tmp_path_factory.getbasetemp() / "cache")
    resets = getattr(config.data, "reset_at_documents", False)
    if (key := f"{source}-{resets}") not in opened:
        opened[key] = open_source(config.data)
    torch.manual_seed(0)
    model = build(config.model, opened[key].inputs, opened[key].classes)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    folder = RunFolder(tmp_path, "run")
    with folder.locked():
        folder.open(config, {})
        fit(config, model, opened[key], torch.device("cpu"), folder, Interruption(), None)
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [row["val/loss"] for row in rows if row.get("val/loss") is not None]
    assert losses and all(0 < loss < 20 for loss in losses)
    for parameter_name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), parameter_name
        assert not torch.equal(parameter, before[parameter_name]), parameter_name
