"""Each mode stands on its own, and no mode divides by products of transitions."""

import ast
from pathlib import Path

from gateloop.recurrence import FIXED_MODES

PACKAGE = Path(__file__).resolve().parents[2] / "gateloop" / "recurrence"
ADMITTED = {"__future__", "collections.abc", "math", "typing", "torch"}
ADMITTED |= {f"gateloop.recurrence.{name}" for name in ("derivative", "kernels", "transition")}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module or "")
    return found


def test_no_mode_imports_another() -> None:
    for mode in FIXED_MODES:
        for name in imports(PACKAGE / f"{mode}.py"):
            assert name in ADMITTED or name.startswith("torch."), (mode, name)


def test_the_recurrence_knows_nothing_above_it() -> None:
    for file in PACKAGE.glob("*.py"):
        for name in imports(file):
            assert not name.startswith("gateloop") or name.startswith("gateloop.recurrence"), file


def test_no_cumulative_product_anywhere() -> None:
    files = list(PACKAGE.glob("**/*.py"))
    assert len(files) >= 8
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "cumprod" not in text and "reciprocal" not in text, file
