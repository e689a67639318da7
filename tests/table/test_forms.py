"""A run in every state, as Markdown, LaTeX and CSV show it: the golden files are read by eye."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateloop.table.content import Table
from gateloop.table.latex import escaped, latex
from tests.table.small import FORMS, GOLDEN, fill, table_of


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    folder = tmp_path_factory.mktemp("states")
    experiment, locks = fill(folder)
    yield table_of(experiment, folder)
    for lock in locks:
        os.close(lock)


@pytest.mark.parametrize("name", FORMS)
def test_golden(table: Table, name: str) -> None:
    """To renew them: python -m tests.table.small, and read the difference."""
    assert FORMS[name](table) == (GOLDEN / name).read_text(encoding="utf-8")


def test_what_is_bold(table: Table) -> None:
    """Neither what looks ahead, though the best, nor what lacks a seed, though its interval is
    the widest."""
    bold = {line.label for line in table.lines for entry in line.entries if entry.leads}
    assert bold == {"best", "tied"}


def test_a_reported_number_is_in_no_mean(table: Table) -> None:
    line = next(line for line in table.lines if line.reported)
    assert line.reported["test/perplexity"].value not in line.entries[1].by_seed.values()
    assert line.entries[1].mean == pytest.approx(2000 - 768.8 * 0.995)


def test_latex_knows_every_character() -> None:
    shown = escaped("α β Ω Δ ± × ≤ → ↑ … “q” é _ & % $ # { } ~ ^ \\ < > | 中 \n x")
    assert shown.startswith(r"$\alpha$ $\beta$ $\Omega$ $\Delta$ $\pm$ $\times$ $\leq$")
    assert shown.endswith(r"\textbackslash{} $<$ $>$ $|$ ? x")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(table: Table, tmp_path: Path) -> None:
    text = latex(table) + escaped("αβγδθλμπσφψωΓΔΘΛΞΠΣΥΦΨΩ ±×·↑↓→≤≥≈∞⊙ −–—…’“” éßł <>| 中")
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\n"
        "\\begin{document}\\input{table}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    log = (tmp_path / "page.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert not re.search("Missing character|Misplaced", log)
    assert (tmp_path / "page.pdf").stat().st_size > 1000
