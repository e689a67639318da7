"""Curves in W&B, CSV or TensorBoard, beside the metrics.jsonl that every run writes."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from gateloop.config import Config, TrackerConfig
from gateloop.errors import InputError
from gateloop.keys import plain, values
from gateloop.names import TrackerName
from gateloop.training.record import RunFolder

ONLINE, OFFLINE = ("online", "shared", "run"), ("offline", "dryrun", "disabled")  # WANDB_MODE


def open_tracker(
    settings: TrackerConfig, folder: Path, run_id: str, config: dict[str, Any]
) -> Logger | None:
    """The Lightning logger that ``tracker=`` asks for, continuing the curve of an earlier session.

    ``auto`` is W&B, online where credentials are found and offline elsewhere, and nothing where
    wandb is not installed; it never asks a question. Raises InputError where the tracker that was
    asked for by name cannot be had.
    """
    name = settings.name
    if name is TrackerName.none or (name is TrackerName.auto and not find_spec("wandb")):
        return None
    if name is TrackerName.csv:
        return CSVLogger(folder, name="csv", version="")
    if name is TrackerName.tensorboard:
        return TensorBoardLogger(folder, name="tensorboard", version="")
    return open_wandb(settings, folder, run_id, config)


def open_wandb(
    settings: TrackerConfig, folder: Path, run_id: str, config: dict[str, Any]
) -> Logger | None:
    import wandb

    check_mode()
    insist = settings.name is TrackerName.wandb
    quiet = wandb.Settings(silent=True, console="off", init_timeout=60)
    # Under a W&B agent its id wins, and ours is a field of the config.
    wandb_id = os.environ.get("WANDB_RUN_ID") or run_id
    arguments: dict[str, Any] = {
        "project": settings.project,
        "entity": settings.entity,
        "group": settings.group,
        "name": run_id,
        "id": wandb_id,
        "dir": str(folder),
        "resume": "allow",
        "config": {**config, "run_id": run_id},
        "settings": quiet,
    }
    try:
        wandb.setup(settings=quiet)
        run = wandb.init(mode=mode_for(insist), **arguments)  # type: ignore[arg-type]
    except wandb.errors.Error as error:
        if insist:
            raise InputError(f"tracker=wandb: {first_line(error)}; or take tracker=auto") from None
        print(f"gateloop: W&B: {first_line(error)}; going on offline", file=sys.stderr)
        wandb.teardown()  # its service would take the id to be in use
        run = wandb.init(mode="offline", **arguments)
    return WandbLogger(experiment=run)


def check_mode() -> None:
    """Raise InputError where WANDB_MODE is nothing that W&B knows."""
    given = os.environ.get("WANDB_MODE", ONLINE[0])
    if given not in (*ONLINE, *OFFLINE):
        known = ", ".join((*ONLINE, *OFFLINE))
        raise InputError(f"WANDB_MODE={given}: choose one of {known}, or unset it")


def mode_for(insist: bool) -> str:
    """What WANDB_MODE says, else online where there are credentials, else offline.

    Raises wandb.errors.Error where it must be online, and where the server refuses the
    credentials or cannot be reached.
    """
    import wandb

    given = os.environ.get("WANDB_MODE")
    if given in OFFLINE:
        return given
    if wandb.login(prompt=False):
        return given or "online"
    if given or insist:
        raise wandb.errors.UsageError("no credentials; run `wandb login` or set WANDB_API_KEY")
    return "offline"


def hand_over(config: Config, folder: RunFolder) -> None:
    """Send the curves and the summary of a run that has finished to the tracker, as if it ran."""
    settings = {name: plain(value) for name, value in values(config).items()}
    tracker = open_tracker(config.tracker, folder.path, folder.id, settings)
    if tracker is None:
        return
    send_curves(tracker, folder)
    close_tracker(tracker, folder.summary())


def continue_curves(tracker: Logger | None, folder: RunFolder) -> None:
    """Give a run that goes on its curves so far, where the tracker would begin new ones: in CSV.

    They are those of metrics.jsonl, cut back to the step that the run goes on from.
    """
    if isinstance(tracker, CSVLogger):
        send_curves(tracker, folder)
        tracker.save()


def send_curves(tracker: Logger, folder: RunFolder) -> None:
    """Send what metrics.jsonl holds, if there is one; a CSV file then holds that alone."""
    if isinstance(tracker, CSVLogger):  # would remove it itself, with a warning
        (folder.path / "csv" / "metrics.csv").unlink(missing_ok=True)
    path = folder.path / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        row = json.loads(line)
        step = row.pop("step")
        tracker.log_metrics({name: v for name, v in row.items() if v is not None}, step=step)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def close_tracker(tracker: Logger | None, summary: dict[str, Any]) -> None:
    """Hand a run's summary over and end the tracker's run.

    W&B also keeps what a table says of a run beside its metrics, under ``run/``.
    """
    if tracker is None:
        return
    if isinstance(tracker, WandbLogger):
        facts = {f"run/{name}": value for name, value in summary.items() if name != "metrics"}
        tracker.experiment.summary.update({**facts, **summary["metrics"]})
        tracker.experiment.finish()
    else:
        tracker.log_metrics(summary["metrics"], step=summary["steps"])
        tracker.finalize("success")
