import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from gateloop import derived
from gateloop.compose import GROUPS, choices, compose, default_choices, quoted
from gateloop.config import DATA, Config, MemoryHorizonConfig, TextConfig
from gateloop.errors import InputError
from gateloop.files import packed
from gateloop.help import help_text, sections
from gateloop.keys import config_yaml, keys, shown, values
from gateloop.model_config import GateLoopConfig
from gateloop.names import Domain, ModeName, TokenizerName
from gateloop.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _every_optional_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateloop.validation.find_spec", lambda name: name)


def arguments(data: str) -> list[str]:
    """What a data group cannot know."""
    return ["data.path=x"] if data == "text" else []


def test_an_empty_command_line_is_gateloop_on_memory_horizon():
    config = compose([])
    assert type(config) is Config
    assert type(config.model) is GateLoopConfig
    assert type(config.data) is MemoryHorizonConfig
    assert config.mode.name is ModeName.auto
    assert (config.model.d_model, config.model.layers, config.data.batch_size) == (64, 2, 32)


@pytest.mark.parametrize(
    ("model", "size", "data"), list(itertools.product(*map(choices, ("model", "size", "data"))))
)
def test_every_model_size_and_data_compose(model, size, data):
    config = compose([f"model={model}", f"size={size}", f"data={data}", *arguments(data)])
    assert config.data.batch_size is not None, "every data group says its batch"
    width = {"tiny": (128, 2), "small": (256, 6), "125m": (624, 12)}.get(size)
    if width:
        assert (config.model.d_model, config.model.layers) == width
        assert config.model.parameters == 13 * width[0] ** 2 * width[1]


@pytest.mark.parametrize(
    ("group", "choice"),
    [(group, choice) for group in ("mode", "trainer", "optimizer", "tracker")
     for choice in choices(group)],
)  # fmt: skip
def test_every_other_choice_composes(group, choice):
    model = "s4d" if choice == "convolution" else "gateloop"
    config = compose([f"{group}={choice}", f"model={model}"])
    node = getattr(config, group)
    if hasattr(node, "name"):
        assert getattr(node.name, "name", node.name) == choice


def test_conf_holds_the_groups_and_the_registry_and_nothing_else():
    # conf/launcher says how runs are started, and no run knows of it
    folders = {p.name for p in packed("conf").iterdir() if p.is_dir()}
    assert folders == {*GROUPS, "launcher"}
    assert set(default_choices()) == set(GROUPS)
    assert {p.stem for p in packed("conf/model").glob("*.yaml")} == set(MODELS)
    assert choices("data") == sorted(DATA)
    assert choices("mode") == sorted(mode.name for mode in ModeName)


@pytest.mark.parametrize("file", sorted(packed("conf").rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_yaml_names_no_code_and_refers_to_nothing(file):
    text = file.read_text()
    assert "_target_" not in text
    assert "${" not in text


def test_values_have_the_types_of_the_schema():
    config = compose(
        ["optimizer.lr=1", "data.test_lengths=[64]", "data.test_resets=[2]", "model.gate=false",
         "model.transition.domain=real", "model.heads=null", "seed='7'"]
    )  # fmt: skip
    assert type(config.optimizer.lr) is float
    assert type(config.data.test_lengths) is list
    assert config.data.test_lengths == [64]
    assert config.model.gate is False
    assert config.model.transition.domain is Domain.real
    assert config.seed == 7


def test_a_text_stays_as_it_was_written():
    assert compose(["runs_dir=1e5"]).runs_dir == "1e5"
    assert compose(["runs_dir=007"]).runs_dir == "007"
    assert compose(["runs_dir='\"a = b, ~\"'"]).runs_dir == '"a = b, ~"'
    assert compose(["runs_dir='a = b, ~'"]).runs_dir == "a = b, ~"
    assert compose(["tracker.group=true"]).tracker.group == "true"


@pytest.mark.parametrize(
    "folder",
    ["rüns (2), a=b", "it's", 'a "b"', "a\\b\\", '\\"', "#1", "~x", "a\\\n", "1e5", "null"],
)
def test_any_text_can_be_quoted(folder):
    assert compose([quoted("runs_dir", folder)]).runs_dir == folder


def test_the_users_batch_in_tokens_replaces_the_groups_batch():
    config = compose(["data.batch_tokens=1280"])
    assert config.data.batch_size is None
    assert derived.sequences(config) == 10
    assert derived.tokens_per_step(config) == 1280


def test_what_follows_from_the_batch_and_the_steps():
    config = compose(["trainer.devices=2", "data.micro_batch_size=4"])
    assert derived.micro_batch(config) == 4
    assert derived.accumulation(config) == 4
    assert derived.accumulation(compose(["trainer.devices=2"])) == 1
    assert derived.warmup_steps(compose([])) == 150
    assert derived.warmup_steps(compose(["optimizer.warmup_steps=0"])) == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["model.heads=7", "model.d_key=4", "model.d_value=2"],
        ["model.heads=8", "model.output_norm=group", "model.output_norm_groups=32"],
        ["model.output_norm=group_over_time", "model.output_norm_groups=64"],
        ["model.transition.parametrisation=cartesian", "model.transition.phase.control=data"],
        ["model.transition.domain=signed", "model.transition.amplitude.control=fixed"],
        ["model.transition.domain=real", "model.transition.phase.control=none"],
        ["optimizer.warmup_steps=1500"],
        ["data.resets=128"],
        ["data.test_lengths=[]", "data.test_resets=[]"],
        ["data=wt2", "data.protocol=sliding", "data.stride=128"],
        ["data=wt2", "model=transformer", "data.protocol=carry", "model.window=128"],
        ["data=wt2", "model=gpt2", "data.protocol=sliding"],
        ["data=wt2", "model=gru", "data.protocol=carry"],
        ["model=gpt2", "model.max_length=512"],
        ["model=gpt2", "model.max_length=1", "model.position=rope"],
    ],
    ids=" ".join,
)
def test_what_is_no_contradiction_composes(argv):
    compose(argv)


