"""python -m gateloop.tables: every form of every table, from records alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateloop import tables
from gateloop.errors import InputError
from gateloop.experiment.archive import Archive
from gateloop.experiment.schema import load_experiment
from tests.table.small import fill

FILES = "table.md table.tex table.csv figure.png figure.svg curves.png curves.svg".split()
PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The experiment ``states`` with its records, and runs/ as it stands while runs go on."""
    _, locks = fill(tmp_path)
    for lock in locks:
        os.close(lock)
    return tmp_path


def arguments(folder: Path, runs: str = "runs") -> list[str]:
    results = folder / "results"
    return [
        str(folder / "states.yaml"),
        f"--results={results}",
        f"--runs-dir={folder / runs}",
    ]


def process(root: Path, *given: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateloop.tables", *given],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def content(folder: Path) -> dict[str, bytes]:
    made = folder / "results" / "states"
    found = {name: (made / name).read_bytes() for name in FILES}
    return {**found, "README.md": (folder / "results" / "README.md").read_bytes()}


def test_the_same_records_give_the_same_bytes(root: Path, folder: Path) -> None:
    """In two processes, whatever order sets have, the user's matplotlibrc and the date."""
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    (copy / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\n")
    first = process(root, *arguments(folder), PYTHONHASHSEED="1", TZ="UTC")
    second = process(
        root,
        *arguments(copy),
        PYTHONHASHSEED="2",
        TZ="Asia/Tokyo",
        SOURCE_DATE_EPOCH="1000000000",
        MATPLOTLIBRC=str(copy / "matplotlibrc"),
    )
    assert (first.returncode, first.stderr) == (second.returncode, second.stderr) == (0, "")
    assert content(folder) == content(copy)
    found = content(folder)
    assert found["figure.png"].startswith(PNG) and found["curves.svg"].startswith(SVG)


def test_a_clone_rebuilds_every_file(folder: Path) -> None:
    """Without runs/, in which everything has ended, and without what was made before."""
    shutil.rmtree(folder / "runs")
    assert tables.main(arguments(folder)) == 0
    before = content(folder)
    for name in FILES:
        (folder / "results" / "states" / name).unlink()
    assert tables.main(arguments(folder, "none")) == 0
    assert content(folder) == before


def test_a_picture_is_drawn_anew_where_its_numbers_are_others(folder: Path) -> None:
    assert tables.main(arguments(folder)) == 0
    made = folder / "results" / "states"
    # as another version of matplotlib would have written it
    drawn = (made / "figure.svg").read_bytes()
    (made / "figure.svg").write_bytes(drawn + b"\n")
    assert tables.main(arguments(folder)) == 0
    assert (made / "figure.svg").read_bytes() == drawn + b"\n"
    (record,) = (made / "records").glob("gateloop-*-s0-*.json")
    record.write_text(record.read_text().replace("0.995", "0.985"))
    assert tables.main(arguments(folder)) == 0
    assert (made / "figure.svg").read_bytes() not in (drawn, drawn + b"\n")
    shutil.rmtree(made / "records")
    assert tables.main(arguments(folder, "none")) == 0
    assert sorted(path.name for path in made.iterdir()) == ["table.csv", "table.md", "table.tex"]


def test_damaged_records_are_a_line_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = folder / "results" / "states" / "records"
    (records / "cut.json").write_text('{"id": "x",\n "identity"')
    (records / "other.json").write_text("[]")
    run = next(path for path in (folder / "runs").iterdir() if path.is_dir())
    (run / "manifest.json").write_text("\n\n{")
    assert tables.main(arguments(folder)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("gateloop: ") for line in lines)
    assert [name in "\n".join(lines) for name in ("cut.json", "other.json", run.name)] == [True] * 3
    assert "0.995 ± 0.004" in (folder / "results" / "states" / "table.md").read_text()


@pytest.mark.parametrize("name", ["README.md", "results/states/outcome.md"])
def test_a_page_that_is_not_utf8_is_one_line(folder: Path, name: str) -> None:
    """And nothing is written."""
    (folder / name).write_bytes("Ergebnis für alle".encode("latin-1"))
    with pytest.raises(InputError, match=f"{name} is not UTF-8; save it as UTF-8"):
        tables.main(arguments(folder))
    assert not (folder / "results" / "README.md").exists()
    assert not (folder / "results" / "states" / "table.md").exists()


def test_another_experiments_page_that_is_not_utf8(folder: Path) -> None:
    page = folder / "results" / "wt2" / "table.md"
    page.parent.mkdir()
    page.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"wt2/table\.md is not UTF-8; save it as UTF-8"):
        tables.main(arguments(folder))


def test_the_index(folder: Path, root: Path) -> None:
    """Every shipped experiment, what others wrote beside them, and nothing twice."""
    results = folder / "results"
    note = results / "by_hand"
    note.mkdir()
    (note / "README.md").write_text("# Measured by hand\n")
    assert tables.main(arguments(folder)) == 0
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "- [Measured by hand](by_hand/README.md)" in page
    assert "- [Every state & sign: 100 % of them](states/table.md)" in page
    for path in sorted((root / "experiments").glob("*.yaml")):
        assert page.count(f"]({path.stem}/table.md)") == 1
        assert f"`python -m gateloop.reproduce {path.stem}`" in page
    for link in re.findall(r"!\[[^]]*\]\((.*?)\)", page):
        assert (results / link).is_file()
    assert "## Trials" not in page and "## Runs" not in page


def test_a_shipped_experiment_without_records(root: Path, tmp_path: Path) -> None:
    name = sorted(path.stem for path in (root / "experiments").glob("*.yaml"))[0]
    options = [f"--results={tmp_path / 'results'}", f"--runs-dir={tmp_path / 'runs'}"]
    assert tables.main([name, *options]) == 0
    made = tmp_path / "results" / name
    assert sorted(path.name for path in made.iterdir()) == ["table.csv", "table.md", "table.tex"]
    table = (made / "table.md").read_text(encoding="utf-8")
    table = table.partition("## Outcome")[2].partition("\n## ")[0]
    assert "Not measured yet: GateLoop, " in table and "|" not in table
    page = (tmp_path / "results" / "README.md").read_text(encoding="utf-8")
    assert f"`python -m gateloop.reproduce {name}`" in page and "figure.png" not in page
    experiment = load_experiment(name)
    assert Archive(made, tmp_path / "runs").faults == []
    assert f"[{experiment.title}]({name}/table.md)" in page


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["no_such"], "no_such: no such experiment; choose one of"),
        (["baselinse"], "did you mean baselines?"),
        (["--wandb", "x"], "--wandb x: expected entity/project"),
        (["--nothing"], "unrecognized arguments: --nothing; see python -m gateloop.tables --help"),
    ],
)
def test_wrong_arguments(root: Path, tmp_path: Path, given: list[str], line: str) -> None:
    done = process(root, *given, f"--results={tmp_path}", f"--runs-dir={tmp_path}")
    assert done.returncode == 2 and done.stdout == ""
    assert line in done.stderr and done.stderr.count("\n") == 1


