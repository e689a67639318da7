"""Numbers that follow from a config, worked out in one place.

They are never written back: a null that is filled in would change the run's id.
"""

from __future__ import annotations

from gateloop.config import Config
from gateloop.registry import model_entry


def sequences(config: Config) -> int:
    """Sequences per optimiser step, all devices together."""
    data = config.data
    if data.batch_tokens is not None:
        return data.batch_tokens // data.length
    assert data.batch_size is not None
    return data.batch_size


def tokens_per_step(config: Config) -> int:
    """Positions per optimiser step, all devices together."""
    return sequences(config) * config.data.length


def devices(config: Config) -> int:
    """Devices of all machines together: as many processes train one run."""
    return config.trainer.devices * config.trainer.nodes


def micro_batch(config: Config) -> int:
    """Sequences at once on one device."""
    return config.data.micro_batch_size or sequences(config) // devices(config)


def accumulation(config: Config) -> int:
    """Forward and backward passes on each device for one optimiser step."""
    return sequences(config) // (devices(config) * micro_batch(config))


def warmup_steps(config: Config) -> int:
    """Steps over which the learning rate rises: as given, else a tenth of all."""
    given = config.optimizer.warmup_steps
    return config.trainer.max_steps // 10 if given is None else given


def transition_lr_factor(config: Config) -> float:
    """Factor on the learning rate of what makes the transitions: as given, else the model's own."""
    given = config.optimizer.transition_lr_factor
    return model_entry(config.model.name).transition_lr_factor if given is None else given
