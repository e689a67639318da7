"""Typed schemas of every key a run has, and the one registry of names.

Nothing here imports torch: a command line is checked in a fraction of a second.
The YAML files under ``conf/`` only hold values that differ from these defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from gateloop.names import (
    AmplitudeActivation,
    AmplitudeControl,
    Device,
    Domain,
    LineEnd,
    ModeName,
    NormPlacement,
    OutputNorm,
    Parametrisation,
    PhaseActivation,
    PhaseControl,
    Precision,
    Protocol,
    Schedule,
    Task,
    TokenizerName,
    TrackerName,
)


def setting(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    identity: bool = True,
) -> Any:
    """A dataclass field with its one-line help and its range.

    ``least``/``most`` are inclusive bounds, ``above``/``below`` exclusive ones.
    ``identity=False`` marks a key that does not change a run's result, and so not its id.
    """
    metadata = {
        "doc": doc,
        "identity": identity,
        "range": {"least": least, "most": most, "above": above, "below": below},
    }
    if callable(default) or isinstance(default, list):
        factory = default if callable(default) else lambda: list(default)
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


# -- model -------------------------------------------------------------------------------


@dataclass
class ModelConfig:
    """What every model has, whatever mixes its time steps."""

    name: str = setting("gateloop", "the model; set by model=…")
    d_model: int = setting(64, "width of the residual stream", least=1)
    layers: int = setting(2, "blocks of time mixing and channel mixing", least=1)
    parameters: Optional[int] = setting(
        None,
        "parameter budget without embedding and head; the channel-mixing width is solved from it",
        least=1,
    )
    d_channel: Optional[int] = setting(
        None, "channel-mixing width; null: solved from model.parameters, else 2 × d_model", least=1
    )
    dropout: float = setting(0.0, "after each mixing and the embedding", least=0, below=1)
    norm_placement: NormPlacement = setting(
        NormPlacement.pre, "LayerNorm before each mixing (pre) or after its residual sum (post)"
    )
    tied: bool = setting(False, "the head shares the embedding's weights")


@dataclass
class AmplitudeConfig:
    control: AmplitudeControl = setting(
        AmplitudeControl.data, "from the input, learned but fixed over time, or held at one"
    )
    activation: AmplitudeActivation = setting(
        AmplitudeActivation.sigmoid, "σ(α), exp(−exp α) or exp(−softplus α); data control only"
    )
    initial: float = setting(0.5, "amplitude at initialisation, for data control", above=0, below=1)


@dataclass
class PhaseConfig:
    control: Optional[PhaseControl] = setting(
        None, "from the input, fixed, or none; null: data in the complex domain, else none"
    )
    activation: PhaseActivation = setting(
        PhaseActivation.identity, "β, π·tanh β or relu β, in radians; data control only"
    )
    scale: float = setting(
        1.0, "factor on the initial weights of the phase projection, for data control", least=0
    )


@dataclass
class RingConfig:
    """The LRU's ring: where fixed transitions start in the complex plane."""

    inner: float = setting(0.9, "smallest initial amplitude", above=0, below=1)
    outer: float = setting(0.999, "largest initial amplitude", above=0, below=1)
    phase: float = setting(0.314, "largest initial phase, radians", above=0, most=6.2832)


@dataclass
class TransitionConfig:
    domain: Domain = setting(Domain.complex, "complex; real in (0, 1); or signed real in (−1, 1)")
    parametrisation: Parametrisation = setting(
        Parametrisation.polar, "α and β projected apart, or read off one projected complex number"
    )
    amplitude: AmplitudeConfig = field(default_factory=AmplitudeConfig)
    phase: PhaseConfig = field(default_factory=PhaseConfig)
    ring: RingConfig = field(default_factory=RingConfig)


@dataclass
class GateLoopConfig(ModelConfig):
    """GateLoop (arXiv 2311.01927)."""

    heads: Optional[int] = setting(None, "null: as many as channels (max-headed)", least=1)
    d_key: Optional[int] = setting(None, "keys per head; null: d_model / heads", least=1)
    d_value: Optional[int] = setting(None, "values per head; null: d_model / heads", least=1)
    output_norm: OutputNorm = setting(
        OutputNorm.layer, "after the recurrence; group_over_time looks ahead, for forensics only"
    )
    output_norm_groups: int = setting(8, "groups of output_norm=group and group_over_time", least=1)
    gate: bool = setting(True, "multiply the normed read-out by SiLU of a projection")
    short_convolution: int = setting(
        0, "width of a causal depthwise convolution on q, k and v; 0: none", least=0, most=64
    )
    transition: TransitionConfig = field(default_factory=TransitionConfig)


# -- data --------------------------------------------------------------------------------


@dataclass
class DataConfig:
    """What every data source has."""

    name: str = setting("memory_horizon", "the data source; set by data=…")
    length: int = setting(128, "training length, in steps", least=1, most=1 << 20)
    batch_size: Optional[int] = setting(None, "sequences per optimiser step, whole job", least=1)
    batch_tokens: Optional[int] = setting(
        None, "tokens per optimiser step, whole job; instead of batch_size", least=1
    )
    micro_batch_size: Optional[int] = setting(
        None, "sequences at once on a device; the rest is accumulated", least=1, identity=False
    )
    test_batch_size: int = setting(32, "sequences at once in evaluation", least=1, identity=False)


