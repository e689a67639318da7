"""Numbers that follow from a config, worked out in one place.

They are never written back: a null that is filled in would change the run's id.
"""

from __future__ import annotations

from gateloop.config import Config, Domain, GateLoopConfig, PhaseControl


def sequences(config: Config) -> int:
    """Sequences per optimiser step, all devices together."""
    data = config.data
    if data.batch_tokens is not None:
        return data.batch_tokens // data.length
    assert data.batch_size is not None
    return data.batch_size


def micro_batch(config: Config) -> int:
    """Sequences at once on one device."""
    return config.data.micro_batch_size or sequences(config) // config.trainer.devices


def accumulation(config: Config) -> int:
    """Forward and backward passes on each device for one optimiser step."""
    return sequences(config) // (config.trainer.devices * micro_batch(config))


def warmup_steps(config: Config) -> int:
    """Steps over which the learning rate rises: as given, else a tenth of all."""
    given = config.optimizer.warmup_steps
    return config.trainer.max_steps // 10 if given is None else given


def heads(model: GateLoopConfig) -> int:
    """Heads: as given, else as many as channels."""
    return model.heads or model.d_model


def d_key(model: GateLoopConfig) -> int:
    """Keys per head: as given, else d_model / heads."""
    return model.d_key or model.d_model // heads(model)


def d_value(model: GateLoopConfig) -> int:
    """Values per head: as given, else d_model / heads."""
    return model.d_value or model.d_model // heads(model)


def d_inner(model: GateLoopConfig) -> int:
    """Width of the read-out, heads × d_value."""
    return heads(model) * d_value(model)


def phase_control(model: GateLoopConfig) -> PhaseControl:
    """Phase control: as given, else data in the complex domain and none in a real one."""
    given = model.transition.phase.control
    if given is not None:
        return given
    complex_domain = model.transition.domain is Domain.complex
    return PhaseControl.data if complex_domain else PhaseControl.none


def tokens_per_step(config: Config) -> int:
    """Tokens that one optimiser step sees, all devices together."""
    return sequences(config) * config.data.length
