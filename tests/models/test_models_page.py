"""docs/models.md: its table of sizes is what the models have, all within 2% of each other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from gateloop.compose import compose
from gateloop.forecast import forecast
from gateloop.registry import MODELS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "models.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sizes", DOCS / "sizes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_sizes_is_that_of_the_code(script: ModuleType) -> None:
    assert script.table() in PAGE


def test_all_counts_lie_within_two_percent_of_each_other(script: ModuleType) -> None:
    for size in script.SIZES:
        counts = [
            int(count.replace(",", ""))
            for label, given in script.ARMS.items()
            for count in [cell_of(label, script.SIZES.index(size))]
        ]
        assert len(counts) == len(script.ARMS) and max(counts) / min(counts) <= 1.02


def test_the_largest_size_has_widths_that_processors_like(script: ModuleType) -> None:
    place = script.SIZES.index("125m")
    for label in script.ARMS:
        (row,) = re.findall(rf"^\| {re.escape(label)} \|(.*)$", table_of_sizes(), re.M)
        assert int(row.split("|")[2 * place]) % 8 == 0
        off = re.search(r"\(([-+][\d.]+) %\)", row.split("|")[2 * place + 1])
        assert off is not None and abs(float(off[1])) <= 0.15


def cell_of(label: str, size: int) -> str:
    (row,) = re.findall(rf"^\| {re.escape(label)} \|(.*)$", table_of_sizes(), re.M)
    return row.split("|")[1 + 2 * size].split("(")[0].strip()


def table_of_sizes() -> str:
    return PAGE.split("<!-- sizes -->")[1].split("<!-- end of sizes -->")[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_dry_run_prints_the_count_of_the_page(name: str) -> None:
    said = forecast(compose([f"model={name}", "size=125m", "data=wt103", "dry_run=true"]))
    (row,) = re.findall(rf"^\| `{name}` \|(.*)$", table_of_sizes(), re.M)
    assert f"{row.split('|')[6].strip()} (" in said


def test_every_model_is_on_the_page() -> None:
    first = PAGE.split("## Where they differ")[0]
    named = re.findall(r"^\| (`.*?) \|", first, re.M)
    assert {name for row in named for name in re.findall(r"`(\w+)`", row)} == set(MODELS)
