"""What a launcher's file says: which jobs to ask for. No run knows of it, and no identity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from gateloop.document import load_tree, read
from gateloop.draft import choose
from gateloop.errors import InputError
from gateloop.files import packed
from gateloop.launching.seat import Seat

FOLDER = "conf/launcher"
# of sbatch's parameters, those that have a key of their own or that a job's way back depends on
TAKEN = {
    "account", "array", "chdir", "cpus-per-task", "error", "gpus-per-node", "job-name", "mem",
    "no-requeue", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition",
    "requeue", "signal", "time", "wrap",
}  # fmt: skip


class Executor(Enum):
    """Submitit's executors that are used here."""

    slurm = "slurm"
    local = "local"


@dataclass(frozen=True)
class Local:
    """Jobs of this machine."""

    executor: Executor
    minutes: int = 10080
    grace_seconds: int = 120


@dataclass(frozen=True)
class Slurm:
    """Jobs of a cluster; ``memory_gb`` is a node's, ``sbatch`` holds further parameters."""

    executor: Executor
    partition: str | None = None
    account: str | None = None
    minutes: int = 240
    grace_seconds: int = 120
    requeues: int = 50
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 4
    memory_gb: float = 16.0
    poll_seconds: int = 10
    sbatch: dict[str, Any] = field(default_factory=dict)

    @property
    def seat(self) -> Seat:
        """What each process of a job has; which cores and GPU they are, the cluster says."""
        return Seat(tuple(range(self.cpus_per_task)))

    @property
    def overrides(self) -> list[str]:
        """What a run must be told of its job's devices."""
        devices = max(self.tasks_per_node, self.gpus_per_node)
        several = {"trainer.devices": devices, "trainer.nodes": self.nodes}
        return [f"{key}={number}" for key, number in several.items() if number > 1]


SCHEMAS: dict[str, type[Local] | type[Slurm]] = {"slurm": Slurm, "local": Local}
LEAST = {"gpus_per_node": 0, "requeues": 0}


def load_settings(launcher: str, options: Sequence[str] = ()) -> Slurm | Local:
    """The launcher ``launcher``, a name in conf/launcher or a file, with ``key=value`` over it.

    Raises InputError with one line for the first mistake found.
    """
    path = find(launcher)
    tree = load_tree(path)
    try:
        settings = _typed(tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for option in options:
        try:
            _set(tree, type(settings), option)
            settings = _typed(tree)
        except InputError as error:
            raise InputError(f"--launcher-option {option}: {error}") from error
    try:
        _check_together(settings)
    except InputError as error:
        raise InputError(f"--launcher {launcher}: {error}") from error
    return settings


def find(given: str) -> Path:
    """The file that ``given`` names: a path, or a name in conf/launcher."""
    shipped = {path.stem: path for path in sorted(packed(FOLDER).glob("*.yaml"))}
    if given in shipped:
        return shipped[given]
    if Path(given).is_file():
        return Path(given)
    raise InputError(f"--launcher {given}: no such launcher; {choose(given, list(shipped))}")


def _typed(tree: Any) -> Slurm | Local:
    name = tree.get("executor") if isinstance(tree, dict) else None
    schema = SCHEMAS.get(name, Slurm) if isinstance(name, str) else Slurm
    settings = read(schema, tree)
    _check(settings)
    return settings


def _set(tree: dict[str, Any], schema: type, option: str) -> None:
    key, equals, text = option.partition("=")
    if not equals:
        raise InputError("not of the form key=value")
    if key == "executor":
        raise InputError("comes with the launcher; give --launcher another")
    if key.startswith("sbatch."):
        tree["sbatch"] = {**(tree.get("sbatch") or {}), key[7:]: text == "true" or text}
        return
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError("the value cannot be read") from error
    texts = {each.name for each in fields(schema) if "str |" in str(each.type)}
    if key in texts and value is not None:
        value = text  # account=0123 is no number
    tree[key] = value


def _check(settings: Slurm | Local) -> None:
    for each in fields(settings):
        value = getattr(settings, each.name)
        least = LEAST.get(each.name, 1)
        if each.type == "float" and not 0 < value < float("inf"):
            raise InputError(f"{each.name}: {value:g} is out of range; expected a number above 0")
        if each.type == "int" and value < least:
            raise InputError(
                f"{each.name}: {value} is out of range; expected a whole number ≥ {least}"
            )
        if isinstance(value, str):
            _check_text(each.name, value)
    if isinstance(settings, Slurm):
        _check_sbatch(settings.sbatch)


def _check_together(settings: Slurm | Local) -> None:
    if settings.grace_seconds >= 60 * settings.minutes:
        raise InputError(
            f"grace_seconds: {settings.grace_seconds} is not within minutes={settings.minutes}; "
            "take less"
        )
    if isinstance(settings, Slurm):
        tasks, gpus = settings.tasks_per_node, settings.gpus_per_node
        if tasks * settings.nodes > 1 and gpus and tasks != gpus:
            raise InputError(
                f"tasks_per_node: {tasks} processes and {gpus} GPUs on each node; take {gpus}, one "
                "for each GPU"
            )


def _check_sbatch(parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise InputError(f"sbatch.{name}: no parameter of sbatch; write its long name, no --")
        if name in TAKEN:
            raise InputError(
                f"sbatch.{name}: is set from the other keys, or not to be changed; leave it out"
            )
        if value is not True and type(value) not in (str, int, float):
            raise InputError(f"sbatch.{name}: expected a text, a number or true")
        _check_text(f"sbatch.{name}", str(value))


def _check_text(name: str, text: str) -> None:
    # A second line would be one of the job's script.
    if not text or not text.isprintable():
        raise InputError(f"{name}: expected one line of text")
