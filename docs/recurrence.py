"""Times the modes of the recurrence: the tables of docs/recurrence.md.

    python docs/recurrence.py

CPU time of one thread in milliseconds, forward / forward and backward, the least of several runs
(the least, because other work on the machine only ever adds). Takes some five minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from gateloop.recurrence import gated_linear_recurrence, kernels

PLAIN = "scan in PyTorch"

MAX_HEADED = ((32, 128, 64, 1, 1), (4, 1024, 512, 1, 1), (1, 16384, 256, 1, 1))
NARROW = ((4, 1024, 64, 2, 1), (4, 1024, 64, 4, 1), (4, 1024, 64, 32, 1), (4, 1024, 4, 1, 64))
SMALL = ((4, 128, 64, 1, 1), (1, 512, 64, 1, 1))
OUTER = (
    (8, 128, 16, 4, 4),
    (32, 128, 4, 8, 16),
    (32, 128, 4, 8, 27),
    (4, 1024, 16, 4, 4),
    (4, 1024, 8, 8, 8),
    (4, 1024, 4, 8, 27),
    (4, 1024, 4, 16, 16),
    (4, 1024, 2, 32, 32),
    (1, 1024, 4, 64, 64),
)
REAL = ((4, 1024, 4, 64, 64), (1, 4096, 4, 64, 64), (4, 1024, 4, 24, 128), (16, 128, 4, 32, 32))
LENGTHS = ((32, 128), (8, 512), (4, 1024), (1, 4096))
S4D = tuple((*size, heads, 32, 1) for heads in (64, 256) for size in LENGTHS)
LRU = tuple((*size, heads, 1, 1) for heads in (64, 256) for size in LENGTHS)
FEW_KEYS = tuple((4, 1024, 64, d_key, 1) for d_key in (1, 2, 4, 8))
SHORT = tuple((4, length, 64, 32, 1) for length in (16, 32, 64))
THREE_MODES = (
    (4, 1024, 64, 32, 1),
    (4, 1024, 4, 16, 16),
    (1, 1024, 4, 64, 64),
    (1, 128, 4, 64, 64),
)


def least(function: Callable[[], object], seconds: float = 1.0) -> float:
    function()
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 20):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def measure(shape: tuple[int, ...], mode: str, kind: str = "") -> str:
    with kernels.without() if mode == PLAIN else nullcontext():
        return timed(shape, "scan" if mode == PLAIN else mode, kind)


def timed(shape: tuple[int, ...], mode: str, kind: str) -> str:
    """``kind``: amplitudes "by head", also without phases, "real"; all but v "constant"; as in the
    "LRU", where besides v and y are complex, and q and k are one."""
    batch, length, heads, d_key, d_value = shape
    noise = torch.Generator().manual_seed(0)
    constant, lru = kind in ("constant", "LRU"), kind == "LRU"

    def normal(*size: int, is_complex: bool = False) -> torch.Tensor:
        dtype = torch.complex64 if is_complex else torch.float32
        return torch.randn(size, generator=noise, dtype=dtype)

    size = (1, 1) if constant else (batch, length)
    q, k = (None if lru else normal(*size, heads, d_key, is_complex=constant) for _ in range(2))
    phase = None if kind == "real" else normal(*size, heads, d_key)
    v = normal(batch, length, heads, d_value, is_complex=lru)
    logits = normal(*size, heads, 1 if kind in ("by head", "real") else d_key) + 3
    log_amplitude = torch.nn.functional.logsigmoid(logits)
    inputs = [t.requires_grad_() for t in (v, log_amplitude, phase, q, k) if t is not None]

    def forward() -> torch.Tensor:
        return gated_linear_recurrence(
            q, k, v, log_amplitude, phase, mode=mode, complex_output=lru
        )[0]

    def both() -> object:
        y = forward()
        return torch.autograd.grad(y, inputs, torch.ones_like(y))

    with torch.no_grad():
        alone = least(forward)
    return f"{alone:.1f} / {least(both):.1f}"


def table(shapes: tuple[tuple[int, ...], ...], modes: tuple[str, ...], kind: str = "") -> None:
    print(f"\n| batch, length, heads, d_key, d_value | {' | '.join(modes)} |")
    print("|---" * (1 + len(modes)) + "|")
    for shape in shapes:
        cells = [measure(shape, mode, kind) for mode in modes]
        print(f"| {', '.join(map(str, shape))} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    table(MAX_HEADED, ("recurrent", "scan", PLAIN))
    table(SMALL, ("recurrent", "scan", PLAIN, "chunkwise", "attention"))
    table(NARROW, ("recurrent", "scan", PLAIN, "chunkwise"))
    table(OUTER, ("recurrent", "scan", PLAIN, "chunkwise"))
    table(OUTER, ("scan", PLAIN, "chunkwise"), "by head")
    table(REAL, ("scan", PLAIN, "chunkwise"), "real")
    table(S4D, ("scan", PLAIN, "convolution"), "constant")
    table(LRU, ("scan", PLAIN, "convolution"), "LRU")
    table(FEW_KEYS, ("scan", PLAIN, "convolution"), "constant")
    table(SHORT, ("scan", PLAIN, "convolution"), "constant")
    table(THREE_MODES, ("scan", PLAIN, "chunkwise", "convolution"), "constant")
