"""docs/add-a-model.md: its package, really installed, goes through everything a run has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.end_to_end.processes import Run
from tests.test_project import commands

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "add-a-model.md"
MODES = ("auto", "recurrent", "scan", "chunkwise", "attention")
SMALL = """
    model=fading size=tiny model.heads=8 data.length=32 data.resets=2 data.batch_size=4
    data.test_lengths=[48] data.test_resets=[2] data.test_samples=8 data.validation_samples=8
    trainer.max_steps=4 trainer.device=cpu optimizer.warmup_steps=1 tracker=none
""".split()


@cache
def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the page's package; the environment stays as it is."""
    source = tmp_path_factory.mktemp("source")
    (source / "pyproject.toml").write_text(blocks("toml")[0], encoding="utf-8")
    (source / "fading_attention.py").write_text(blocks("python")[0], encoding="utf-8")
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    done = subprocess.run([*pip, *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in target.iterdir()} >= {
        "fading_attention.py",
        "fading_attention-0.1.dist-info",
    }
    return target


def succeed(run: Run) -> str:
    ended = run.finish()
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def python(code: str, folder: Path, packages: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_whole_model_is_forty_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_it_runs_in_every_mode_and_the_modes_agree(packages: Path, tmp_path: Path) -> None:
    metrics = {}
    for mode in MODES:
        run = Run(tmp_path / mode, *SMALL, f"mode={mode}", packages=packages)
        succeed(run)
        summary = run.summary()
        assert summary["id"].startswith("fading-memory_horizon-s0-")
        assert (summary["status"], summary["model"], summary["mode"]) == (
            "finished",
            "fading",
            mode,
        )
        assert summary["causal"]
        metrics[mode] = summary["metrics"]
    for mode in MODES:
        for name in ("test/loss", "test/L48_R2/loss"):
            assert metrics[mode][name] == pytest.approx(metrics["recurrent"][name], rel=1e-3)
    (session,) = json.loads((run.path / "manifest.json").read_text())["sessions"]
    assert session["model_package"] == "fading-attention 0.1"

    again = Run(tmp_path / MODES[-1], *SMALL, f"mode={MODES[-1]}", packages=packages)
    assert "is finished" in succeed(again)
    loaded = python(
        f"import gateloop; model, _, config = gateloop.load({str(run.path)!r});"
        "print(config.model.heads, sum(p.numel() for p in model.parameters()))",
        tmp_path,
        packages,
    )
    assert loaded.split() == ["8", str(summary["parameters"])]
    ended = Run(tmp_path / MODES[-1], *again.command[3:]).finish()
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "model=fading: no such model" in ended.stderr


def test_it_writes_text(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("the river and the road\n" * 400, encoding="utf-8")
    run = Run(
        tmp_path,
        *("model=fading data=text data.path=book.txt data.tokenizer=byte data.length=32".split()),
        *("data.batch_size=4 trainer.max_steps=4 trainer.device=cpu tracker=none".split()),
        *("data.cache_dir=cache optimizer.warmup_steps=1 data.reset_at_documents=true".split()),
        packages=packages,
    )
    succeed(run)
    write = Run(
        tmp_path,
        *(str(run.path), "--prompt", "the river", "--tokens", "5"),
        module="gateloop.generate",
        packages=packages,
    )
    assert succeed(write).startswith("the river")


def test_what_the_page_says_to_type(packages: Path, tmp_path: Path) -> None:
    typed = [words for words in commands(PAGE) if words[0] == "gateloop.run"]
    assert len(typed) >= 3
    for number, words in enumerate(typed):
        stops = {"--help", "dry_run=true"} & set(words)
        arguments = words[1:] if stops else [*words[1:], "dry_run=true"]
        out = succeed(Run(tmp_path / str(number), *arguments, packages=packages))
        if "--help" in words:
            assert "\nmodel=fading\n  model.heads = 4\n" in out
        elif "size=125m" in words:
            layers = int(re.search(r"\(([\d,]+) in the layers", out)[1].replace(",", ""))
            assert abs(layers / 60742656 - 1) < 0.02
    wrong = Run(tmp_path, "model=fading", "model.heads=3", packages=packages).finish()
    assert wrong.returncode == 2 and wrong.stderr.startswith("gateloop: model.heads=3: take a div")


def test_the_pages_check_of_a_mixer_passes(packages: Path, tmp_path: Path) -> None:
    python(blocks("python")[1], tmp_path, packages)
