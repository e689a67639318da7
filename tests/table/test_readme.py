"""Tables inside a hand-written page."""

from __future__ import annotations

from gateloop.experiment.archive import Archive
from gateloop.experiment.plan import plan
from gateloop.experiment.schema import Column, Experiment, Panel, Row
from gateloop.table.content import tabulate
from gateloop.table.csv import csv
from gateloop.table.markdown import markdown
from gateloop.table.readme import filled

EXPERIMENT = Experiment(
    "T",
    "p",
    [Column("test/accuracy", "accuracy"), Column("test/L512_R12/accuracy", "longer")],
    [Row("GateLoop")],
    panels=[Panel("one"), Panel("two, 3×", ["trainer.max_steps=9"], {"longer": ""})],
    reported=["alone"],
    name="mine",
)


def table(tmp_path):  # type: ignore[no-untyped-def]
    from gateloop.table.reported import Reported

    archive = Archive(tmp_path / "results/mine", tmp_path / "runs")
    number = Reported("alone", "test/perplexity", 18.5, "Hybrid H3", "a paper")
    score = archive.score
    cells = plan(EXPERIMENT, score)
    return tabulate(EXPERIMENT, cells, archive.outcome, score, {"alone": {number.metric: number}})


PAGE = """# Mine
<!-- table mine: two, 3× -->
old
<!-- end of table -->
<!-- table mine: three -->
kept
<!-- end of table -->
<!-- table other: one -->
kept too
<!-- end of table -->
The end.
"""


def test_only_what_stands_between_this_tables_marks_is_written_anew(tmp_path) -> None:  # type: ignore[no-untyped-def]
    page = filled(PAGE, table(tmp_path))
    new, rest = page.split("<!-- end of table -->", 1)
    head = "# Mine\n<!-- table mine: two, 3× -->\n|  | accuracy | longer |\n|---|---|---|\n"
    assert new.startswith(head + "| GateLoop | missing | – |\n")
    assert rest == PAGE.split("<!-- end of table -->", 1)[1]
    assert filled(page, table(tmp_path)) == page


def test_a_mark_without_its_end_takes_no_text_with_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    unclosed = "<!-- table mine: one -->\nBy hand.\n\n"
    page = filled(unclosed + PAGE, table(tmp_path))
    assert page == unclosed + filled(PAGE, table(tmp_path)) != unclosed + PAGE


def test_a_panel_without_a_metric_has_no_line_for_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lines = csv(table(tmp_path)).splitlines()[1:]
    asked = [tuple(line.split(",")[i] for i in (-12, -11)) for line in lines]
    assert len(lines) == 3 and "longer" not in str(asked)
    assert sum("test/L512_R12/accuracy" in line for line in lines) == 1


def test_published_numbers_without_a_row_and_a_hand_written_outcome(tmp_path) -> None:  # type: ignore[no-untyped-def]
    page = markdown(table(tmp_path), [], "\nIt fell as it fell.\n")
    assert "\n- 18.5 test/perplexity, Hybrid H3 (a paper; known)\n" in page
    assert page.index("yet: GateLoop.") < page.index("It fell as it fell.") < page.index("18.5")
