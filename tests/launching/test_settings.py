"""What conf/launcher and ``--launcher-option`` may say, and what is refused with which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateloop.errors import InputError
from gateloop.files import packed
from gateloop.launching.settings import Executor, Local, Slurm, load_settings

SHIPPED = sorted(path.stem for path in packed("conf/launcher").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_launcher_is_the_schema_at_its_defaults(name: str) -> None:
    schema = {Executor.slurm: Slurm, Executor.local: Local}
    settings = load_settings(name)
    assert settings == schema[settings.executor](settings.executor)


def test_options_stand_over_the_file() -> None:
    options = ["partition=gpu", "account=0123", "minutes=60", "gpus_per_node=4", "tasks_per_node=4"]
    options += ["nodes=2", "memory_gb=1.5", "sbatch.qos=high", "sbatch.exclusive=true"]
    settings = load_settings("slurm", options)
    assert isinstance(settings, Slurm)
    assert (settings.partition, settings.account, settings.minutes) == ("gpu", "0123", 60)
    assert settings.memory_gb == 1.5
    assert settings.sbatch == {"qos": "high", "exclusive": True}
    assert settings.overrides == ["trainer.devices=4", "trainer.nodes=2"]
    assert load_settings("slurm", ["partition=null"]).partition is None  # type: ignore[union-attr]


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("executor: slurm\npartition: a100\ngpus_per_node: 1\n", encoding="utf-8")
    settings = load_settings(str(file), ["cpus_per_task=8"])
    assert settings == Slurm(Executor.slurm, "a100", gpus_per_node=1, cpus_per_task=8)
    assert settings.overrides == [] and len(settings.seat.cores) == 8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partitoin=gpu", "partitoin: no such key; did you mean partition?"),
        ("minutes=long", "minutes: expected a whole number, found 'long'"),
        ("minutes=0", "minutes: 0 is out of range; expected a whole number ≥ 1"),
        ("requeues=-1", "requeues: -1 is out of range; expected a whole number ≥ 0"),
        ("memory_gb=0", "memory_gb: 0 is out of range; expected a number above 0"),
        ("memory_gb=.inf", "memory_gb: inf is out of range; expected a number above 0"),
        ("gpus_per_node", "not of the form key=value"),
        ("executor=local", "comes with the launcher; give --launcher another"),
        ("minutes={", "the value cannot be read"),
        ("minutes=2024-13-45", "the value cannot be read"),
        ("partition=a\nrm", "partition: expected one line of text"),
        ("sbatch.comment=a\nrm", "sbatch.comment: expected one line of text"),
        ("sbatch.time=60", "sbatch.time: is set from the other keys, or not to be changed"),
        ("sbatch.--qos=high", "sbatch.--qos: no parameter of sbatch; write its long name"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(option: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_settings("slurm", [option])
    assert str(raised.value).startswith(f"--launcher-option {option}: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["minutes=1"], "grace_seconds: 120 is not within minutes=1; take less"),
        (["gpus_per_node=4", "tasks_per_node=2"], "tasks_per_node: 2 processes and 4 GPUs on each"),
        (["gpus_per_node=4", "nodes=2"], "tasks_per_node: 1 processes and 4 GPUs on each"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_settings("slurm", options)
    assert str(raised.value).startswith(f"--launcher slurm: {message}")


def test_this_machine_has_no_partitions() -> None:
    with pytest.raises(InputError, match="partition: no such key"):
        load_settings("local", ["partition=gpu"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("partition: gpu", "executor: missing; expected one of slurm, local"),
        ("executor: slrum", "executor: 'slrum' is not one of slurm, local; did you mean slurm?"),
        ("executor: slurm\nsbatch: {output: x}", "sbatch.output: is set from the other keys"),
        ("executor: slurm\nsbatch: {qos: [1]}", "sbatch.qos: expected a text, a number or true"),
        ("[slurm]", "the file: expected keys and values"),
        ("executor: !!python/object:os.system x", "line 1: could not determine a constructor"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_settings(str(file))
    assert str(raised.value).startswith(f"{file}: {message}")
    assert "\n" not in str(raised.value)


def test_an_unknown_launcher() -> None:
    with pytest.raises(InputError, match=r"slrum: no such launcher; .*did you mean slurm\?"):
        load_settings("slrum")
