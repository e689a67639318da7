"""trainer.profile: a trace of a few training steps, and the operators that took longest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from gateloop.config import Config
from gateloop.files import clear_disk_errors, write_text_atomic
from gateloop.training.callbacks import StepCallback
from gateloop.training.module import Training

WARM_UP, RECORDED = 3, 3  # steps of this session; a session with fewer leaves warm-up out
COSTLIEST = 10


class Profile(StepCallback):
    """Writes ``trace.json.gz``, for Perfetto or chrome://tracing, and ``operators.md``."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.last_step, self.folder = config.trainer.max_steps, folder
        self.profiler: profile | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        left = self.last_step - trainer.global_step
        recorded = min(RECORDED, left)
        if not recorded:
            return
        wait = min(WARM_UP, left - recorded)
        warm_up = min(1, wait)  # the profiler's own, which it throws away
        self.profiler = profile(
            activities=activities(module.device),
            schedule=schedule(wait=wait - warm_up, warmup=warm_up, active=recorded, repeat=1),
            on_trace_ready=lambda done: self.write(done, trainer.global_step, recorded),
        )
        self.profiler.start()

    def after_step(self, trainer: pl.Trainer, module: Training, step: int) -> None:
        if self.profiler is not None:
            self.profiler.step()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

    def write(self, done: profile, step: int, steps: int) -> None:
        with clear_disk_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            done.export_chrome_trace(str(self.folder / "trace.json.gz"))
            write_text_atomic(self.folder / "operators.md", table(done, step, steps))
        print(f"profile {self.folder}", file=sys.stderr)


def activities(device: torch.device) -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return [ProfilerActivity.CPU, *gpu]


def table(done: profile, step: int, steps: int) -> str:
    """The costliest operators by their own time, without that of operators they call, as Markdown.

    On a GPU the time is its own; else the CPU's.
    """
    events = [event for event in done.key_averages() if not event.key.startswith("ProfilerStep")]
    gpu = any(event.self_device_time_total for event in events)
    own = "self_device_time_total" if gpu else "self_cpu_time_total"

    def microseconds(event: Any) -> float:
        return float(getattr(event, own))

    events.sort(key=microseconds, reverse=True)
    total = sum(map(microseconds, events)) or 1.0
    where = "GPU" if gpu else "CPU"
    lines = [
        f"{steps} training steps, the last of them step {step}; own time on the {where}.",
        "",
        "| operator | calls | ms per step | share |",
        "|---|---|---|---|",
    ]
    for event in events[:COSTLIEST]:
        time = microseconds(event)
        lines.append(
            f"| `{event.key}` | {event.count} | {time / steps / 1000:.3f} | {time / total:.1%} |"
        )
    return "\n".join(lines) + "\n"
