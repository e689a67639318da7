"""Contradictions between keys, each with its remedy. Types and ranges are the schemas' affair."""

from __future__ import annotations

from importlib.util import find_spec

from gateloop import derived
from gateloop.baseline_config import TransformerConfig
from gateloop.config import Config, MemoryHorizonConfig, OptimizerConfig, TextConfig
from gateloop.errors import InputError
from gateloop.names import ModeName, Protocol, Schedule, Strategy, TokenizerName, TrackerName
from gateloop.registry import MODELS, model_entry


def check(config: Config) -> None:
    """Raise InputError for the first contradiction between two keys."""
    _check_mode(config)
    _check_batch(config)
    _check_strategy(config)
    config.model.check()
    config.data.check()
    _check_head(config)
    _check_positions(config)
    _check_cache(config)
    _check_resets(config)
    _check_schedule(config)


def check_packages(config: Config) -> None:
    """Raise InputError where the config asks for an optional package that is not installed."""
    needs = {
        TrackerName.wandb: ("wandb",),
        TrackerName.tensorboard: ("tensorboard", "tensorboardX"),
        TokenizerName.gpt2: ("tokenizers",),
        TokenizerName.sentencepiece: ("sentencepiece",),
    }
    asked: list[tuple[str, TrackerName | TokenizerName]] = [("tracker", config.tracker.name)]
    if isinstance(config.data, TextConfig):
        asked.append(("data.tokenizer", config.data.tokenizer))
    for key, name in asked:
        packages = needs.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise InputError(
                f"{key}={name.name}: needs the package {packages[0]}, which is not installed; "
                f"pip install {packages[0]}"
            )


def _check_mode(config: Config) -> None:
    mode, admitted = config.mode.name, model_entry(config.model.name).modes
    if mode is not ModeName.auto and mode not in admitted:
        names = ", ".join(["auto", *(name.name for name in admitted)])
        raise InputError(
            f"mode={mode.name}: model={config.model.name} does not admit it; choose one of {names}"
        )


def _check_resets(config: Config) -> None:
    data, entry = config.data, model_entry(config.model.name)
    if not isinstance(data, TextConfig) or not data.reset_at_documents:
        return
    if not entry.resets:
        able = ", ".join(name for name, other in MODELS.items() if other.resets)
        raise InputError(
            f"data.reset_at_documents=true: model={config.model.name} cannot reset its state "
            f"within a sequence; leave it out, or choose one of {able}"
        )
    if config.mode.name is ModeName.convolution:
        names = ", ".join(mode.name for mode in entry.modes if mode is not ModeName.convolution)
        raise InputError(
            "data.reset_at_documents=true: mode=convolution has one kernel for the whole sequence "
            f"and cannot reset; choose one of auto, {names}"
        )


def _check_batch(config: Config) -> None:
    data, devices = config.data, derived.devices(config)
    given = "trainer.devices"
    if config.trainer.nodes > 1:
        given += " × trainer.nodes"
    if data.batch_size is not None and data.batch_tokens is not None:
        raise InputError(
            f"data.batch_size={data.batch_size} and data.batch_tokens={data.batch_tokens}: "
            "both give the batch; keep one"
        )
    if data.batch_size is None and data.batch_tokens is None:
        raise InputError("data.batch_size=null: no batch; set data.batch_size or data.batch_tokens")
    if data.batch_tokens is not None and data.batch_tokens % data.length:
        raise InputError(
            f"data.batch_tokens={data.batch_tokens} is no multiple of data.length={data.length}; "
            f"nearest: {_multiple(data.batch_tokens, data.length)}"
        )
    batch = derived.sequences(config)
    if batch % devices:
        raise InputError(
            f"the batch of {batch} sequences (data.batch_size) does not divide over "
            f"{given}={devices}; nearest: {_multiple(batch, devices)}"
        )
    micro = data.micro_batch_size
    if micro is not None and batch % (devices * micro):
        raise InputError(
            f"data.micro_batch_size={micro}: the batch of {batch} sequences is no multiple of "
            f"{given} × data.micro_batch_size = {devices * micro}; take a divisor of "
            f"{batch // devices}"
        )


def _check_strategy(config: Config) -> None:
    settings = config.trainer
    if settings.strategy is Strategy.fsdp and settings.compile:
        raise InputError(
            "trainer.strategy=fsdp: its gathering of weights is not compiled; "
            "take trainer.compile=false, or trainer.strategy=ddp"
        )


def _multiple(number: int, step: int) -> int:
    return max(1, round(number / step)) * step


def _check_head(config: Config) -> None:
    if config.model.tied and isinstance(config.data, MemoryHorizonConfig):
        raise InputError(
            f"model.tied=true: data={config.data.name} has other classes at its output than at its "
            "input, so head and embedding cannot share weights; take false"
        )


def _check_positions(config: Config) -> None:
    """Learned positions end; what is trained and tested on may not go beyond them."""
    data, last = config.data, config.model.learned_positions()
    if not last:
        return
    lengths = [("data.length", data.length)]
    if isinstance(data, MemoryHorizonConfig):
        lengths += [("data.test_lengths", length) for length in data.test_lengths]
    for key, length in lengths:
        if length > last:
            raise InputError(
                f"{key}={length}: model={config.model.name} has learned positions for "
                f"model.max_length={last} steps only; set "
                f"model.max_length={max(length for _, length in lengths)}, or model.position=rope"
            )
    if isinstance(data, TextConfig) and data.protocol is Protocol.carry:
        raise InputError(
            f"data.protocol=carry: model={config.model.name} has learned positions, which end at "
            f"model.max_length={last}; take independent or sliding, or model.position=rope and "
            f"model.window={data.length}"
        )


def _check_cache(config: Config) -> None:
    """A carried state reads a whole split, and attention without a window keeps what it reads."""
    data, model = config.data, config.model
    if not isinstance(data, TextConfig) or data.protocol is not Protocol.carry:
        return
    if isinstance(model, TransformerConfig) and model.window is None:
        raise InputError(
            f"data.protocol=carry: the cache of model={model.name} would grow over the whole "
            "split, and a Transformer's window is its training length; "
            f"set model.window={data.length}, or take data.protocol=independent or sliding"
        )


def _check_schedule(config: Config) -> None:
    warmup, steps = config.optimizer.warmup_steps, config.trainer.max_steps
    if warmup is not None and warmup > steps:
        raise InputError(
            f"optimizer.warmup_steps={warmup} is greater than trainer.max_steps={steps}; "
            f"take at most {steps}"
        )
    final = config.optimizer.final_lr_factor
    constant = config.optimizer.schedule is Schedule.constant
    if constant and final != OptimizerConfig.final_lr_factor:  # the same run under another id
        raise InputError(
            f"optimizer.final_lr_factor={final:g}: has no meaning under "
            "optimizer.schedule=constant; take optimizer.schedule=cosine, or leave it out"
        )
