"""Ended runs of a Weights & Biases project as records, the same as a run's folder gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateloop.config import TextConfig
from gateloop.derived import tokens_per_step
from gateloop.draft import Draft, leaves
from gateloop.errors import InputError
from gateloop.experiment.record import UNREADABLE, Record, checked
from gateloop.identity import identity

NOT_CAUSAL = 1e-3  # nats per token, as in the test of a run
FACTS = ("parameters", "train_seconds", "tokens_per_second", "device")
STEP = "trainer/global_step"  # the step that Lightning's logger writes beside each metric
CURVES = ("val/loss", "val/accuracy")
SAMPLES = 1000  # points of a curve that are asked for; a validation curve has fewer


def fetch(project: str) -> tuple[list[Record], list[str]]:
    """The records of ``entity/project``, and a line for each ended run that gives none.

    Raises InputError where wandb is missing, has no credentials, or cannot reach the project.
    """
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", project):
        raise InputError(f"--wandb {project}: expected entity/project")
    if not find_spec("wandb"):
        raise InputError("--wandb: needs the package wandb; pip install wandb")
    records, faults = [], []
    for run in _finished(project):
        where = f"wandb:{project}/{run['id']}"
        try:
            content = as_record(run)
            if content is not None:
                records.append(checked(Record(Path(where), content)))
        except (InputError, *UNREADABLE) as error:
            faults.append(f"{where}: no record ({str(error).splitlines()[0]})")
    return records, faults


def _finished(project: str) -> Iterator[dict[str, Any]]:
    """What the server has of each finished run, as plain values."""
    import wandb

    try:
        if not wandb.login(prompt=False):
            raise InputError("--wandb: no credentials; run `wandb login`, or set WANDB_API_KEY")
        for run in wandb.Api().runs(project, filters={"state": "finished"}, lazy=False):
            yield {
                "id": run.id,
                "config": dict(run.config),
                "summary": dict(run.summary_metrics),
                "commit": getattr(run, "commit", None),
                "history": [
                    row
                    for name in CURVES
                    for row in run.history(samples=SAMPLES, keys=[name, STEP], pandas=False)
                ],
            }
    except (wandb.errors.Error, ValueError, OSError) as error:  # no project is a ValueError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"--wandb {project}: {reason}") from error


def as_record(run: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a finished run; None for one that is not ours or was not tested.

    ``run``: its id, config and summary, its commit, and its history as rows. The corpus's
    name is the id's, since ``wt103`` in the config may have been ``wt103-partial`` on the disk.
    Raises InputError where the config is none of this version, ValueError where the id is none.
    """
    settings, summary = leaves(run["config"]), run["summary"]
    id = settings.pop("run_id", None)
    gap = summary.get("test/causality_gap")
    if id is None or gap is None or {"model.name", "data.name"} - settings.keys():
        return None
    draft = Draft(str(settings["model.name"]), str(settings["data.name"]))
    for name, value in settings.items():
        draft.set(name, value)
    config = draft.config()
    named = re.fullmatch(rf"{config.model.name}-(.+)-s{config.seed}-[0-9a-f]{{8}}", str(id))
    if named is None:
        raise ValueError(f"run_id {id} is not this config's")
    facts = {name: summary.get(f"run/{name}") for name in FACTS}
    path = config.data.path if isinstance(config.data, TextConfig) else None
    return {
        "id": id,
        "status": "finished",
        "model": config.model.name,
        "data": named[1],
        "mode": config.mode.name.value,
        "seed": config.seed,
        "steps": config.trainer.max_steps,
        "tokens_seen": config.trainer.max_steps * tokens_per_step(config),
        **{name: value for name, value in facts.items() if value is not None},
        "causal": isinstance(gap, (int, float)) and gap <= NOT_CAUSAL,
        "metrics": {name: value for name, value in summary.items() if name.startswith("test/")},
        "identity": identity(config),
        "facts": {} if path is None else {"file": Path(path).name},
        "commit": run.get("commit"),
        "curves": _curves(run.get("history", [])),
        "tracker": run["id"],
    }


def _curves(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    found = {}
    for name in CURVES:
        pairs = sorted((row[STEP], row[name]) for row in rows if name in row and STEP in row)
        if pairs:
            steps, values = zip(*pairs, strict=True)
            found[name] = {"steps": list(steps), "values": list(values)}
    return found
