"""A run as the trial of a W&B agent."""

from __future__ import annotations

import os

from gateloop.config import Config
from gateloop.training.record import RunFolder


def tell_agent(config: Config, folder: RunFolder) -> None:
    """Where an agent started this process and the run is finished, send what it measured."""
    if os.environ.get("WANDB_SWEEP_ID"):  # only then, for it imports torch
        from gateloop.training.tracking import hand_over

        hand_over(config, folder)
