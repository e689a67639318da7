"""A sweep of runs that are as small as runs can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from gateloop.sweeping.file import COMMAND

ROOT = Path(__file__).resolve().parents[2]
FIXED: dict[str, Any] = {
    "data": "memory_horizon",
    "data.length": 8,
    "data.resets": 1,
    "data.batch_size": 4,
    "data.test_lengths": [8],
    "data.test_resets": [1],
    "data.test_samples": 4,
    "data.validation_samples": 4,
    "model": "gateloop",
    "model.d_model": 4,
    "model.layers": 1,
    "trainer.max_steps": 2,
    "trainer.validate_every": 1,
}
RATE = {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}


def content(
    varied: dict[str, Any] | None = None, fixed: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """A sweep file's content; ``varied`` and ``fixed`` parameters, ``changes`` of other keys."""
    parameters = {key: {"value": value} for key, value in {**FIXED, **(fixed or {})}.items()}
    return {
        "method": "random",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "command": COMMAND,
        "parameters": {**parameters, **(varied or {"optimizer.lr": RATE})},
        **changes,
    }


def write(folder: Path, called: str = "small.yaml", **given: Any) -> Path:
    path = folder / called
    path.write_text(yaml.safe_dump(content(**given)), encoding="utf-8")
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateloop.sweep", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
