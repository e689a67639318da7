"""Typed schemas of every key a run has, and the data sources by name.

Nothing here imports torch: a command line is checked in a fraction of a second.
The YAML files under ``conf/`` only hold values that differ from these defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from gateloop.errors import InputError
from gateloop.model_config import GateLoopConfig, ModelConfig
from gateloop.names import (
    Device,
    LineEnd,
    ModeName,
    Precision,
    Protocol,
    Schedule,
    Strategy,
    Task,
    TokenizerName,
    TrackerName,
)
from gateloop.setting import setting

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

    def check(self) -> None:
        """Raise InputError for a contradiction between this source's own keys."""


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

    def check(self) -> None:
        lengths, resets = self.test_lengths, self.test_resets
        if len(lengths) != len(resets):
            raise InputError(
                f"data.test_lengths has {len(lengths)} elements and data.test_resets has "
                f"{len(resets)}; give one number of resets for each length"
            )
        pairs = [("data.resets", self.length, self.resets)]
        pairs += [("data.test_resets", n, r) for n, r in zip(lengths, resets, strict=True)]
        for key, length, number in pairs:
            if number > length:
                raise InputError(
                    f"{key}={number}: more than the {length} positions of the sample; "
                    f"take at most {length}"
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

    def check(self) -> None:
        if self.name == "text" and self.path is None:
            raise InputError(
                "data.path=null: data=text needs a text file or folder; set data.path=…"
            )
        if self.stride is None:
            return
        if self.protocol is not Protocol.sliding:
            raise InputError(
                f"data.stride={self.stride}: has no meaning under "
                f"data.protocol={self.protocol.name}; take data.protocol=sliding, or leave it out"
            )
        if self.stride > self.length:
            raise InputError(
                f"data.stride={self.stride} is greater than data.length={self.length}: tokens "
                f"between windows would not be scored; take at most {self.length}"
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
    audit_positions: int = setting(
        512, "positions that the causality audit after a test scores again, at least", least=512
    )
    precision: Precision = setting(Precision.float32, "bfloat16 leaves gates and state in float32")
    compile: bool = setting(False, "torch.compile the model")
    device: Device = setting(Device.auto, "auto: CUDA where there is one", identity=False)
    devices: int = setting(
        1, "devices on each machine; the batch is for all together", least=1, identity=False
    )
    nodes: int = setting(
        1,
        "machines; with more than one, torchrun or srun starts the processes",
        least=1,
        identity=False,
    )
    strategy: Strategy = setting(
        Strategy.auto,
        "several devices: ddp keeps the weights whole on each, fsdp in shares; auto: ddp",
        identity=False,
    )
    threads: Optional[int] = setting(
        None, "CPU threads of each process; null: torch's own choice", least=1, identity=False
    )
    profile: bool = setting(
        False, "leave a trace of a few steps and their costliest operators", identity=False
    )
    progress: Optional[bool] = setting(None, "progress bar; null: on a terminal", identity=False)


@dataclass
class OptimizerConfig:
    name: str = setting("adamw", "the optimiser; set by optimizer=…")
    lr: float = setting(1e-3, "peak learning rate", above=0)
    transition_lr_factor: Optional[float] = setting(
        None,
        "factor on the learning rate of what makes the state transitions; null: the model's own",
        least=0,
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


# -- data by name ------------------------------------------------------------------------

DATA: dict[str, type[DataConfig]] = {
    "memory_horizon": MemoryHorizonConfig,
    "wt103": TextConfig,
    "wt2": TextConfig,
    "text": TextConfig,
}
