"""The process that measures one cell: the cell as JSON on stdin, its outcome as JSON on stdout.

Imports no more than the cell needs, since the recurrence is to be measured in a process that has
imported gateloop.recurrence and nothing else of this package's dependants.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

from gateloop.benchmark.cell import Cell, What


def limit_threads(threads: int) -> None:
    """As many threads for every library: each asks how many cores the process may use."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, allowed)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def measure(cell: Cell) -> dict[str, Any]:
    if cell.what is What.tokenize:
        from gateloop.benchmark import tokenizing

        return tokenizing.measure(cell)
    if cell.allocator == "untouched":
        os.environ["GATELOOP_KEEP_PAGES"] = "off"
    import torch

    torch.set_num_threads(cell.threads)
    torch.manual_seed(0)
    if cell.allocator == "tuned":
        from gateloop.recurrence.memory import keep_freed_pages

        keep_freed_pages()
    if cell.what is What.recurrence:
        from gateloop.benchmark import recurrence

        return recurrence.measure(cell)
    if cell.what is What.step:
        from gateloop.benchmark import step

        return step.measure(cell)
    from gateloop.benchmark import decode

    return decode.measure(cell)


def main() -> None:
    cell = Cell.from_json(json.load(sys.stdin))
    limit_threads(cell.threads)
    outcome = measure(cell)
    outcome["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if cell.device == "cuda":
        import torch

        outcome["accelerator"] = torch.cuda.get_device_name()
        outcome["peak_MiB"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
