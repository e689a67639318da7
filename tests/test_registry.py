"""Models of other packages: who declares what, and the line for each thing that can be wrong."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateloop.compose import choices, compose
from gateloop.errors import InputError
from gateloop.forecast import forecast
from gateloop.help import help_text, information, sections
from gateloop.identity import run_id
from gateloop.keys import config_yaml
from gateloop.models import build, time_mixing
from gateloop.names import ModeName
from gateloop.registry import MODELS, model_entry, model_names, package_of
from gateloop.training.record import load_config

ROOT = Path(__file__).resolve().parents[1]

CONFIG = """
    from dataclasses import dataclass, field
    from gateloop.model_config import ModelConfig
    from gateloop.registry import ModelEntry
    from gateloop.setting import setting

    @dataclass
    class Config(ModelConfig):
        heads: int = setting(4, "how many voices there are", least=1)
"""
ENTRY = "\n    ENTRY = ModelEntry(Config, 'choir_mixer:Mixer')"
MIXER = """
    from torch import nn
    from gateloop.models.time_mixer import TimeMixer
    from gateloop.names import ModeName
    from gateloop.recurrence import gated_linear_recurrence

    class Mixer(TimeMixer):
        def __init__(self, d_model, *, heads):
            super().__init__()
            self.state_shape = (heads, d_model // heads, d_model // heads)
            self.projection = nn.Linear(d_model, 3 * d_model)

        def forward(self, x, state=None, *, reset=None, mode=None):
            q, k, v = self.projection(x).unflatten(-1, (3, self.state_shape[0], -1)).unbind(-3)
            y, after = gated_linear_recurrence(
                q, k, v, q.new_full((1, 1, 1, 1), -0.1), None, state=state and state[0],
                reset=reset, mode=ModeName(mode or "auto").value,
            )
            return y.flatten(-2), (after,)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lays a package out as an installer does: its metadata, its entry points, its modules."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def lay(package: str, points: str, **modules: str) -> None:
        folder = site / f"{package.replace('-', '_')}-0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
        (folder / "entry_points.txt").write_text(f"[gateloop.models]\n{points}\n")
        for name, source in modules.items():
            (site / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    yield lay
    for name, module in list(sys.modules.items()):
        if str(site) in (getattr(module, "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def choir(install: Install) -> None:
    install("choir-model", "choir = choir:ENTRY", choir=CONFIG + ENTRY, choir_mixer=MIXER)


# -- a model of another package ----------------------------------------------------------


def test_this_packages_models_come_first(choir: None) -> None:
    assert model_names() == [*MODELS, "choir"]
    assert choices("model") == [*sorted(MODELS), "choir"]
    assert model_entry("s5") is MODELS["s5"]
    assert package_of("choir") == "choir-model 0.1" and package_of("s5") is None


def test_it_composes_with_every_size_mode_and_data(choir: None) -> None:
    for mode in ("auto", "recurrent", "scan", "chunkwise", "attention"):
        for data in ("memory_horizon", "wt2", "wt103"):
            config = compose(
                ["model=choir", f"mode={mode}", f"data={data}", "size=tiny", "model.heads=2"]
            )
            assert (config.model.name, config.model.heads) == ("choir", 2)
            assert config.model.d_model == 128 and config.mode.name.name == mode
    assert "heads: 4" in config_yaml(compose(["model=choir"]))
    default, given = (run_id(compose(["model=choir", *more])) for more in ([], ["model.heads=2"]))
    assert default.startswith("choir-memory_horizon-s0-") and default != given


def test_a_group_that_is_left_out_leaves_nothing_of_its_default(
    choir: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/model/gateloop.yaml").write_text("name: gateloop\ndropout: 0.25\n")
    monkeypatch.setattr("gateloop.compose.packed", lambda name: tmp_path / name)
    assert compose([]).model.dropout == 0.25
    assert compose(["model=choir"]).model.dropout == 0


@pytest.mark.parametrize(
    ("line", "named", "remedy"),
    [
        ("model=choir model.heads=0", "model.heads=0", "≥ 1"),
        ("model=choir model.head=2", "model.head=2", "did you mean model.heads?"),
        ("model=choir model.gate=true", "model.gate", "this run has model=choir"),
        ("model=choir mode=convolution", "mode=convolution", "recurrent, scan, chunkwise"),
        ("model=chior", "model=chior", "did you mean choir?"),
        ("choir", "choir", "did you mean model=choir?"),
    ],
)
def test_a_mistake_in_it_is_like_any_other(line: str, named: str, remedy: str, choir: None) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*\Z") as caught:
        compose(line.split())
    assert named in str(caught.value) and remedy in str(caught.value)


def test_it_builds_from_its_keys_and_meets_a_budget(choir: None) -> None:
    config = compose(["model=choir", "size=tiny", "model.heads=2", "dry_run=true"])
    model = build(config.model, 5, 6)
    assert [tuple(part.shape) for part in model.init_state(3)] == [(3, 2, 64, 64)] * 2
    size = sum(parameter.numel() for parameter in model.blocks.parameters())
    assert abs(size / config.model.parameters - 1) < 0.02
    assert "parameters:" in forecast(config)


def test_its_config_is_read_back(choir: None, tmp_path: Path) -> None:
    config = compose(["model=choir", "model.heads=2"])
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert load_config(tmp_path) == config


def test_help_has_its_name_and_its_keys_when_asked(choir: None) -> None:
    assert "choir" in help_text()
    assert "how many voices there are" not in help_text()
    assert "choir" not in sys.modules, "a name is listed without the package"
    asked = information(["model=choir", "--help"])
    assert asked is not None and "model=choir\n  model.heads = 4\n" in asked
    assert list(sections()) == [title for title in sections(["choir"]) if title != "model=choir"]


def test_it_is_checked_without_torch(choir: None, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from gateloop.compose import compose
        from gateloop.help import information
        compose(["model=choir", "model.heads=2"])
        information(["model=choir", "--help"])
        print("torch" in sys.modules, "choir_mixer" in sys.modules)
    """
    path = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False False\n", done.stderr


def test_a_package_seen_twice_on_the_path_is_one(
    choir: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again" / "choir.model-0.2.dist-info"
    again.mkdir(parents=True)
    (again / "METADATA").write_text("Metadata-Version: 2.1\nName: Choir.Model\nVersion: 0.2\n")
    (again / "entry_points.txt").write_text("[gateloop.models]\nchoir = elsewhere:ENTRY\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(again.parent)])
    assert package_of("choir") == "choir-model 0.1"
    assert model_entry("choir").mixer == "choir_mixer:Mixer"


# -- what can be wrong -------------------------------------------------------------------

FAULTS = {
    "no such module": ("choir = nowhere:ENTRY", "", "ModuleNotFoundError: No module named"),
    "no such name": ("choir = choir:MODEL", CONFIG + ENTRY, "has no attribute 'MODEL'"),
    "no name": ("choir = choir", CONFIG + ENTRY, "cannot import choir"),
    "breaks": ("choir = choir:ENTRY", "1 / 0", "ZeroDivisionError: division by zero"),
    "is no Python": ("choir = choir:ENTRY", "def", "SyntaxError: invalid syntax"),
    "ends the process": ("choir = choir:ENTRY", "raise SystemExit(7)", "SystemExit: 7"),
    "says much": ("choir = choir:ENTRY", "raise OSError('one\\ntwo')", "OSError: one)"),
    "no entry": ("choir = choir:Config", CONFIG, "is of type type; make it a gateloop.registry"),
    "config of another kind": (
        "choir = choir:ENTRY",
        CONFIG + "\n    ENTRY = ModelEntry(dict, 'choir_mixer:Mixer')",
        "config dict, which is not derived from ModelConfig",
    ),
    "config that is no class": (
        "choir = choir:ENTRY",
        CONFIG + "\n    ENTRY = ModelEntry(Config(), 'choir_mixer:Mixer')",
        "not derived from ModelConfig",
    ),
    "config without @dataclass": (
        "choir = choir:ENTRY",
        CONFIG.replace("    @dataclass\n", "") + ENTRY,
        "config Config, which is no dataclass; write @dataclass",
    ),
    "key without a default": (
        "choir = choir:ENTRY",
        CONFIG + "        voice: str = field(kw_only=True)" + ENTRY,
        "a key that cannot be set (TypeError: ",
    ),
    "key of another type": (
        "choir = choir:ENTRY",
        CONFIG + "        voice: dict = field(default_factory=dict)" + ENTRY,
        "a key that cannot be set (KeyError: ",
    ),
    "default of another type": (
        "choir = choir:ENTRY",
        CONFIG + "        voice: int = setting('four', '')" + ENTRY,
        "a key that cannot be set (ValidationError: ",
    ),
    "mixer that is no text": (
        "choir = choir:ENTRY",
        CONFIG + "\n    ENTRY = ModelEntry(Config, dict)",
        "has mixer=<class 'dict'>; write it as a text",
    ),
    "modes as text": (
        "choir = choir:ENTRY",
        CONFIG + "\n    ENTRY = ModelEntry(Config, 'choir_mixer:Mixer', ('scan',))",
        "make it a tuple of ModeName (recurrent,",
    ),
    "a name for no folder": ("choir/../x = choir:ENTRY", CONFIG + ENTRY, "letters, digits"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_broken_package_is_one_line_and_stops_no_other_model(case: str, install: Install) -> None:
    points, source, reason = FAULTS[case]
    install("choir-model", points, choir=source, choir_mixer=MIXER)
    name, _, value = points.partition(" = ")
    with pytest.raises(InputError, match=r"\A[^\n]*\Z") as caught:
        compose([f"model={name}" if "/" not in name else f"model='{name}'"])
    line = str(caught.value)
    assert line.startswith(f"model={name}: the entry point {name} = {value} of the package choir")
    assert line.endswith(", or pip uninstall choir-model")
    assert reason in line
    assert compose(["model=s5"]).model.name == "s5"
    assert name in help_text()


MIXERS = {
    "no such module": ("", "cannot import choir_mixer:Mixer (ModuleNotFoundError"),
    "no such name": ("Other = int", "has no attribute 'Mixer'"),
    "no mixer": ("Mixer = dict", "names the mixer choir_mixer:Mixer, which is no TimeMixer"),
    "a function": ("def Mixer(d_model): ...", "which is no TimeMixer"),
    "other modes": (
        MIXER + "\n        modes = (ModeName.scan,)",
        "has the modes recurrent, scan, chunkwise, attention, and choir_mixer:Mixer has scan;",
    ),
    "no resets": (
        MIXER + "\n        supports_reset = False",
        "has resets=True, and choir_mixer:Mixer has supports_reset=False",
    ),
}


@pytest.mark.parametrize("case", MIXERS)
def test_a_broken_mixer_is_one_line(case: str, install: Install) -> None:
    source, reason = MIXERS[case]
    modules = {"choir_mixer": source} if source else {}
    install("choir-model", "choir = choir:ENTRY", choir=CONFIG + ENTRY, **modules)
    config = compose(["model=choir"])
    with pytest.raises(InputError, match=r"\A[^\n]*\Z") as caught:
        build(config.model, 5, 6)
    line = str(caught.value)
    assert "the entry point choir = choir:ENTRY of the package choir-model" in line
    assert reason in line and line.endswith(", or pip uninstall choir-model")


def test_two_packages_with_one_name(install: Install) -> None:
    install("choir-model", "choir = choir:ENTRY", choir=CONFIG + ENTRY)
    install("other-choir", "choir = other:ENTRY\nsolo = choir:ENTRY", other=CONFIG + ENTRY)
    with pytest.raises(InputError) as caught:
        compose(["model=choir"])
    for part in ("choir = choir:ENTRY of the package choir-model", "choir = other:ENTRY", "rename"):
        assert part in str(caught.value)
    assert model_names().count("choir") == 1
    assert compose(["model=solo"]).model.name == "solo"


def test_a_name_of_this_packages_own(install: Install) -> None:
    install("choir-model", "s5 = choir:ENTRY\ns9 = choir:ENTRY", choir=CONFIG + ENTRY)
    with pytest.raises(InputError) as caught:
        compose(["model=s5"])
    for part in ("s5 = choir:ENTRY of the package choir-model", "gateloop's own", "rename"):
        assert part in str(caught.value)
    assert compose(["model=lru"]).model.name == "lru"
    assert compose(["model=s9"]).model.name == "s9"
    assert model_names().count("s5") == 1


def test_a_run_whose_package_is_gone(install: Install, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        config_yaml(compose([])).replace("name: gateloop", "name: choir", 1), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"choir: no such model.*install the package"):
        load_config(tmp_path)


@pytest.mark.parametrize("points", ["choir", "= choir:ENTRY", "\x00", "[", "choir = "])
def test_damaged_metadata_stop_nothing(points: str, install: Install) -> None:
    install("choir-model", points)
    assert compose([]).model.name == "gateloop"
    assert set(MODELS) <= set(model_names())


def test_this_packages_own_mistakes_are_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "s5", replace(MODELS["s5"], mixer="gateloop.models.s5:S55"))
    with pytest.raises(AttributeError):
        time_mixing(compose(["model=s5"]).model)
    assert ModeName.scan in MODELS["s5"].modes
