import copy
import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from gateloop.compose import compose
from gateloop.config import (
    Config,
    DataConfig,
    MemoryHorizonConfig,
    OptimizerConfig,
    TextConfig,
    TrainerConfig,
    setting,
)
from gateloop.identity import SCHEMA_VERSION, digest, identity, run_id
from gateloop.keys import Key, keys, node_keys, plain, values
from gateloop.model_config import ModelConfig
from gateloop.names import ModeName
from gateloop.registry import MODELS

FROZEN = Path(__file__).parent / f"defaults_{SCHEMA_VERSION}.json"


def generated() -> Config:
    return Config(data=MemoryHorizonConfig(batch_size=32))


def written() -> Config:
    return Config(data=TextConfig(name="wt2", batch_size=32))


def get(config: Config, name: str) -> Any:
    return values(config)[name]


def put(config: Config, name: str, value: Any) -> Config:
    """A copy of ``config`` with one key set, unchecked."""
    changed = copy.deepcopy(config)
    *nodes, last = name.split(".")
    node: Any = changed
    for part in nodes:
        node = getattr(node, part)
    setattr(node, last, value)
    return changed


def another(key: Key, value: Any) -> Any:
    """A value of the key's type that is not ``value``."""
    if key.many:
        return [*value, another(dataclasses.replace(key, many=False), 1)]
    if issubclass(key.kind, Enum):
        return next(member for member in key.kind if member is not value)
    if key.kind is bool:
        return not value
    if key.kind is str:
        return f"{value}x"
    return key.kind(3 if value is None else value + 1)


PAIRS = [
    pytest.param(make, key, id=f"{make.__name__}-{key.name}")
    for make in (generated, written)
    for key in keys(make()).values()
    if key.name != "data.batch_tokens"  # stands in place of batch_size: a test of its own
]


@pytest.mark.parametrize(("make", "key"), PAIRS)
def test_a_key_changes_the_id_exactly_where_it_defines_the_result(make, key):
    config = make()
    changed = put(config, key.name, another(key, get(config, key.name)))
    defines = key.identity and key.name not in ("data.path", "data.tokenizer_path")
    same = digest(identity(changed, "f")) == digest(identity(config, "f"))
    assert same is not defines


def test_what_never_defines_a_result():
    table = {**keys(generated()), **keys(written())}
    assert {name for name, key in table.items() if not key.identity} == {
        "data.micro_batch_size", "data.test_batch_size", "data.cache_dir",
        "trainer.checkpoint_every", "trainer.log_every", "trainer.device", "trainer.devices",
        "trainer.nodes", "trainer.strategy", "trainer.profile",
        "trainer.threads", "trainer.progress", "tracker.name", "tracker.project",
        "tracker.entity", "tracker.group", "runs_dir", "rerun", "dry_run",
    }  # fmt: skip


def test_ids_are_what_they_were():
    """These two may change only together with SCHEMA_VERSION."""
    assert run_id(generated()) == "gateloop-memory_horizon-s0-92c83d33"
    config = Config(
        model=dataclasses.replace(Config().model, d_model=256, layers=6, dropout=0.1),
        data=TextConfig(name="wt103", length=512, batch_size=16),
        trainer=TrainerConfig(max_steps=20000),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.1),
        seed=3,
    )
    assert run_id(config, "0123456789abcdef") == "gateloop-wt103-s3-476f3c7e"


def test_a_default_is_only_changed_together_with_the_schema_version():
    """A key at its default is not hashed, so a new default would give an old id to a new run.

    Run ``python tests/test_identity.py`` after adding a key; after changing a default, raise
    SCHEMA_VERSION first.
    """
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    now = defaults()
    assert {name: now.get(name) for name in frozen} == frozen
    assert set(now) == set(frozen), "a key was added: write the file again"


def defaults() -> dict[str, Any]:
    """The default of every key that is hashed, by schema and name."""
    found = {}
    for config in (generated(), written()):
        for key in keys(config).values():
            if key.identity:
                schema = type(config.data).__name__ if key.name.startswith("data.") else "run"
                found[f"{schema}: {key.name}"] = plain(key.default)
    for name, entry in MODELS.items():
        for key in node_keys(entry.config, "model").values():
            if name != "gateloop" and key.identity:
                found[f"{name}: {key.name}"] = plain(key.default)
    return found


def test_identity_holds_only_what_differs_from_the_defaults():
    config = put(generated(), "optimizer.lr", 0.5)
    assert identity(config, "abc") == {
        "schema_version": 1,
        "fingerprint": "abc",
        "model.name": "gateloop",
        "data.name": "memory_horizon",
        "data.batch_size": 32,
        "optimizer.lr": 0.5,
    }


def test_a_batch_in_tokens_is_the_same_run_as_its_batch_in_sequences():
    in_tokens = put(put(generated(), "data.batch_size", None), "data.batch_tokens", 32 * 128)
    assert run_id(in_tokens) == run_id(generated())
    other = put(in_tokens, "data.batch_tokens", 16 * 128)
    assert run_id(other) != run_id(generated())


def test_the_fingerprint_stands_for_the_paths():
    there = put(put(written(), "data.path", "/a"), "data.tokenizer_path", "/b")
    assert run_id(there, "f") == run_id(written(), "f")
    assert run_id(written(), "f") != run_id(written(), "g")
    assert run_id(written(), "f") != run_id(written(), None)


def test_the_id_is_readable():
    config = compose(["data=wt2", "data.tokenizer=byte", "seed=7"])
    assert run_id(config, "f").startswith("gateloop-wt2-s7-")
    assert len(run_id(config, "f").rsplit("-")[-1]) == 8


def test_the_command_line_gives_the_id_of_the_same_config():
    assert run_id(compose(["mode=auto", "trainer.max_steps=1500"])) == run_id(compose([]))
    assert run_id(compose(["mode=scan"])) != run_id(compose([]))
    assert identity(compose(["mode=scan"]))["mode.name"] == ModeName.scan.name


@dataclasses.dataclass
class InnerConfig:
    width: int = setting(3, "a nested key")


@dataclasses.dataclass
class OtherConfig(ModelConfig):
    name: str = setting("other", "somebody else's model")
    inner: InnerConfig = dataclasses.field(default_factory=InnerConfig)
    bare: int = 1  # a field without ``setting``


def test_a_model_of_somebody_elses_with_nested_keys():
    config = Config(model=OtherConfig(), data=DataConfig(batch_size=1))
    assert "model.inner.width" in keys(config)
    assert run_id(put(config, "model.inner.width", 4)) != run_id(config)
    assert run_id(put(config, "model.bare", 4)) != run_id(config)
    assert run_id(config).startswith("other-")


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(defaults(), indent=1) + "\n", encoding="utf-8")
