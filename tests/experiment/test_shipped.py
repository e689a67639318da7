"""Every experiment of ``experiments/``: its runs compose, and its columns are what they measure."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import pytest

from gateloop.config import MemoryHorizonConfig
from gateloop.data import open_source
from gateloop.experiment.plan import Cell, plan
from gateloop.experiment.schema import FOLDER, load_experiment
from gateloop.files import packed
from gateloop.table.reported import load_reported

NAMES = sorted(path.stem for path in packed(FOLDER).glob("*.yaml"))
AUDIT = {
    "test/causality_gap",
    "test/audit_perplexity_parallel",
    "test/audit_perplexity_prefix",
}
OF_TEXT = {f"test/{name}" for name in ("loss", "perplexity", "word_perplexity", "bits_per_byte")}


@cache
def cells(name: str) -> list[Cell]:
    return plan(load_experiment(name), lambda _: None)


@pytest.mark.parametrize("name", NAMES)
def test_every_run_composes_and_no_row_is_another_under_a_new_name(name: str) -> None:
    for cell in cells(name):
        keys = [job.key for job in [*cell.jobs, *cell.later]]
        assert keys and len(set(keys)) == len(keys), cell.row.label
    for one, other in combinations(cells(name), 2):
        if one.panel is other.panel:
            shared = {j.key for j in [*one.jobs, *one.later]} & {j.key for j in other.jobs}
            assert not shared, (one.row.label, other.row.label)


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_metrics_of_the_runs(name: str) -> None:
    experiment = load_experiment(name)
    for cell in cells(name):
        data = (cell.trials or cell.final)[0].config.data
        if isinstance(data, MemoryHorizonConfig):
            tests = [test.name for test in open_source(data).evaluations("test")]
            parts = ["test/" + (f"{test}/" if test else "") for test in tests]
            known = AUDIT | {part + score for part in parts for score in ("accuracy", "loss")}
        else:
            known = AUDIT | OF_TEXT
        asked = {cell.panel.metrics.get(c.title, c.metric) for c in experiment.columns} - {""}
        assert asked <= known, cell.panel.label


@pytest.mark.parametrize("name", NAMES)
def test_what_it_names_is_there(name: str) -> None:
    experiment = load_experiment(name)
    named = {row.reported for row in experiment.rows if row.reported} | {*experiment.reported}
    assert named <= load_reported(packed("results")).keys()
    titles = {column.title for column in experiment.columns}
    assert all(set(panel.metrics) <= titles for panel in experiment.panels)


def test_the_ablation_and_its_twin_ask_the_same() -> None:
    def asked(name: str) -> list[tuple[str, str]]:
        rows = load_experiment(name).rows
        return [(row.section, row.label) for row in rows if row.section != "depth"]

    assert asked("wt2_ablation") == asked("wt103_ablation")


def test_the_paper_s_scale_takes_the_settings_of_the_small_one() -> None:
    small, large, long = (
        {row.label: row.overrides for row in load_experiment(name).rows}
        for name in ("memory_horizon", "memory_horizon_paper", "length")
    )
    assert small == large
    assert all(long[label] == small[label] for label in small.keys() & long.keys())
