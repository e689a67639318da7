"""The LightningModule: one training step of any model on any source."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gateloop.config import Config
from gateloop.data import IGNORE
from gateloop.errors import Diverged
from gateloop.models.language_model import LanguageModel
from gateloop.names import Strategy
from gateloop.training.cross_entropy import token_losses
from gateloop.training.feed import Tensors
from gateloop.training.job import ALONE, Job
from gateloop.training.optimizer import make_optimizer
from gateloop.training.shares import full_weights, share_weights


class Training(pl.LightningModule):
    """Mean cross-entropy over the scored positions, AdamW, clipping, one RNG state per step."""

    def __init__(self, config: Config, model: LanguageModel, job: Job = ALONE) -> None:
        super().__init__()
        self.config, self.job = config, job
        # Where each device is to have a share of the weights, it is one of a copy.
        shared = job.size > 1 and config.trainer.strategy is Strategy.fsdp
        self.unshared = (model,) if shared else None  # in a tuple: not a module of this one
        self.model = copy.deepcopy(model) if shared else model
        model = self.model
        # A function, not a second module: checkpoints would hold every weight twice.
        compiled = config.trainer.compile
        self.compiled = torch.compile(model.features) if compiled else None
        self.sums = torch.zeros(3)  # of this step and device: loss, scored targets, all targets
        self.step_loss = torch.zeros(())
        self.gradient_norm = torch.zeros(())
        self.learning_rate = 0.0

    def configure_model(self) -> None:
        if self.unshared is not None:
            assert self.device_mesh is not None
            share_weights(self.model, self.device_mesh["data_parallel"])

    def whole_model(self) -> LanguageModel:
        """The model with all its weights, for calls that other processes do not make too.

        Every process asks for it at the same time.
        """
        if self.unshared is None:
            return self.model
        whole = full_weights(self.model)
        self.unshared[0].to(self.device, next(iter(whole.values())).dtype).load_state_dict(whole)
        return self.unshared[0]

    def micro_batches_seen(self) -> int:
        """Micro-batches this device has had: whole optimiser steps times the accumulation."""
        return self.global_step * self.trainer.accumulate_grad_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Count the micro-batches so far as if all had been accumulated as those to come are."""
        # Lightning updates where their number is a multiple of the accumulation, and restores the
        # number of a session that may have accumulated more or fewer.
        seen = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, seen))

    def on_train_batch_start(self, batch: Tensors, batch_idx: int) -> None:
        # Dropout is a function of (seed, micro-batch, device), so a resumed run repeats it.
        within = batch_idx % self.trainer.accumulate_grad_batches
        if within == 0:
            self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        micro = self.micro_batches_seen() + within
        key = np.random.SeedSequence([self.config.seed, micro, self.global_rank])
        seed = int(key.generate_state(1, np.uint64)[0] >> 1)
        # torch.manual_seed also notes the whole call stack for each kind of device not in use.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Tensors, batch_idx: int) -> Tensor:
        features = self.compiled or self.model.features  # which sharing the weights has wrapped
        x_BLD, _ = features(batch["inputs"], reset=batch.get("reset"), mode=self.config.mode.name)
        losses_BL = token_losses(self.model.head, x_BLD, batch["targets"])
        loss = losses_BL.sum()
        targets = losses_BL.numel()
        self.sums[0] += loss.detach()
        self.sums[1] += (batch["targets"] != IGNORE).sum()
        self.sums[2] += targets
        return loss / targets

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """From the mean over all targets, which every micro-batch has as many of, to the mean over
        the scored ones of the whole step: those of all its micro-batches on all devices."""
        self.learning_rate = float(optimizer.param_groups[-1]["lr"])  # soon the next step's
        loss, scored, targets = self.job.sum(self.sums.cpu()).unbind()
        self.step_loss = loss / scored
        if scored != targets:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_((targets / scored).item())

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip to trainer.gradient_clip; raises Diverged where the gradient is not finite."""
        limit = self.config.trainer.gradient_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(self.gradient_norm):
            raise Diverged(self.describe_divergence())

    def describe_divergence(self) -> str:
        step = self.global_step + 1
        clip = "trainer.gradient_clip"
        clip = clip if self.config.trainer.gradient_clip else f"set {clip}"  # 0: no clipping
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return (
                    f"training diverged at step {step}: the gradient of {name} is not finite "
                    f"(loss {self.step_loss:.4g}); lower optimizer.lr or {clip}"
                )
        return (
            f"training diverged at step {step}: the gradient's norm overflows "
            f"(loss {self.step_loss:.4g}); lower optimizer.lr"
        )

    def configure_optimizers(self) -> Any:
        optimizer, schedule = make_optimizer(self.model, self.config)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
