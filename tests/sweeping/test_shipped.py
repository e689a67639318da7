"""Every file of ``sweeps/``: as sweeps/make.py writes it, in the schema, its values a run's."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import yaml

from gateloop.files import packed
from gateloop.registry import MODELS
from gateloop.sweeping.file import FOLDER, load_sweep

NAMES = sorted(path.stem for path in packed(FOLDER).glob("*.yaml"))
DATA = ("memory_horizon", "wt2", "wt103")
# every model has these; heads, transitions and initialisations only some
ALL = {"optimizer.lr", "optimizer.weight_decay", "optimizer.warmup_steps", "model.dropout"}


def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", packed(FOLDER) / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_model_on_every_data_set() -> None:
    assert set(NAMES) == {f"{model}_{data}" for model in MODELS for data in DATA}


def test_they_are_what_make_writes() -> None:
    written = {f"{name}.yaml": (packed(FOLDER) / f"{name}.yaml").read_text() for name in NAMES}
    assert make().files() == written


@pytest.mark.parametrize("name", NAMES)
def test_its_values_are_those_of_runs(name: str) -> None:
    """Loading composes each parameter's every choice or both ends."""
    sweep = load_sweep(name)
    varied = {axis.key for axis in sweep.varied}
    config = sweep.config({axis.key: axis.corners[0] for axis in sweep.varied})
    assert name == f"{config.model.name}_{config.data.name}"
    assert varied >= ALL
    assert ("model.heads" in varied) == hasattr(config.model, "heads")
    learns = MODELS[config.model.name].mixer.rpartition(":")[2] in LEARNED
    assert ("optimizer.transition_lr_factor" in varied) == learns
    assert sweep.file.early_terminate is not None and sweep.file.run_cap
    assert all(axis.local() for axis in sweep.varied)


LEARNED = {"GateLoop", "S4", "S4D", "S5", "LRU", "RGLRU"}  # whose transitions have parameters


def test_wandb_reads_the_same() -> None:
    """Through what ``wandb sweep`` does to a file before it sends it."""
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, load_sweep_config

    for name in NAMES:
        tree = load_sweep_config(str(packed(FOLDER) / f"{name}.yaml"))
        assert tree is not None
        filled = _validate_config_and_fill_distribution(tree)
        assert filled == yaml.safe_load(yaml.safe_dump(tree))
        assert create_sweep_command(list(tree["command"]))[1:4] == ["python", "-m", "gateloop.run"]
