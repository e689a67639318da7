"""What a training step of every model costs: milliseconds and memory, by sequence length.

python benchmarks/models.py --size small --lengths 256 1024 4096 --out results/cost/models.json

A step is forward, loss, backward, clipping and AdamW on one batch of ``--tokens`` tokens (as many
sequences as fit, at least one) of 256 byte values, mode=auto. Every cell is measured in a process
of its own. Its time is the median over ``--steps`` steps after two that are not counted, with the
least and the largest beside it in the file; its memory is how far the process's peak resident size
rises above what it was before the first step: weights are not in it, gradients and AdamW's moments
are.

--profile prints instead where a step spends its time: torch's profiler over one step, each
operator's own CPU time as a share of all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gateloop.compose import compose
from gateloop.models import build
from gateloop.models.size import count
from gateloop.recurrence.memory import keep_freed_pages
from gateloop.registry import MODELS
from gateloop.training.cross_entropy import token_losses
from gateloop.training.optimizer import make_optimizer
from gateloop.training.provenance import current_commit

VALUES = 256
WARM_UP = 2
SHOWN = 6  # operators of a profile
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
VARIANTS = {
    **{name: [f"model={name}"] for name in MODELS},
    "transformer, data-controlled": ["model=transformer", "model.position=data_controlled"],
}


def peak() -> float:
    """This process's largest resident size so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_step(
    given: list[str], length: int, sequences: int
) -> tuple[nn.Module, Callable[[], None]]:
    """A model, and a step of its training on one batch of noise."""
    keep_freed_pages()
    config = compose([*given, "tracker=none"])
    torch.manual_seed(0)
    model = build(config.model, VALUES, VALUES).train()
    optimizer, _ = make_optimizer(model, config)
    tokens_BL = torch.randint(0, VALUES, (sequences, length))

    def step() -> None:
        x_BLD, _ = model.features(tokens_BL)
        token_losses(model.head, x_BLD, tokens_BL).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def measure(given: list[str], length: int, sequences: int, steps: int) -> dict[str, Any]:
    """One cell, in this process."""
    model, step = make_step(given, length, sequences)
    before, times = peak(), []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - start))
    counted = times[WARM_UP:]
    return {
        "parameters": count(model),
        "sequences": sequences,
        "median_ms": statistics.median(counted),
        "least_ms": min(counted),
        "largest_ms": max(counted),
        "memory_MiB": peak() - before,
    }


def profiled(given: list[str], length: int, sequences: int) -> dict[str, float]:
    """Percent of a step's time in matrix products together, then in its greatest operators."""
    _, step = make_step(given, length, sequences)
    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(times.values())
    greatest = sorted(times, key=lambda name: times[name], reverse=True)[:SHOWN]
    products = sum(times.get(name, 0) for name in PRODUCTS)
    shares = {"matrix products": products, **{name: times[name] for name in greatest}}
    return {name: 100 * share / total for name, share in shares.items()}


def in_own_process(options: argparse.Namespace, label: str, length: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--size", options.size, "--threads", str(options.threads)]
    command += ["--tokens", str(options.tokens), "--steps", str(options.steps)]
    command += ["--lengths", str(length), "--cell", label]
    command += ["--profile"] if options.profile else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{label} at {length}: {done.stderr[-2000:]}")
    return {"model": label, "length": length, **json.loads(done.stdout)}


def table(cells: list[dict[str, Any]], lengths: list[int]) -> str:
    """A row a model: milliseconds, MiB, and the time as a multiple of the Transformer's."""
    by = {(cell["model"], cell["length"]): cell for cell in cells}
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    heads = [f"{length}: ms | MiB | × Transformer" for length in lengths]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (1 + 3 * len(lengths)) + "|"]
    for model in models:
        shown = []
        for length in lengths:
            cell, reference = by[model, length], by.get(("transformer", length))
            ratio = cell["median_ms"] / reference["median_ms"] if reference else float("nan")
            shown.append(f"{cell['median_ms']:.0f} | {cell['memory_MiB']:.0f} | {ratio:.2f}")
        lines.append(f"| {model} | {' | '.join(shown)} |")
    return "\n".join(lines)


def shares(cell: dict[str, Any]) -> list[str]:
    return [f"{name} {cell[name]:.0f} %" for name in cell if name not in ("model", "length")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--size", default="small", help="as size= of a run (small)")
    parser.add_argument("--lengths", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a step (4096)")
    parser.add_argument("--steps", type=int, default=5, help="steps that count (5)")
    parser.add_argument("--threads", type=int, default=1, help="torch's CPU threads (1)")
    parser.add_argument("--profile", action="store_true", help="where a step spends its time")
    parser.add_argument("--out", type=Path, help="write the cells as JSON")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.cell:
        (length,) = options.lengths
        given = [*VARIANTS[options.cell], f"size={options.size}"]
        if options.cell == "gpt2":
            given.append(f"model.max_length={max(1024, length)}")
        sequences = max(1, options.tokens // length)
        if options.profile:
            print(json.dumps(profiled(given, length, sequences)))
        else:
            print(json.dumps(measure(given, length, sequences, options.steps)))
        return
    cells = []
    for label in options.models:
        for length in options.lengths:
            cell = in_own_process(options, label, length)
            if options.profile:
                print(", ".join([f"{label} at {length}", *shares(cell)]), flush=True)
            else:
                cells.append(cell)
                print(json.dumps(cell), file=sys.stderr, flush=True)
    if options.profile:
        return
    print(table(cells, options.lengths))
    if options.out:
        facts = {
            "command": ["python", *sys.argv],
            "size": options.size,
            "tokens": options.tokens,
            "threads": options.threads,
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "commit": current_commit(),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**facts, "cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
