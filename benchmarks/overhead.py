"""What the framework costs: its step time against a bare PyTorch loop on the same model.

python benchmarks/overhead.py --steps 100 --pairs 5 --threads 1 -- model.d_model=64

Both loops do, every step: make the batch, forward, backward, clip, AdamW, schedule. The framework's
also seeds the step, logs to metrics.jsonl, and asks whether to validate, save or stop. What does
not happen every step is left out on both sides: building the model, validation, the checkpoint at
the end. A step is what lies between two requests for a batch, measured the same way in both.

Runs alternate, so that a machine that slows down slows both; the figure is the median over pairs
of the ratio of mean step times. ``--`` is followed by the overrides of any run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from gateloop.compose import compose
from gateloop.config import Config, Precision
from gateloop.data import Batch, Source, open_source
from gateloop.derived import accumulation, micro_batch
from gateloop.errors import InputError
from gateloop.identity import identity
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from gateloop.models.size import count
from gateloop.training.cross_entropy import token_losses
from gateloop.training.device import choose_device, device_name
from gateloop.training.feed import tensors
from gateloop.training.fit import fit
from gateloop.training.interruption import Interruption
from gateloop.training.optimizer import make_optimizer
from gateloop.training.record import RunFolder

WARM_UP = 10  # steps of each run that are not measured


class Clocked:
    """A source that notes when it is asked for a batch: wall time and this process's CPU time."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.asked: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def samples(self, seed: int, first: int, count: int) -> Batch:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.asked.append((time.perf_counter(), time.process_time()))
        return self.source.samples(seed, first, count)

    def seconds_per_step(self, accumulation: int) -> tuple[float, float]:
        """(wall, CPU): means over the steps after the warm-up, so that rare work counts too."""
        (wall, cpu), *_, (wall_end, cpu_end) = marks = self.asked[WARM_UP * accumulation :]
        steps = (len(marks) - 1) / accumulation
        return (wall_end - wall) / steps, (cpu_end - cpu) / steps


def bare(config: Config, model: LanguageModel, source: Source, device: torch.device) -> None:
    """The loop that somebody would write without any framework."""
    precision, parts = config.trainer.precision, accumulation(config)
    dtype = torch.float64 if precision is Precision.float64 else torch.float32
    model.to(device, dtype).train()
    optimizer, schedule = make_optimizer(model, config)
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bfloat16)
    limit, size = config.trainer.gradient_clip or float("inf"), micro_batch(config)
    for step in range(config.trainer.max_steps + 1):
        for part in range(parts):
            batch = tensors(source.samples(config.seed, (step * parts + part) * size, size))
            if step == config.trainer.max_steps:
                return  # the request that ends the last step
            inputs, targets = batch["inputs"].to(device), batch["targets"].to(device)
            reset = batch["reset"].to(device) if "reset" in batch else None
            with half:
                x, _ = model.features(inputs, reset=reset, mode=config.mode.name)
                loss = token_losses(model.head, x, targets).mean() / parts
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def framework(config: Config, model: LanguageModel, source: Any, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(folder, "overhead")
        with run.locked():
            run.open(config, identity(config, None))
            fit(config, model, source, device, run, Interruption(), None)


def measure(loop: Any, config: Config, source: Source, device: torch.device) -> tuple[float, float]:
    torch.manual_seed(config.seed)
    clocked = Clocked(source)
    loop(config, build(config.model, source.inputs, source.classes), clocked, device)
    return clocked.seconds_per_step(accumulation(config))


def settings(arguments: argparse.Namespace) -> Config:
    steps = arguments.steps + WARM_UP
    return compose(
        [
            *arguments.overrides,
            f"trainer.max_steps={steps}",
            f"trainer.validate_every={steps}",
            f"trainer.checkpoint_every={steps}",
            "trainer.progress=false",
            "tracker=none",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="measured steps of each run (100)")
    parser.add_argument("--pairs", type=int, default=5, help="how often both loops run (5)")
    parser.add_argument("--threads", type=int, default=1, help="torch's CPU threads (1)")
    parser.add_argument("overrides", nargs="*", help="key=value, as for gateloop.run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = settings(arguments)
    device, source = choose_device(config), open_source(config.data)
    size = count(build(config.model, source.inputs, source.classes))
    print(f"{device_name(device)}, {cpu()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    print(f"{source.name}: {size:,} parameters, {arguments.steps} steps a run")
    print("pair | wall, ms: bare  framework  ratio | CPU, ms: bare  framework  ratio")
    wall, processor = [], []
    for pair in range(arguments.pairs):
        order = [bare, framework] if pair % 2 == 0 else [framework, bare]
        found = {loop: measure(loop, config, source, device) for loop in order}
        (b, b_cpu), (f, f_cpu) = found[bare], found[framework]
        wall.append(f / b)
        processor.append(f_cpu / b_cpu)
        print(
            f"{pair + 1:>4} | {1e3 * b:>14.2f} {1e3 * f:>10.2f} {f / b:>6.3f} "
            f"| {1e3 * b_cpu:>13.2f} {1e3 * f_cpu:>10.2f} {f_cpu / b_cpu:>6.3f}",
            flush=True,
        )
    for name, ratios in (("wall", wall), ("CPU", processor)):
        middle = statistics.median(ratios)
        print(
            f"{name}: the framework costs {100 * (middle - 1):+.1f}% of a step's time "
            f"(median of {len(ratios)} pairs; {min(ratios):.3f} to {max(ratios):.3f})"
        )


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"overhead: {error}")