@dataclass
class MemoryHorizonConfig(DataConfig):
    """Memory Horizon, this project's definition (docs/memory-horizon.md)."""

    task: Task = setting(Task.modsum, "what to predict from the values since the last reset")
    resets: int = setting(3, "resets per sample, at distinct uniform positions", least=0)
    samples: Optional[int] = setting(
        None,
        "size of a fixed training set; null: fresh samples at every step",
        least=1,
        most=1 << 24,
    )
    test_samples: int = setting(1024, "samples in each test", least=1)
    validation_samples: int = setting(256, "samples in the validation", least=1)
    test_lengths: list[int] = setting(
        [128, 512],
        "lengths of the extrapolation tests, beside the training length",
        least=1,
        most=1 << 20,
    )
    test_resets: list[int] = setting(
        [12, 12], "resets of the extrapolation tests, one for each length", least=0
    )


@dataclass
class TextConfig(DataConfig):
    """WikiText-103, WikiText-2, or any UTF-8 text."""

    path: Optional[str] = setting(
        None, "the folder or file that holds the text; null: fetch through datasets"
    )
    tokenizer: TokenizerName = setting(TokenizerName.gpt2, "how text becomes tokens")
    tokenizer_path: Optional[str] = setting(
        None, "folder with the tokenizer's files (gpt2: encoder.json and vocab.bpe)"
    )
    vocabulary: int = setting(8192, "size of a sentencepiece vocabulary", least=300, most=1 << 17)
    line_end: LineEnd = setting(
        LineEnd.newline, "keep newlines, or an end-of-text mark after each non-empty line"
    )
    reset_at_documents: bool = setting(False, "the state starts from zero at each document")
    protocol: Protocol = setting(
        Protocol.independent, "how evaluation windows see what stood before them"
    )
    stride: Optional[int] = setting(
        None, "tokens scored per window under protocol=sliding; null: length / 2", least=1
    )
    cache_dir: Optional[str] = setting(
        None,
        "where tokenised text is kept; null: $GATELOOP_CACHE_DIR, else ~/.cache/gateloop",
        identity=False,
    )


# -- the rest of a run -------------------------------------------------------------------


@dataclass
class ModeConfig:
    name: ModeName = setting(ModeName.auto, "how the recurrence is computed; set by mode=…")


@dataclass
class TrainerConfig:
    max_steps: int = setting(1000, "optimiser steps", least=1)
    validate_every: int = setting(200, "steps between validations", least=1)
    checkpoint_every: int = setting(200, "steps between checkpoints", least=1, identity=False)
    log_every: int = setting(10, "steps between lines of metrics.jsonl", least=1, identity=False)
    gradient_clip: float = setting(1.0, "largest norm of the gradient; 0: no clipping", least=0)
    precision: Precision = setting(Precision.float32, "bfloat16 leaves gates and state in float32")
    compile: bool = setting(False, "torch.compile the model")
    device: Device = setting(Device.auto, "auto: CUDA where there is one", identity=False)
    devices: int = setting(
        1, "how many devices; the batch is for all together", least=1, identity=False
    )
    threads: Optional[int] = setting(
        None, "CPU threads; null: torch's own choice", least=1, identity=False
    )
    progress: Optional[bool] = setting(None, "progress bar; null: on a terminal", identity=False)


@dataclass
class OptimizerConfig:
    name: str = setting("adamw", "the optimiser; set by optimizer=…")
    lr: float = setting(1e-3, "peak learning rate", above=0)
    transition_lr_factor: float = setting(
        1.0, "factor on the learning rate of what makes the state transitions", least=0
    )
    weight_decay: float = setting(
        0.05, "on matrices; not on norms, biases, embeddings, transitions", least=0
    )
    beta1: float = setting(0.9, "AdamW's β₁", least=0, below=1)
    beta2: float = setting(0.98, "AdamW's β₂", least=0, below=1)
    eps: float = setting(1e-8, "AdamW's ε", above=0)
    schedule: Schedule = setting(Schedule.cosine, "after the warm-up")
    warmup_steps: Optional[int] = setting(None, "null: a tenth of trainer.max_steps", least=0)
    final_lr_factor: float = setting(
        0.01, "learning rate at the end, relative to its peak", least=0, most=1
    )


@dataclass
class TrackerConfig:
    """Where curves go besides metrics.jsonl. Never part of a run's identity."""

    name: TrackerName = setting(
        TrackerName.auto, "auto: W&B, online with credentials, else offline", identity=False
    )
    project: str = setting("gateloop", "W&B project", identity=False)
    entity: Optional[str] = setting(None, "W&B entity", identity=False)
    group: Optional[str] = setting(None, "W&B group", identity=False)


@dataclass
class Config:
    """One run, whole. ``model`` and ``data`` hold the dataclass that the registry names."""

    model: ModelConfig = field(default_factory=GateLoopConfig)
    data: DataConfig = field(default_factory=MemoryHorizonConfig)
    mode: ModeConfig = field(default_factory=ModeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    seed: int = setting(0, "seeds weights, data order and dropout", least=0, most=(1 << 31) - 1)
    runs_dir: str = setting("runs", "where run folders are kept", identity=False)
    rerun: bool = setting(False, "do a finished run again from its start", identity=False)
    dry_run: bool = setting(False, "say what the run would be, and stop", identity=False)


# -- registry ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelEntry:
    """A model by name: its schema, and where its time mixer is ("module:Class"), unimported."""

    config: type[ModelConfig]
    mixer: str
    modes: tuple[ModeName, ...]


RECURRENCE_MODES = (ModeName.recurrent, ModeName.scan, ModeName.chunkwise, ModeName.attention)

MODELS: dict[str, ModelEntry] = {
    "gateloop": ModelEntry(GateLoopConfig, "gateloop.models.gateloop:GateLoop", RECURRENCE_MODES),
}

DATA: dict[str, type[DataConfig]] = {
    "memory_horizon": MemoryHorizonConfig,
    "wt103": TextConfig,
    "wt2": TextConfig,
    "text": TextConfig,
}
