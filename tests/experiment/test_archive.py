"""How runs stand: the committed records, with what is in runs/ beside them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateloop.data import fingerprint, wikitext
from gateloop.experiment import corpus
from gateloop.experiment.archive import Archive, Runs, State
from gateloop.experiment.plan import Cell, Job, plan
from gateloop.experiment.record import FAILURE, Record, keep
from gateloop.experiment.schema import Column, Experiment, Panel, Row
from gateloop.identity import identity, run_id

EXPERIMENT = Experiment(
    "T", "p", [Column("test/accuracy", "a")], [Row("GRU", ["model=gru"])], name="x"
)
PANEL = Panel("", [])


@pytest.fixture
def cells() -> list[Cell]:
    return plan(EXPERIMENT, lambda job: None)


@pytest.fixture
def job(cells: list[Cell]) -> Job:
    return cells[0].final[0]


def content(job: Job, accuracy: float = 0.5, **changes: Any) -> dict[str, Any]:
    return {
        "id": run_id(job.config),
        "status": "finished",
        "data": "memory_horizon",
        "seed": job.seed,
        "causal": True,
        "metrics": {"test/accuracy": accuracy},
        "identity": identity(job.config),
        **changes,
    }


def run(folder: Path, job: Job, accuracy: float = 0.5, **changes: Any) -> Path:
    """A run's folder, as far as a record comes from it."""
    record = content(job, accuracy, **changes)
    path = folder / "runs" / record["id"]
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"identity": record.pop("identity")}))
    (path / "summary.json").write_text(json.dumps(record))
    return path


def accuracy(archive: Archive, job: Job) -> float | None:
    record = archive.outcome(job).record
    return record.metric("test/accuracy") if record else None


def test_an_ended_run_is_copied_once(tmp_path: Path, cells: list[Cell], job: Job) -> None:
    run(tmp_path, job)
    archive = Archive(tmp_path, tmp_path / "runs")
    assert archive.outcome(job).state is State.measured
    assert [record.id for record in archive.keep(cells)] == [run_id(job.config)]
    written = (tmp_path / "records" / f"{run_id(job.config)}.json").read_bytes()
    assert archive.keep(cells) == [] and not archive.faults
    clone = Archive(tmp_path, tmp_path / "none")
    assert clone.outcome(job).state is State.measured and accuracy(clone, job) == 0.5
    again = Archive(tmp_path, tmp_path / "runs")
    assert again.keep(cells) == []
    assert (tmp_path / "records" / f"{run_id(job.config)}.json").read_bytes() == written


def test_a_measured_cell_stays(tmp_path: Path, cells: list[Cell], job: Job) -> None:
    """Whatever became of the run in runs/ since."""
    keep(content(job), tmp_path / "records")
    path = run(tmp_path, job, 0.9)
    archive = Archive(tmp_path, tmp_path / "runs")
    archive.keep(cells)
    assert accuracy(archive, job) == 0.5
    (fault,) = archive.faults
    assert str(path) in fault and "another result" in fault and "which stays" in fault
    (path / "summary.json").unlink()
    archive = Archive(tmp_path, tmp_path / "runs")
    assert archive.outcome(job).state is State.measured and not archive.faults


def test_a_records_copy_under_another_name_does_not_count(tmp_path: Path, job: Job) -> None:
    """Whichever of the two names sorts last."""
    record = keep(content(job), tmp_path / "records")
    for name in ("a.json", "z.json"):
        copy = keep(content(job, 0.9), tmp_path).where.rename(record.where.with_name(name))
        archive = Archive(tmp_path, tmp_path / "none")
        assert accuracy(archive, job) == 0.5
        assert archive.faults == [f"{copy}: holds the record of {record.id}; rename or delete it"]
        copy.unlink()


def test_a_finished_run_takes_a_diverged_ones_place(
    tmp_path: Path, cells: list[Cell], job: Job
) -> None:
    keep(content(job, status="diverged", metrics={}), tmp_path / "records")
    archive = Archive(tmp_path, tmp_path / "runs")
    assert archive.outcome(job).state is State.diverged
    run(tmp_path, job, 0.7)
    archive = Archive(tmp_path, tmp_path / "runs")
    archive.keep(cells)
    assert accuracy(Archive(tmp_path, tmp_path / "none"), job) == 0.7


def test_two_runs_of_a_cell(tmp_path: Path, cells: list[Cell], job: Job) -> None:
    """The same numbers are no news; other numbers are, and both records are kept."""
    run(tmp_path, job, id="gru-memory_horizon-s0-aaaaaaaa")
    run(tmp_path, job, id="gru-memory_horizon-s0-bbbbbbbb")
    archive = Archive(tmp_path, tmp_path / "runs")
    archive.keep(cells)
    assert not archive.outcome(job).others
    run(tmp_path, job, 0.9, id="gru-memory_horizon-s0-cccccccc")
    Archive(tmp_path, tmp_path / "runs").keep(cells)
    outcome = Archive(tmp_path, tmp_path / "none").outcome(job)
    assert outcome.record is not None and outcome.record.id.endswith("aaaaaaaa")
    assert [record.id[-8:] for record in outcome.others] == ["cccccccc"]


def wikitext_job(folder: Path) -> Job:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"wiki.{split}.tokens").write_text(" = A = \n one two three \n" * 20)
    return job_of(f"data.path={folder}", data="wt103")


