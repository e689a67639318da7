"""The command: what it writes for a run on Memory Horizon and on text, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gateloop import inspect
from gateloop.data.memory_horizon import draw
from gateloop.errors import InputError
from gateloop.inspection import pictures
from gateloop.inspection.transitions import mean_attention, observe
from gateloop.loading import load
from tests.test_generate import train_on_text
from tests.training.small import config, train

PICTURES = [f"{n}.{f}" for n in ("attention", "memory", "transitions") for f in ("png", "svg")]
ALWAYS = {"arrays.npz", "channels.md", *PICTURES}
SCORED = {"interventions.json", "interventions.md"}
BY_TOKEN = {"by_token.png", "by_token.svg"}


def trained(folder: Path, *overrides: str) -> Path:
    train(config("data.length=20", *overrides), folder)
    return folder / "run"


@pytest.fixture(scope="module")
def horizon_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("horizon"))


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_text(tmp_path_factory.mktemp("text"), "model.short_convolution=3")


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not rendered, which takes seconds."""
    forms = ("png", "svg")
    monkeypatch.setattr(pictures, "_files", lambda _, name: {f"{name}.{f}": b"" for f in forms})


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateloop.inspect", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what is written ---------------------------------------------------------------------


@pytest.mark.usefixtures("sketched")
def test_memory_horizon(
    horizon_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b"
    assert inspect.main([str(horizon_run), "--out", str(out), "--sample", "3"]) == 0
    assert {path.name for path in out.iterdir()} == ALWAYS | SCORED | BY_TOKEN
    shown = capsys.readouterr().out
    assert (out / "channels.md").read_text() in shown
    assert (out / "interventions.md").read_text().split("\n\n", 2)[2] in shown
    assert shown.endswith(f"written to {out}\n")
    found = json.loads((out / "interventions.json").read_text())
    assert found["run"] == "run"
    assert {effect["sequences"] for effect in found["effects"]} == {8}  # all that the test has
    assert {effect["test"] for effect in found["effects"]} == {"", "L12_R4"}
    assert "phases rounded to 2π/50" in {effect["intervention"] for effect in found["effects"]}


@pytest.mark.usefixtures("sketched")
def test_arrays_are_the_models_own(horizon_run: Path, tmp_path: Path) -> None:
    inspect.main([str(horizon_run), "--out", str(tmp_path), "--sample", "3", "--sequences", "0"])
    layers = observe(load(horizon_run).model, draw(0, 2, 3, 1, 20, 2))
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["tokens"].tolist() == draw(0, 2, 3, 1, 20, 2)[0].tolist()
        assert arrays["resets"].tolist() == (arrays["tokens"] == 5).tolist()
        for number, layer in enumerate(layers):
            for name, part in {
                "log_amplitude": layer.log_amplitude_BLHK,
                "phase": layer.phase_BLHK,
                "query": layer.q_BLHK,
                "key": layer.k_BLHK,
                "value": layer.v_BLHV,
                "attention": mean_attention(layer, 0)[None],
            }.items():
                kept = arrays[f"layer{number}_{name}"]
                assert np.allclose(kept, part[0], rtol=1e-4, atol=1e-6)
                assert kept.shape == ((20, 20) if name == "attention" else (20, 16, 1))
        assert len(arrays.files) == 2 + 6 * len(layers)


def test_the_same_bytes_from_another_process(
    horizon_run: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [str(horizon_run), "--sequences", "3", "--out"]
    assert inspect.main([*given, str(tmp_path / "one")]) == 0
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    done = command(*given, tmp_path / "two", cwd=root)
    assert done.returncode == 0 and done.stderr == ""
    seen = [content(tmp_path / name) for name in ("one", "two")]
    assert seen[0] == seen[1] and seen[0].keys() == ALWAYS | SCORED | BY_TOKEN
    assert all(seen[0].values())


@pytest.mark.usefixtures("sketched")
def test_text_then_without_interventions(
    text_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(text_run), "--text", "the red is ä$", "--sequences"]
    assert inspect.main([*given, "2"]) == 0
    out = text_run / "inspection"
    assert {path.name for path in out.iterdir()} == ALWAYS | SCORED
    names = {
        e["intervention"] for e in json.loads((out / "interventions.json").read_text())["effects"]
    }
    assert "as trained" in names and not [n for n in names if "resets" in n or "rounded" in n]
    assert "phase, radians" in capsys.readouterr().out
    assert inspect.main([*given, "0"]) == 0
    assert {path.name for path in out.iterdir()} == ALWAYS
    with np.load(out / "arrays.npz", allow_pickle=False) as arrays:
        assert bytes(arrays["tokens"].tolist()).decode() == "the red is ä$"


@pytest.mark.usefixtures("sketched")
def test_a_text_that_has_changed_is_not_scored(tmp_path: Path) -> None:
    made = train_on_text(tmp_path, "model.gate=false")
    text = tmp_path / "text.txt"
    text.write_text(text.read_text(encoding="utf-8") + "more\n" * 50, encoding="utf-8")
    given = [str(made), "--text", "the red", "--sequences"]
    with pytest.raises(InputError) as caught:
        inspect.main([*given, "2"])
    assert str(caught.value) == (
        f"{text} is no longer the text that {made} was trained on; put that back; "
        "or give --sequences 0 for the pictures alone"
    )
    assert not (made / "inspection").exists()
    assert inspect.main([*given, "0"]) == 0


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.transition.amplitude.control=fixed", "model.transition.phase.control=fixed"],
        ["model.transition.amplitude.control=one", "model.transition.phase.control=none"],
        ["model.transition.domain=signed", "data.task=hold"],
        ["data.task=modsum_noreset", "model.heads=2", "model.d_key=2", "model.d_value=3"],
    ],
)
@pytest.mark.usefixtures("sketched")
def test_other_transitions_and_tasks(overrides: list[str], tmp_path: Path) -> None:
    run = trained(tmp_path, *overrides)
    assert inspect.main([str(run), "--sequences", "2"]) == 0
    assert {path.name for path in (run / "inspection").iterdir()} == ALWAYS | SCORED | BY_TOKEN


