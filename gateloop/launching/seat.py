"""What a run has for itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from gateloop.errors import InputError
from gateloop.training.launch import number_in


@dataclass(frozen=True)
class Seat:
    """What one run has for itself: cores, and GPUs ("0", or "0,1") where there are any."""

    cores: tuple[int, ...]
    gpu: str | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that keep a process to its seat."""
        threads = {"OMP_NUM_THREADS": str(len(self.cores))}
        return threads if self.gpu is None else {**threads, "CUDA_VISIBLE_DEVICES": self.gpu}


def seats(workers: int | None, devices: int = 1) -> list[Seat]:
    """``workers`` seats with disjoint cores, each with ``devices`` GPUs where there are as many;
    by default one for every ``devices`` GPUs, or a single one.

    Raises InputError where there are more workers than cores, and in one of several processes that
    torchrun or srun has started: each would start the same runs.
    """
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if number_in(name) > 1:
            raise InputError(
                f"{name}={os.environ[name]}: this command has been started that many times; start "
                "it once, and it starts its runs itself"
            )
    cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
    shared = [gpus[i : i + devices] for i in range(0, len(gpus) - devices + 1, devices)]
    number = workers or max(1, len(shared))
    if number > len(cores):
        raise InputError(
            f"--workers {number}: there are {len(cores)} cores; take at most {len(cores)}"
        )
    shares = [tuple(cores[i::number]) for i in range(number)]
    return [
        Seat(share, ",".join(shared[i % len(shared)]) if shared else None)
        for i, share in enumerate(shares)
    ]


def _gpus() -> list[str]:
    """Indices of the visible GPUs, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [index for index in visible.split(",") if index.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU")]
