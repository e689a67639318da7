"""Training from where the run folder stands to the last step."""

from __future__ import annotations

import logging
import sys
import warnings

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.utils.data import DataLoader

from gateloop.config import Config
from gateloop.data import Source
from gateloop.derived import accumulation, micro_batch, tokens_per_step
from gateloop.errors import InputError, Interrupted
from gateloop.names import Device, Precision
from gateloop.training import checkpoint
from gateloop.training.callbacks import Checkpoints, Metrics, Validation
from gateloop.training.feed import Feed
from gateloop.training.interruption import Interruption
from gateloop.training.module import Training
from gateloop.training.progress import Progress
from gateloop.training.record import RunFolder

LIGHTNING_PRECISION = {
    Precision.float32: "32-true",
    Precision.bfloat16: "bf16-mixed",
    Precision.float64: "64-true",
}


def choose_device(config: Config) -> torch.device:
    """The device that the config asks for; InputError where this machine lacks it."""
    settings = config.trainer
    cuda = torch.cuda.is_available()
    if settings.device is Device.cuda and not cuda:
        raise InputError("trainer.device=cuda: torch finds no CUDA device here; take cpu or auto")
    device = torch.device("cuda" if cuda and settings.device is not Device.cpu else "cpu")
    if settings.devices > 1:
        raise InputError(
            f"trainer.devices={settings.devices}: more than one device is not supported yet; take 1"
        )
    bfloat16 = settings.precision is Precision.bfloat16
    if bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("trainer.precision=bfloat16: this GPU has none; take float32")
    return device


def device_name(device: torch.device) -> str:
    """The hardware that a figure was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def quieten_lightning() -> None:
    """Leave the terminal to this project's own lines."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*isinstance.treespec.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)


def fit(
    config: Config,
    model: nn.Module,
    source: Source,
    device: torch.device,
    folder: RunFolder,
    interruption: Interruption,
    tracker: Logger | None,
) -> float:
    """Train ``model`` in place up to trainer.max_steps, resuming from the newest whole checkpoint.

    Returns the seconds of all its sessions. Raises Interrupted after saving, and Diverged where
    a gradient is not finite.
    """
    quieten_lightning()
    resume = checkpoint.newest_intact(folder.path / "checkpoints", remove=True)
    folder.cut_back(resume.step if resume else -1)
    if resume:
        print(f"going on from step {resume.step}", file=sys.stderr)
    progress = Progress(config.trainer.max_steps, tokens_per_step(config), config.trainer.progress)
    metrics = Metrics(config, folder, progress)
    validation = Validation(config, source, folder, interruption, progress)
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.trainer.devices,
        precision=LIGHTNING_PRECISION[config.trainer.precision],  # type: ignore[arg-type]
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulation(config),
        callbacks=[metrics, validation, Checkpoints(config, folder, interruption)],
        logger=tracker or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    module = Training(config, model)
    feed = Feed(
        source,
        config.seed,
        micro_batch(config),
        module.micro_batches_seen,
        trainer.global_rank,
        trainer.world_size,
    )
    try:
        with interruption.deferred():
            trainer.fit(
                module,
                DataLoader(feed, batch_size=None),
                ckpt_path=str(resume.path) if resume else None,
                weights_only=True,
            )
            # Interrupted in its last validation, training has no step left to make it up in.
            validation.make_up(trainer, module)
    finally:
        progress.stop()
    if interruption.requested:
        raise Interrupted("interrupted after the last step; the same command again runs the test")
    return metrics.seconds
