"""The architecture, read off the import statements and checked in fresh processes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gateloop"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up. A unit imports from lower layers and from its own; in APART, only from lower.
LAYERS = [
    {
        "errors",
        "names",
        "setting",
        "model_config",
        "baseline_config",
        "config",
        "files",
        "document",
    },
    {"keys", "registry", "derived", "draft", "validation", "identity"},
    {"recurrence"},
    {"models", "data"},
    {"training"},
    {"inspection"},
    {"command", "compose", "forecast", "generate", "help", "launching", "loading", "run"},
    {"experiment"},
    {"table"},
    {"sweeping", "benchmark"},
    {"bench", "inspect", "reproduce", "sweep", "tables"},
]
EXPERIMENTS = {"experiment", "table", "sweeping", "reproduce", "sweep", "tables"}
APART = {"models", "data"}
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
NO_TORCH = LAYERS[0] | LAYERS[1] | {"data", "command", "compose", "help", "launching"} | EXPERIMENTS
NO_LIGHTNING = {unit for rank in range(RANK["training"]) for unit in LAYERS[rank]}
NO_HYDRA = {unit for rank in range(RANK["compose"]) for unit in LAYERS[rank]}
OPTIONAL = {
    "accelerated_scan",
    "datasets",
    "fla",
    "gateloop_transformer",
    "huggingface_hub",
    "jax",
    "matplotlib",
    "optuna",
    "pandas",
    "pyarrow",
    "scipy",
    "sentencepiece",
    "submitit",
    "tensorboard",
    "tokenizers",
    "wandb",
}
# imported for a command line's check, for --help, or to skip a finished run
LIGHT = [
    "gateloop",
    "gateloop.bench",
    "gateloop.compose",
    "gateloop.data",
    "gateloop.generate",
    "gateloop.help",
    "gateloop.identity",
    "gateloop.run",
    "gateloop.sweep",
    "gateloop.training.record",
]


def unit_of(file: Path) -> str:
    """The layer table's name for a file: its folder or module directly under the package."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of everything imported anywhere in a tree; relative imports are refused."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(body: list[ast.stmt]) -> Iterator[str]:
    """Names imported when the module is: not in functions, not under TYPE_CHECKING."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
            yield from at_import_time(statement.orelse)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from imported(statement)
        else:
            for field in ("body", "orelse", "finalbody"):
                yield from at_import_time(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from at_import_time(handler.body)


def complaints(unit: str, name: str) -> str | None:
    """Why a file of ``unit`` may not import ``name``, or None."""
    top, _, rest = name.partition(".")
    if top == "torch" and unit in NO_TORCH:
        return "knows no torch"
    if top == "lightning":
        return "pytorch_lightning is imported everywhere, never lightning"
    if top == "pytorch_lightning" and unit in NO_LIGHTNING:
        return "knows no Lightning"
    if top == "hydra" and unit in NO_HYDRA:
        return "knows no Hydra"
    target = rest.partition(".")[0]
    if top != "gateloop" or target == unit or target not in RANK:
        return None
    if RANK[target] > RANK[unit]:
        return "imports upwards"
    if RANK[target] == RANK[unit] and unit in APART:
        return "stands apart"
    return None


def test_imports_run_downwards() -> None:
    # __init__ is the front door; that it opens nothing by itself is tested below
    units = {file: unit_of(file) for file in FILES if unit_of(file) != "__init__"}
    placeless = set(units.values()) - RANK.keys()
    assert not placeless, "give them a place in LAYERS"
    wrong = [
        f"{file.relative_to(ROOT)}: {name}: {unit} {why}"
        for file, unit in units.items()
        for name in imported(parse(file))
        if (why := complaints(unit, name))
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("recurrence", "gateloop.models.block.Block"),
        ("models", "gateloop.data.IGNORE"),
        ("models", "pytorch_lightning"),
        ("training", "gateloop.run.main"),
        ("training", "hydra.compose"),
        ("data", "torch.nn"),
        ("config", "gateloop.keys.keys"),
    ],
)
def test_the_rule_refuses(unit: str, name: str) -> None:
    assert complaints(unit, name)


def test_optional_packages_are_imported_only_where_used() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in FILES
        for name in at_import_time(parse(file).body)
        if name.split(".")[0] in OPTIONAL
    ]
    assert not wrong


def test_import_time_is_told_from_call_time() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import pandas
try:
    import wandb
except ImportError:
    import numpy
def later():
    import datasets
class Kept:
    import tokenizers
"""
    names = list(at_import_time(ast.parse(source).body))
    assert names == ["typing.TYPE_CHECKING", "wandb", "numpy", "tokenizers"]


def test_a_command_line_is_checked_without_torch(root: Path) -> None:
    code = f"import sys, {', '.join(LIGHT)}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_modules_are_short() -> None:
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
