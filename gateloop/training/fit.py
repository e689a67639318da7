"""Training from where the run folder stands to the last step."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import plugins
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch.utils.data import DataLoader

from gateloop.config import Config
from gateloop.data import Source
from gateloop.derived import accumulation, micro_batch, tokens_per_step
from gateloop.errors import Interrupted
from gateloop.models.language_model import LanguageModel
from gateloop.names import Precision
from gateloop.names import Strategy as StrategyName
from gateloop.training import checkpoint
from gateloop.training.callbacks import Checkpoints, Clock, Metrics, Validation
from gateloop.training.feed import Feed
from gateloop.training.interruption import Interruption
from gateloop.training.job import ALONE, Job
from gateloop.training.module import Training
from gateloop.training.profiling import Profile
from gateloop.training.progress import Progress
from gateloop.training.record import RunFolder
from gateloop.training.shares import Shares
from gateloop.training.tracking import continue_curves


def quieten_lightning() -> None:
    """Leave the terminal to this project's own lines."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    chatter = ("does not have many workers", "isinstance.treespec", "LeafSpec", "`srun`")
    for message in (*chatter, "`broadcast_buffers` is deprecated", "FSDP2-wrapped module"):
        warnings.filterwarnings("ignore", f".*{message}.*")


def strategy(config: Config, job: Job) -> str | Strategy:
    """Lightning's strategy for the devices that the config asks for."""
    if job.size == 1:
        return "auto"
    if config.trainer.strategy is StrategyName.fsdp:
        return Shares(job.size)
    # Buffers hold constants, and are the same everywhere.
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def precision(config: Config, device: torch.device) -> plugins.Precision:
    """Lightning's plugin for the precision that the config asks for."""
    if config.trainer.precision is Precision.bfloat16:
        return plugins.MixedPrecision("bf16-mixed", device.type)
    if config.trainer.precision is Precision.float64:
        return plugins.DoublePrecision()
    return plugins.Precision()


class Direct(plugins.TorchCheckpointIO):
    """Writes into the very file it is given, which checkpoint.save publishes when it is whole.

    Lightning's own way makes a copy in memory first, and one in $TMPDIR, which may be small.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        torch.save(checkpoint, path)


def start(folder: RunFolder) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from, with the run's curves cut back to it.

    Called with the run locked.
    """
    checkpoint.remove_half_written(folder.path / "checkpoints")
    resume = checkpoint.newest_intact(folder.path / "checkpoints", remove=True)
    if resume:
        checkpoint.warn_of_lost_best(folder.path)
    folder.cut_back(resume.step if resume else -1)
    if resume:
        print(f"going on from step {resume.step}", file=sys.stderr)
    return resume


def fit(
    config: Config,
    model: LanguageModel,
    source: Source,
    device: torch.device,
    folder: RunFolder,
    interruption: Interruption,
    tracker: Logger | None,
    job: Job = ALONE,
) -> float:
    """Train ``model`` up to trainer.max_steps, resuming from the newest whole checkpoint.

    Returns the seconds of all its sessions. Raises Interrupted after saving, and Diverged where
    a gradient or the last validation's loss is not finite; every process of ``job`` at the same
    step.
    """
    quieten_lightning()
    resume = job.from_first(lambda: start(folder))
    continue_curves(tracker, folder)
    bar = config.trainer.progress if job.first else False
    progress = Progress(config.trainer.max_steps, tokens_per_step(config), bar)
    clock = Clock()
    metrics = Metrics(config, folder, progress, clock)
    validation = Validation(config, source, folder, interruption, progress, clock, job)
    saving = Checkpoints(config, folder, interruption, clock, job)
    profile = [Profile(config, folder.path / "profile")] * (config.trainer.profile and job.first)
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=strategy(config, job),
        # Ranks are the job's affair, and requeueing is the scheduler's.
        plugins=[LightningEnvironment(), precision(config, device), Direct()],
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulation(config),
        callbacks=[metrics, *profile, validation, saving],
        logger=tracker or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    if config.trainer.precision is Precision.float64:
        model.double()  # Lightning would, but only after a checkpoint has been read into float32
    module = Training(config, model, job)
    size, seen = micro_batch(config), module.micro_batches_seen
    gpu = device.type == "cuda"
    feed = Feed(source, config.seed, size, seen, job.rank, job.size, ahead=gpu)
    try:
        with interruption.deferred():
            interruption.hold()  # until training starts
            trainer.fit(
                module,
                DataLoader(feed, batch_size=None),
                ckpt_path=str(resume.path) if resume else None,
                weights_only=True,
            )
            # Interrupted in its last validation, training has no step left to make it up in.
            validation.make_up(trainer, module)
    finally:
        interruption.install()
        progress.stop()
    if job.any(interruption.requested):
        raise Interrupted("interrupted after the last step; the same command again runs the test")
    return metrics.seconds
