"""Times the modes of the recurrence: the tables of docs/recurrence.md.

    python docs/recurrence.py

CPU time of one thread in milliseconds, forward / forward and backward, the least of several runs
(the least, because other work on the machine only ever adds). Takes some two minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from gateloop.recurrence import gated_linear_recurrence

MAX_HEADED = ((32, 128, 64, 1, 1), (4, 1024, 512, 1, 1), (1, 16384, 256, 1, 1))
SMALL = ((4, 128, 64, 1, 1), (1, 512, 64, 1, 1))
OUTER = (
    (8, 128, 16, 4, 4),
    (4, 1024, 16, 4, 4),
    (4, 1024, 8, 8, 8),
    (4, 1024, 4, 16, 16),
    (4, 1024, 2, 32, 32),
    (1, 1024, 4, 64, 64),
)


def least(function: Callable[[], object], seconds: float = 1.0) -> float:
    function()
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 20):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def measure(shape: tuple[int, ...], mode: str, by_head: bool = False) -> str:
    batch, length, heads, d_key, d_value = shape
    noise = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=noise)

    q, k, phase = (normal(batch, length, heads, d_key) for _ in range(3))
    v = normal(batch, length, heads, d_value)
    logits = normal(batch, length, heads, 1 if by_head else d_key) + 3
    log_amplitude = torch.nn.functional.logsigmoid(logits)
    inputs = [t.requires_grad_() for t in (q, k, v, log_amplitude, phase)]

    def forward() -> torch.Tensor:
        return gated_linear_recurrence(*inputs, mode=mode)[0]

    def both() -> object:
        return torch.autograd.grad(forward().sum(), inputs)

    with torch.no_grad():
        alone = least(forward)
    return f"{alone:.1f} / {least(both):.1f}"


def table(shapes: tuple[tuple[int, ...], ...], modes: tuple[str, ...], by_head: bool) -> None:
    print(f"\n| batch, length, heads, d_key, d_value | {' | '.join(modes)} |")
    print("|---" * (1 + len(modes)) + "|")
    for shape in shapes:
        cells = [measure(shape, mode, by_head) for mode in modes]
        print(f"| {', '.join(map(str, shape))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    table(MAX_HEADED, ("recurrent", "scan"), by_head=False)
    table(SMALL, ("recurrent", "scan", "chunkwise", "attention"), by_head=False)
    table(OUTER, ("recurrent", "scan", "chunkwise"), by_head=False)
    table(OUTER, ("scan", "chunkwise"), by_head=True)
