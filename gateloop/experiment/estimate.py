"""How long runs will take: by what like runs took here, else by their FLOPs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from gateloop.config import Config
from gateloop.derived import tokens_per_step
from gateloop.experiment.archive import Outcome
from gateloop.experiment.plan import Cell, Job

# Of a large matrix product's rate a training step reaches about so much; a guess, said as such.
SHARE = 0.3


def tokens(config: Config) -> int:
    return config.trainer.max_steps * tokens_per_step(config)


def seconds(cells: Iterable[Cell], outcome: Callable[[Job], Outcome]) -> dict[str, float]:
    """Seconds of each run to come, by its key, those that tuning will ask for among them.

    At the speed of the same row's ended runs; else by FLOPs, at the rate of the other rows' ended
    runs or a share of what this machine has for a matrix product.
    """
    cells = list(cells)
    speeds: dict[str, float] = {}  # tokens per second, by row
    rates = []  # FLOPs per second
    for job, record in ((job, outcome(job).record) for cell in cells for job in cell.jobs):
        if record is not None and record.finished:
            # A record of somebody else's making may lack either, or have a 0.
            if (speed := record.content.get("tokens_per_second") or 0) > 0:
                speeds[job.row] = speed
            if (spent := record.content.get("train_seconds") or 0) > 0:
                rates.append(flops(job.config) / spent)
    todo = [job for cell in cells for job in [*cell.jobs, *cell.later] if not outcome(job).record]
    if not todo:
        return {}
    rate = statistics.median(rates) if rates else SHARE * _machine_rate()
    return {
        job.key: tokens(job.config) / speeds[job.row]
        if job.row in speeds
        else flops(job.config) / rate
        for job in todo
    }


def _machine_rate() -> float:
    from gateloop.forecast import matrix_product_rate

    return matrix_product_rate()


_PER_STEP: dict[tuple[str, str], float] = {}


def flops(config: Config) -> float:
    """FLOPs of a run's training; runs that differ in seed or optimiser alone are counted once."""
    from gateloop.forecast import flops_per_step

    same = repr(config.model), repr(config.data)
    if same not in _PER_STEP:
        _PER_STEP[same] = flops_per_step(config)
    return config.trainer.max_steps * _PER_STEP[same]
