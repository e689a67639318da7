"""How long runs will take: by what like runs took here, else by their FLOPs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import cache

from gateloop.config import Config
from gateloop.derived import tokens_per_step
from gateloop.experiment.archive import Outcome
from gateloop.experiment.plan import Cell, Job

# Of a large matrix product's rate a training step reaches about so much; a guess, said as such.
SHARE = 0.3


def tokens(config: Config) -> int:
    return config.trainer.max_steps * tokens_per_step(config)


def seconds(cells: Iterable[Cell], outcome: Callable[[Job], Outcome]) -> dict[Job, float]:
    """Seconds of each job that has not ended: at the rate of the same row's ended runs, else by
    FLOPs at the rate that this machine has for a matrix product."""
    found: dict[Job, float] = {}
    for cell in cells:
        records = [record for job in cell.jobs if (record := outcome(job).record) is not None]
        rates = [r.content["tokens_per_second"] for r in records if r.finished]
        for job in cell.jobs:
            if outcome(job).record is None:
                found[job] = (
                    tokens(job.config) / rates[-1]
                    if rates
                    else flops(job.config) / (SHARE * machine_rate())
                )
    return found


def flops(config: Config) -> float:
    from gateloop.forecast import training_flops

    return training_flops(config)


@cache
def machine_rate() -> float:
    """FLOP/s of a float32 matrix product, on a GPU where there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(1024, 1024, device=device)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(times)
