"""What an experiment wants to run, as far as what has run decides it."""

import math
from pathlib import Path

import pytest

from gateloop.errors import InputError
from gateloop.experiment.plan import Job, Setting, Stage, merged, plan
from gateloop.experiment.schema import Column, Experiment, Panel, Row, Tuning, load_experiment

COLUMNS = [Column("test/accuracy", "accuracy")]
ROWS = [Row("GateLoop", ["model=gateloop"]), Row("GRU", ["model=gru"])]


def experiment(**changes: object) -> Experiment:
    return Experiment("T", "p", COLUMNS, ROWS, **changes)  # type: ignore[arg-type]


def not_run(_: Job) -> None:
    return None


def test_every_row_in_every_panel_by_every_seed() -> None:
    panels = [Panel("modsum"), Panel("hold", ["data.task=hold"])]
    cells = plan(experiment(panels=panels, seeds=[3, 4]), not_run)
    assert [(cell.panel.label, cell.row.label) for cell in cells] == [
        ("modsum", "GateLoop"),
        ("modsum", "GRU"),
        ("hold", "GateLoop"),
        ("hold", "GRU"),
    ]
    jobs = [job for cell in cells for job in cell.jobs]
    assert {job.stage for job in jobs} == {Stage.final}
    assert len({job.key for job in jobs}) == len(jobs) == 8
    last = cells[3].final[1]
    assert last.arguments == ("data.task=hold", "model=gru", "seed=4")
    assert (last.config.model.name, last.config.seed) == ("gru", 4)
    assert last.title == "hold · GRU · seed 4"


def test_later_overrides_count() -> None:
    assert merged(["a=1", "b=2"], ["a=3"], ["c=4"]) == ["a=3", "b=2", "c=4"]


def test_only_and_seeds_and_changes() -> None:
    (cell,) = plan(experiment(), not_run, only=["GRU"], seeds=[7], changes=["trainer.max_steps=10"])
    assert cell.final[0].config.trainer.max_steps == 10 and cell.final[0].seed == 7
    with pytest.raises(InputError, match=r"--only GRUU: no such row; .* did you mean GRU"):
        plan(experiment(), not_run, only=["GRUU"])


def test_a_key_knows_nothing_that_does_not_define_the_result() -> None:
    one = plan(experiment(), not_run)[0].final[0]
    other = plan(experiment(), not_run, changes=["tracker=none", "trainer.threads=1"])[0].final[0]
    assert one.key == other.key


def test_what_does_not_compose_names_its_place() -> None:
    wrong = experiment(panels=[Panel("hold", ["data.task=hld"])])
    with pytest.raises(InputError, match=r"hold · GateLoop: data.task=hld: .* did you mean hold"):
        plan(wrong, not_run)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("runs_dir=elsewhere", "give --runs-dir to the command"),
        ("dry_run=true", "give --dry-run to the command"),
        ("rerun=true", "delete a run's folder"),
    ],
)
def test_where_and_whether_runs_are_made_is_the_commands(override: str, remedy: str) -> None:
    message = (
        f"GateLoop: {override}: not for a run that a command starts; leave it out, or {remedy}"
    )
    with pytest.raises(InputError, match=message):
        plan(experiment(overrides=[override]), not_run)
    with pytest.raises(InputError, match=message):
        plan(experiment(), not_run, changes=[override])


# -- tuning ------------------------------------------------------------------------------

TUNING = Tuning(
    {"optimizer.lr": [0.01, 0.1]},
    overrides=["trainer.max_steps=5"],
    extend="optimizer.lr",
    factor=10,
    times=2,
)
TWO = Row("GateLoop", [], {"small": ["model.d_model=8"], "large": ["model.d_model=16"]})


def tuned(score) -> tuple[list[Setting], Setting | None, list[Job]]:  # type: ignore[no-untyped-def]
    (cell,) = plan(Experiment("T", "p", COLUMNS, [TWO], tuning=TUNING, seeds=[1, 2]), score)
    return [job.setting for job in cell.trials], cell.chosen, cell.final


def lr(job: Job) -> float:
    return dict(job.setting.point)["optimizer.lr"]


def test_trials_come_first() -> None:
    trials, chosen, final = tuned(not_run)
    assert [t.label for t in trials] == [
        "small, lr 0.01",
        "small, lr 0.1",
        "large, lr 0.01",
        "large, lr 0.1",
    ]
    assert chosen is None and final == []


def test_an_edge_is_extended_until_the_best_lies_inside() -> None:
    def score(job: Job) -> float:
        return abs(math.log10(lr(job))) + (job.setting.variant == "small")  # best: large, lr 1

    trials, chosen, final = tuned(score)
    assert sorted({dict(t.point)["optimizer.lr"] for t in trials}) == [0.01, 0.1, 1.0, 10.0]
    assert chosen == Setting("large", (("optimizer.lr", 1.0),))
    assert [job.seed for job in final] == [1, 2]
    assert final[0].config.optimizer.lr == 1.0 and final[0].config.model.d_model == 16
    assert final[0].config.trainer.max_steps != 5  # that is the trials'


def test_a_whole_number_of_the_grid_stays_one(tmp_path: Path) -> None:
    """A key such as model.layers takes no other."""
    path = tmp_path / "whole.yaml"
    path.write_text(
        "title: T\nprediction: p\ncolumns: [{metric: test/accuracy, title: accuracy}]\n"
        "rows: [{label: GateLoop}]\n"
        "tuning: {grid: {model.layers: [1, 2]}, extend: model.layers, times: 1}\n"
    )
    (cell,) = plan(load_experiment(str(path)), lambda job: -job.config.model.layers)
    assert [job.config.model.layers for job in cell.trials] == [1, 2, 4]
    assert cell.final[0].arguments == ("model.layers=4", "seed=0")


def test_extensions_end() -> None:
    trials, chosen, _ = tuned(lambda job: -lr(job))
    assert len(trials) == 2 * (2 + TUNING.times)
    assert chosen is not None and dict(chosen.point)["optimizer.lr"] == 10.0


def test_an_extension_ends_where_the_keys_range_does() -> None:
    tuning = Tuning({"model.dropout": [0.3, 0.6]}, extend="model.dropout", factor=2, times=2)
    dropout = experiment(tuning=tuning)
    cell = plan(dropout, lambda job: -job.config.model.dropout)[0]
    assert [job.config.model.dropout for job in cell.trials] == [0.3, 0.6]
    assert cell.chosen == Setting("", (("model.dropout", 0.6),))


def test_a_half_done_extension_waits() -> None:
    trials, chosen, _ = tuned(lambda job: None if lr(job) == 1.0 else -lr(job))
    assert len(trials) == 6 and chosen is None


def test_diverged_trials_are_never_the_best() -> None:
    _, chosen, _ = tuned(lambda job: math.inf if job.setting.variant == "large" else 1.0)
    assert chosen is not None and chosen.variant == "small"
    (cell,) = plan(Experiment("T", "p", COLUMNS, [TWO], tuning=TUNING), lambda job: math.inf)
    assert cell.chosen is None and cell.failure == "none of 4 trials has a finite val/loss"