# -- what is refused ---------------------------------------------------------------------


def refused(message: str, *arguments: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        inspect.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)


def test_the_wrong_kind_of_run(horizon_run: Path, text_run: Path) -> None:
    refused("memory_horizon, which is no text; give --sample", horizon_run, "--text", "a")
    refused("--sample: .* was trained on text; give --text", text_run, "--sample", "0")
    refused("was trained on text; give some with --text", text_run)
    refused("--sample 8: the run's test has samples 0 to 7", horizon_run, "--sample", "8")
    refused("--sample -1: the run's test has samples 0 to 7", horizon_run, "--sample", "-1")
    refused("--text '': must be UTF-8, and not empty", text_run, "--text", "")
    refused("--text '.udcff': must be UTF-8", text_run, "--text", "\udcff")
    refused("--sequences -1: must be 0 or more", text_run, "--sequences", "-1")
    refused("unrecognized arguments: --colour", text_run, "--colour")
    assert not (horizon_run / "inspection").exists()


def test_another_model_is_named(tmp_path: Path) -> None:
    run = trained(tmp_path, "model=gla", "model.parameters=null")
    refused("holds model=gla; only a run of model=gateloop can be inspected", run)
    assert not (run / "inspection").exists()


@pytest.mark.usefixtures("sketched")
def test_no_checkpoint_and_no_data(horizon_run: Path, text_run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_bytes((horizon_run / "config.yaml").read_bytes())
    refused("bare holds no checkpoint", bare)
    assert [path.name for path in bare.iterdir()] == ["config.yaml"]
    text = text_run.parents[1] / "text.txt"
    away = text.rename(tmp_path / "away.txt")
    try:
        refused("give --sequences 0 for the pictures alone", text_run, "--text", "a", "--out", bare)
        assert (
            inspect.main([str(text_run), "--text", "a", "--sequences", "0", "--out", str(bare)])
            == 0
        )
    finally:
        away.rename(text)


@pytest.mark.usefixtures("sketched")
def test_an_out_that_is_a_file(horizon_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(
        "file.*: a file stands where a folder is needed",
        horizon_run,
        "--out",
        tmp_path / "file",
        "--sequences",
        0,
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_without_matplotlib(horizon_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect.importlib.util, "find_spec", lambda name: None)
    refused("need matplotlib; pip install matplotlib", horizon_run)


def test_one_line_and_exit_2_without_torch(root: Path, horizon_run: Path) -> None:
    done = command("nowhere", cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gateloop: nowhere is not a run's folder: it has no config.yaml\n"
    code = (
        "import sys, gateloop.inspect\n"
        "try: gateloop.inspect.main(sys.argv[1:])\n"
        "except Exception as error: print('torch' in sys.modules, error)"
    )
    refused_early = subprocess.run(
        [sys.executable, "-c", code, str(horizon_run), "--text", "a"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert refused_early.stdout.startswith("False --text: ")