def job_of(*overrides: str, data: str) -> Job:
    kind = (
        [] if any("tokenizer=" in override for override in overrides) else ["data.tokenizer=byte"]
    )
    given = [f"data={data}", *kind, *overrides]
    return plan(replace(EXPERIMENT, overrides=given), lambda job: None)[0].final[0]


def test_another_corpus_fills_no_cell_until_the_whole_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = wikitext_job(tmp_path / "text")
    keep(content(job, data="wt103-partial"), tmp_path / "records")
    archive = Archive(tmp_path, tmp_path / "none")
    assert archive.outcome(job).state is State.other_corpus
    words = {"train": 160, "validation": 160, "test": 160}
    monkeypatch.setitem(wikitext.OFFICIAL, "wt103", words)
    assert archive.outcome(job).state is State.missing
    run(tmp_path, job, 0.9, data="wt103", id="gru-wt103-s0-ffffffff")
    archive = Archive(tmp_path, tmp_path / "runs")
    assert archive.outcome(job).state is State.measured and accuracy(archive, job) == 0.9


def test_the_name_of_a_wikitexts_folder_says_nothing(tmp_path: Path) -> None:
    given = ["data.tokenizer=sentencepiece", f"data.tokenizer_path={tmp_path / 'own.model'}"]
    job = job_of(*given, f"data.path={tmp_path / 'here'}", data="wt2")
    fetched = {**content(job), "data": "wt2", "facts": {"file": "there"}}
    archive = Archive(tmp_path, Runs(tmp_path / "none", [Record(tmp_path, fetched)]))
    assert archive.outcome(job).state is State.measured


def test_two_texts_are_two_runs(tmp_path: Path) -> None:
    texts = [tmp_path / "first.txt", tmp_path / "second.txt"]
    for text in texts:
        text.write_text(f"{text.stem} of all\n" * 50)
    first, second = (job_of(f"data.path={text}", data="text") for text in texts)
    assert first.key != second.key and first.recipe == second.recipe

    def made(job: Job, accuracy: float) -> None:
        mark, name = fingerprint(job.config.data), Path(job.config.data.path).name
        changes = {"identity": identity(job.config, mark), "id": run_id(job.config, mark)}
        path = run(tmp_path, job, accuracy, data="text", **changes)
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "data": {"file": name}}))

    made(first, 0.1)
    archive = Archive(tmp_path, tmp_path / "runs")
    assert accuracy(archive, first) == 0.1
    assert archive.outcome(second).state is State.missing
    fetched = {**content(first), "data": "text", "facts": {"file": "first.txt"}}  # from W&B
    elsewhere = Archive(tmp_path, Runs(tmp_path / "none", [Record(tmp_path, fetched)]))
    assert [accuracy(elsewhere, job) for job in (first, second)] == [0.5, None]
    failure = {"identity": identity(first.config, fingerprint(first.config.data))}
    (tmp_path / "runs" / "failed").mkdir()
    (tmp_path / "runs" / "failed" / FAILURE).write_text(json.dumps(failure))
    assert Archive(tmp_path, tmp_path / "runs").outcome(second).state is State.missing
    cells = [Cell(PANEL, EXPERIMENT.rows[0], final=[second])]
    assert archive.keep(cells) == []
    made(second, 0.2)
    archive = Archive(tmp_path, tmp_path / "runs")
    cells += [Cell(PANEL, EXPERIMENT.rows[0], final=[first])]
    assert len(archive.keep(cells)) == 2
    for there in (True, False):  # the texts; their names are left
        archive = Archive(tmp_path, tmp_path / "none")
        assert [accuracy(archive, job) for job in (first, second)] == [0.1, 0.2], there
        corpus._KNOWN.clear()
        for text in texts:
            text.unlink(missing_ok=True)


def test_what_has_not_ended(tmp_path: Path, job: Job) -> None:
    path = run(tmp_path, job, status="running")
    assert Archive(tmp_path, tmp_path / "runs").outcome(job).state is State.unfinished
    (path / FAILURE).write_text("{}")
    archive = Archive(tmp_path, tmp_path / "runs")
    assert archive.outcome(job).state is State.failed
    (path / "summary.json").write_text(json.dumps(content(job)))
    assert archive.outcome(job).state is State.failed
    archive.read(path)
    assert archive.outcome(job).state is State.measured


@pytest.mark.parametrize("name", ["manifest.json", "summary.json", "metrics.jsonl", "test.json"])
def test_a_damaged_run_is_one_line(tmp_path: Path, cells: list[Cell], job: Job, name: str) -> None:
    (run(tmp_path, job) / name).write_text('[{"step"')
    archive = Archive(tmp_path, tmp_path / "runs")
    archive.keep(cells)
    assert archive.outcome(job).record is None
    (fault,) = archive.faults
    assert "cannot be read" in fault and run_id(job.config) in fault


def test_fetched_records_are_runs_as_well(tmp_path: Path, cells: list[Cell], job: Job) -> None:
    fetched = Record(Path("elsewhere"), content(job, 0.8))
    archive = Archive(tmp_path, Runs(tmp_path / "none", [fetched]))
    archive.keep(cells)
    assert accuracy(Archive(tmp_path, tmp_path / "none"), job) == 0.8


def test_a_trials_score(tmp_path: Path, job: Job) -> None:
    curve = {"val/loss": {"steps": [1, 2], "values": [0.3, 0.2]}}
    records = tmp_path / "records"
    keep(content(job, curves=curve), records)
    assert Archive(tmp_path, tmp_path / "none").score(job) == 0.2
    keep(content(job, curves=curve, data="another"), records)
    assert Archive(tmp_path, tmp_path / "none").score(job) is None