def test_a_page_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# My project\n")
    with pytest.raises(InputError, match=r"README\.md would be replaced, and is no page of this"):
        tables.main(["baselines", f"--results={tmp_path}", f"--runs-dir={tmp_path / 'runs'}"])
    assert [*tmp_path.iterdir()] == [page] and page.read_text() == "# My project\n"


GOOD = "numbers:\n  - {key: published, metric: m, value: 1, model: M, source: S}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numbers: [", "line 1: .*correct the YAML"),
        ("numbers: 3", "numbers: expected a list"),
        ("number: []", "number: no such key; did you mean numbers?"),
        (GOOD.replace("value: 1", "value: many"), r"numbers\[0\].value: expected a number"),
        (GOOD.replace("value: 1", "value: .nan"), r"numbers\[0\].value: nan; must be finite"),
        (GOOD.replace(", source: S", ""), r"numbers\[0\].source: missing"),
        (GOOD.replace("S}", "S, confidence: sure}"), "'sure' is not one of known, derived"),
        (GOOD + GOOD.partition("\n")[2], r"numbers\[1\]: published has m already; keep one"),
        (GOOD.replace("published", "other"), "row best: reported: published is no key of"),
    ],
)
def test_malformed_published_numbers(folder: Path, text: str, message: str) -> None:
    (folder / "results" / "reported.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        tables.main(arguments(folder))
    assert "\n" not in str(caught.value)


def test_the_shipped_numbers_are_in_order(tmp_path: Path, root: Path) -> None:
    """Every row that names one finds it; without a file of one's own they are taken."""
    from gateloop.table.reported import load_reported

    known = load_reported(tmp_path)
    assert known == load_reported(root / "results")
    assert known["wt103_gateloop"]["test/perplexity"].value == 13.4
    for path in sorted((root / "experiments").glob("*.yaml")):
        rows = load_experiment(str(path)).rows
        assert {row.reported for row in rows if row.reported} <= known.keys()


def test_a_missing_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        tables.main(arguments(folder))