def test_a_config_is_its_yaml():
    config = compose(["data=wt103", "data.tokenizer=word", "mode=scan"])
    tree = yaml.safe_load(config_yaml(config))
    assert tree["data"]["tokenizer"] == TokenizerName.word.name
    assert tree["model"]["transition"]["phase"] == {
        "control": None, "activation": "identity", "scale": 1.0,
    }  # fmt: skip
    assert set(tree) == {field.name for field in dataclasses.fields(Config)}


def test_a_hydra_of_the_callers_own_is_left_as_it_was():
    GlobalHydra.instance().clear()
    compose([])
    assert not GlobalHydra.instance().is_initialized()


def test_help_has_every_group_choice_and_key():
    text = help_text()
    for group in GROUPS:
        for choice in choices(group):
            assert choice in text
    every = {*keys(Config())}
    for registry, node in ((DATA, "data"), ({m: e.config for m, e in MODELS.items()}, "model")):
        for schema in registry.values():
            every |= {f"{node}.{name}" for name in values(schema())}
    for name in every - {f"{group}.name" for group in GROUPS}:
        assert f"  {name} = " in text
    assert max(map(len, text.splitlines())) <= 100


def test_every_key_says_what_it_is():
    for section in sections().values():
        for key in section:
            assert key.doc, key.name


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The package as a wheel lays it out, with a stranger's ``conf`` beside it."""
    shutil.copytree(
        ROOT / "gateloop", tmp_path / "gateloop", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "conf", tmp_path / "gateloop" / "conf")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [strange]\n")
    return tmp_path


def test_an_installed_package_finds_the_conf_inside_it(wheel):
    code = "from gateloop.compose import compose; print(compose(['size=tiny']).model.d_model)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=wheel.parent,
        env={**os.environ, "PYTHONPATH": str(wheel)},
    )
    assert done.stdout == "128\n", done.stderr


@pytest.mark.parametrize(
    "content",
    ["optimizer:\n  lrr: 3\n", "optimizer:\n  lr: fast\n", "seed: ${oc.env:HOME}\n", "a: [\n"],
)
def test_a_mistake_in_a_yaml_of_conf_is_an_input_error(content, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(f"# @package _global_\n{content}")
    monkeypatch.setattr("gateloop.compose.packed", lambda name: tmp_path / name)
    with pytest.raises(InputError):
        compose(["data=mine"])


def test_a_choice_of_the_users_own_composes(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(
        "# @package _global_\ndata: {name: text, path: corpus, batch_size: 2}\n"
    )
    monkeypatch.setattr("gateloop.compose.packed", lambda name: tmp_path / name)
    config = compose(["data=mine"])
    assert type(config.data) is TextConfig
    assert (config.data.name, config.data.path) == ("text", "corpus")


def test_the_documentation_has_the_table_of_the_schema():
    """Run ``python tests/test_compose.py`` to write the table again."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert BEGIN in text
    assert text.split(BEGIN)[1].split(END)[0].strip() == table().strip()


DOCUMENT = ROOT / "docs" / "configuration.md"
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def table() -> str:
    """Every key as Markdown, section by section."""
    lines = []
    for title, section in sections().items():
        lines += [
            "",
            f"**{title}**",
            "",
            "| key | default | takes | what | in the id |",
            "|---|---|---|---|---|",
        ]
        for key in section:
            cells = [
                f"`{key.name}`",
                f"`{shown(key.default)}`",
                key.expected,
                key.doc,
                "yes" if key.identity else "no",
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
