"""The claim of docs/numerics.md, measured again by its own script."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "numerics.py"


@pytest.fixture(scope="module")
def numerics() -> ModuleType:
    spec = importlib.util.spec_from_file_location("numerics", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_products_turn_non_finite_and_log_differences_do_not(numerics: ModuleType) -> None:
    x = numerics.inputs(64, 0.0)
    products = numerics.prefix_products(*x)
    # where both are finite they are the same recurrence
    assert numerics.error(products, numerics.step_loop(*x)) < 1e-5
    x = numerics.inputs(512, 0.0)
    expected = numerics.step_loop(*x)
    assert numerics.finite(numerics.prefix_products(*x)) < 0.5
    for mode in numerics.MODES:
        y = numerics.log_differences(mode, x)
        assert numerics.finite(y) == 1 and numerics.error(y, expected) < 1e-6


@torch.no_grad()
def test_gates_in_bfloat16_cost_accuracy(numerics: ModuleType) -> None:
    x = numerics.inputs(512, 8.0)
    expected = numerics.step_loop(*x)
    assert numerics.error(numerics.step_loop(*numerics.in_bfloat16(x)), expected) > 1e-3


@torch.no_grad()
def test_phases_summed_from_the_start_lose_digits(numerics: ModuleType) -> None:
    x = numerics.inputs(1024, 4.0, phase=1.0)
    expected = numerics.step_loop(*x)
    by_chunk = numerics.error(numerics.log_differences("chunkwise", x), expected)
    assert numerics.error(numerics.phase_by_global_sums(*x), expected) > 20 * by_chunk
