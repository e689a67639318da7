"""Numbers as a reader wants them."""

from pathlib import Path

import pytest

from gateloop.experiment.archive import Archive, Outcome, State
from gateloop.experiment.plan import plan
from gateloop.experiment.record import Record
from gateloop.experiment.schema import Column, Experiment, Panel, Row
from gateloop.table.content import Entry, tabulate
from gateloop.table.latex import latex
from gateloop.table.markdown import panel_table
from gateloop.table.reported import Reported
from gateloop.table.words import heads, number, published, text


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.995, 3, "0.995"),
        (0.0, 3, "0.000"),
        (1.0, 3, "1.000"),
        (214.44, 3, "214.4"),
        (1234.54, 1, "1,234.5"),
        (1234.54, 0, "1,235"),
        (13.44, 1, "13.4"),
        (2.1e-6, 3, "2.1e-06"),
        (0.0004, 3, "4.0e-04"),
        (-0.5, 2, "-0.50"),
    ],
)
def test_number(value: float, digits: int, shown: str) -> None:
    assert number(value, digits) == shown


@pytest.mark.parametrize(
    ("mean", "deviation", "states", "shown"),
    [
        (0.995, 0.0042, [], "0.995 ± 0.004"),
        (1.0, 0.0001, [], "1.000 ± 0.000"),
        (1234.54, 12.345, [], "1,234.5 ± 12.3"),
        (2e-6, 1e-7, [], "2.0e-06 ± 1.0e-07"),
        (0.9, None, ["missing", "missing"], "0.900 (n = 1, 2 missing)"),
        (0.9, 0.1, ["diverged", "failed"], "0.900 ± 0.100 (n = 1, diverged, failed)"),
        (None, None, ["missing", "missing"], "missing"),
        (None, None, ["failed", "missing", "missing"], "failed, 2 missing"),
    ],
)
def test_text(mean: float | None, deviation: float | None, states: list[str], shown: str) -> None:
    assert text(Entry({0: 0.0}, states, mean, deviation), Column("m", "m")) == shown


@pytest.mark.parametrize("comparable", [True, False])
def test_a_number_of_another_task_has_no_difference(tmp_path: Path, comparable: bool) -> None:
    columns = [Column("test/accuracy", "accuracy", digits=2)]
    experiment = Experiment("T", "p", columns, [Row("a", reported="there")], name="mine")
    archive = Archive(tmp_path, tmp_path / "runs")
    cells = plan(experiment, archive.score)
    record = Record(tmp_path, {"metrics": {"test/accuracy": 0.5}, "status": "finished"})
    there = Reported("there", "test/accuracy", 0.2, "M", "a paper", comparable=comparable)
    table = tabulate(
        experiment,
        cells,
        lambda _: Outcome(State.measured, record),
        archive.score,
        {"there": {there.metric: there}},
    )
    (line,) = table.lines
    assert heads(table) == ["accuracy", "accuracy, reported"] + ["difference"] * comparable
    assert published(table, table.parts[0], line) == ["0.20"] + ["+0.30"] * comparable


def test_a_panels_own_metric_has_its_own_published_number(tmp_path: Path) -> None:
    columns = [Column("test/perplexity", "perplexity", digits=2)]
    panels = [Panel("tokens"), Panel("words", [], {"perplexity": "test/word_perplexity"})]
    experiment = Experiment("T", "p", columns, [Row("a", reported="there")], panels=panels)
    archive = Archive(tmp_path, tmp_path / "runs")
    metrics = {"test/perplexity": 14.0, "test/word_perplexity": 25.5}
    record = Record(tmp_path, {"metrics": metrics, "status": "finished"})
    numbers = {
        metric: Reported("there", metric, value, "M", "a paper")
        for metric, value in (("test/perplexity", 13.4), ("test/word_perplexity", 24.0))
    }
    cells = plan(experiment, archive.score)
    outcome = Outcome(State.measured, record)
    table = tabulate(experiment, cells, lambda _: outcome, archive.score, {"there": numbers})
    tokens, words = table.parts
    assert panel_table(table, tokens).endswith("| a | 14.00 | 13.40 | +0.60 |")
    assert panel_table(table, words).endswith("| a | 25.50 | 24.00 | +1.50 |")
    lines = [line for line in latex(table).splitlines() if line.startswith("a &")]
    assert lines == [r"a & 14.00 & 13.40 & +0.60 \\", r"a & 25.50 & 24.00 & +1.50 \\"]
