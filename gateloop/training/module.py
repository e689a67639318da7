"""The LightningModule: one training step of any model on any source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.config import Config
from gateloop.data import IGNORE
from gateloop.errors import Diverged
from gateloop.training.feed import Tensors
from gateloop.training.optimizer import make_optimizer


def token_losses(logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    """Negative log-likelihood of each target in nats, float32 or wider; 0 where not scored."""
    logits = logits_BLV.flatten(0, 1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(logits, targets_BL.flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view_as(targets_BL)


class Training(pl.LightningModule):
    """Mean cross-entropy over the scored positions, AdamW, clipping, one RNG state per step."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model = model
        # A function, not a second module: checkpoints would hold every weight twice.
        forward = model.forward
        self.forward_model = torch.compile(forward) if config.trainer.compile else forward
        self.step_loss = torch.zeros(())
        self.gradient_norm = torch.zeros(())

    def micro_batches_seen(self) -> int:
        """Micro-batches this device has had: whole optimiser steps times the accumulation."""
        return self.global_step * self.trainer.accumulate_grad_batches

    def on_train_batch_start(self, batch: Tensors, batch_idx: int) -> None:
        # Dropout is a function of (seed, micro-batch, device), so a resumed run repeats it.
        within = batch_idx % self.trainer.accumulate_grad_batches
        if within == 0:
            self.step_loss = torch.zeros((), device=self.device)
        micro = self.micro_batches_seen() + within
        key = np.random.SeedSequence([self.config.seed, micro, self.global_rank])
        seed = int(key.generate_state(1, np.uint64)[0] >> 1)
        # torch.manual_seed also notes the whole call stack for each kind of device not in use.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Tensors, batch_idx: int) -> Tensor:
        logits_BLV, _ = self.forward_model(
            batch["inputs"], reset=batch.get("reset"), mode=self.config.mode.name
        )
        losses_BL = token_losses(logits_BLV, batch["targets"])
        loss = losses_BL.sum() / (batch["targets"] != IGNORE).sum()
        self.step_loss += loss.detach() / self.trainer.accumulate_grad_batches
        return loss

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip to trainer.gradient_clip; raises Diverged where the gradient is not finite."""
        limit = self.config.trainer.gradient_clip or float("inf")
        self.gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not torch.isfinite(self.gradient_norm):
            raise Diverged(self.describe_divergence())

    def describe_divergence(self) -> str:
        step = self.global_step + 1
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return (
                    f"training diverged at step {step}: the gradient of {name} is not finite "
                    f"(loss {self.step_loss:.4g}); lower optimizer.lr or trainer.gradient_clip"
                )
        return (
            f"training diverged at step {step}: the gradient's norm overflows "
            f"(loss {self.step_loss:.4g}); lower optimizer.lr"
        )

    def configure_optimizers(self) -> Any:
        optimizer, schedule = make_optimizer(self.model, self.config)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
