"""results/README.md: every experiment's first table and picture, and the other results."""

from __future__ import annotations

from pathlib import Path

from gateloop.experiment.schema import Experiment
from gateloop.files import read_text

HEAD = """# Results

Every table and picture below is made from the records beside it by `python -m gateloop.tables`,
which also writes this page. Each experiment's own page has its prediction, the other tables, the
trials and the runs; `table.csv` there has every seed, `table.tex` the table for LaTeX.
`reported.yaml` holds published numbers, none of them measured here."""


def index(results: Path, experiments: list[Experiment]) -> str:
    """The page, from the experiments' pages in ``results``; InputError where one is not UTF-8."""
    names = {experiment.name for experiment in experiments}
    blocks = [HEAD]
    for experiment in experiments:
        folder = results / experiment.name
        blocks.append(f"## [{experiment.title}]({experiment.name}/table.md)")
        table = _first_table(folder / "table.md")
        blocks.append(
            table or f"Not measured yet: `python -m gateloop.reproduce {experiment.given}`"
        )
        if (folder / "figure.png").is_file():
            blocks.append(f"![{experiment.title}]({experiment.name}/figure.png)")
    others = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        pages = [folder / name for name in ("README.md", "table.md") if (folder / name).is_file()]
        if pages and (folder.name not in names or pages[0].name == "README.md"):
            others.append(f"- [{_title(pages[0])}]({folder.name}/{pages[0].name})")
    blocks += ["## Other measurements and notes", "\n".join(others)] if others else []
    return "\n\n".join(blocks) + "\n"


def _first_table(page: Path) -> str:
    """The outcome's first table with its heading and its legend; "" where there is no page."""
    outcome = read_text(page).partition("\n## Outcome\n\n")[2].partition("\n\n## ")[0]
    blocks = outcome.split("\n\n")
    for i, block in enumerate(blocks):
        if block.startswith("|"):
            return "\n\n".join(blocks[: i + 1])
    return ""


def _title(page: Path) -> str:
    """The first heading, or the folder's name."""
    lines = page.read_text(encoding="utf-8", errors="replace").splitlines()
    headings = [line[2:].strip() for line in lines if line.startswith("# ")]
    return headings[0] if headings else page.parent.name
