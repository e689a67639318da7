"""A model file holds no scan, a mode file holds no parameter."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gateloop.models.gateloop as module
from tests.models.options import inputs, layer

SCANS = ("cumsum", "cumprod", "logcumsumexp", "associative_scan", "cummax", "conv1d", "fft")


def names(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_model_files_name_no_scan(root: Path) -> None:
    found = {
        (file.stem, scan)
        for file in (root / "gateloop/models").glob("*.py")
        for scan in SCANS
        for name in names(file)
        if scan in name
    }
    assert found <= {
        # which segment a step belongs to: a count of resets, no recurrence
        ("convolution", "cumsum"),
        # outside the recurrence: relative positions are prefix sums, S4's matrix is not diagonal
        ("transformer", "cumsum"),
        ("position", "cumsum"),
        ("s4", "fft"),
        ("dplr", "fft"),
    }


def test_mode_files_hold_no_parameter(root: Path) -> None:
    files = sorted((root / "gateloop/recurrence").rglob("*.py"))
    assert len(files) > 5
    for file in files:
        forbidden = {"Parameter", "Module", "nn", "torch.nn", "torch.nn.Parameter"}
        assert not forbidden & names(file), file.name
        assert not [name for name in names(file) if name.startswith("gateloop.models")]


class Count(TorchDispatchMode):
    """How many tensor operations run."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.number += 1
        return func(*args, **(kwargs or {}))


def test_outside_the_operator_no_work_is_done_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def operator(q: Tensor, k: Tensor, v: Tensor, *_: Tensor, **options: Tensor) -> object:
        return v, options["state"]

    monkeypatch.setattr(module, "gated_linear_recurrence", operator)
    mixer = layer("uneven", short_convolution=4)
    numbers = set()
    for length in (5, 50):
        reset = torch.zeros(2, length, dtype=torch.bool)
        with Count() as count:
            mixer(inputs(length, dtype=torch.float32), reset=reset)
        numbers.add(count.number)
    assert len(numbers) == 1
