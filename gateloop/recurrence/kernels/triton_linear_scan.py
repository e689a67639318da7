"""All states of h_n = a_n h_{n-1} + x_n as Triton kernels, real or complex, and the gradients.

As in triton_elementwise, a program takes one batch entry, a block of channels and a segment of
time, and where there are too few channels to fill the device, time is cut into segments and three
phases. Complex numbers have their imaginary parts beside the real ones.

Correct in Triton's interpreter and compiled for a GPU; not measured on one.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from gateloop.recurrence.kernels import triton_linear_scan_kernels as kernels
from gateloop.recurrence.kernels.triton_elementwise import (
    BLOCK,
    STAGES,
    carried,
    planar,
    rows,
    segments_of,
    strides,
)


def scan_(
    a: Tensor,
    x: Tensor,
    start: Tensor,
    reset: Tensor | None,
    out: Tensor,
    reverse: bool,
    *,
    segments: int | None = None,
) -> None:
    """out_n ← h_n of h_n = a_n h_{n∓1} + x_n, towards the future or the past.

    x (batch, length, channels) of any strides; a (batch|1, length|1, channels / r), each number of
    it for r channels in a row; start (batch, channels); out as x, its last axis dense, or x itself;
    all float32 or all complex64. reset (batch, length) bool: what came before that step counts
    nothing.

    ``segments``: the parts that time is cut into; None chooses by device.
    """
    batch, length, channels = x.shape
    if batch == 0:
        return
    count = segments_of(x) if segments is None else segments
    steps = triton.cdiv(length, count)
    count = triton.cdiv(length, steps)
    repeat = channels // a.shape[2]
    options = _options(x, reset, REVERSE=reverse)
    x = rows(x.resolve_conj())
    inputs = [*_transitions(a, reset), _parts(x), *_strides(x), _parts(out), *_strides(out)]
    sizes = length, channels, steps, repeat
    grid = batch * triton.cdiv(channels, BLOCK), count
    with torch.cuda.device_of(x):
        state = planar(_parts(start))
        before = state[:, None]
        if count > 1:
            product, added = state.new_empty(2, batch, count, *state.shape[1:])
            kernels.forward[grid](*inputs, state, product, added, *sizes, REDUCE=True, **options)
            before = carried(product, added, state, reverse=False)
        kernels.forward[grid](*inputs, before, state, state, *sizes, REDUCE=False, **options)


def backward(
    grad: Tensor,
    a: Tensor,
    h: Tensor,
    start: Tensor,
    reset: Tensor | None,
    *,
    segments: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by a, x and start of all states h (batch, length, channels), dense.

    a (batch|1, length|1, channels) and grad of any strides. That by a fixed a is (batch, 1,
    channels); nothing is summed over a batch that shares it.
    """
    batch, length, channels = h.shape
    fixed = a.shape[1] == 1
    by_x, by_start = torch.empty_like(h), torch.empty_like(start.contiguous())
    if batch == 0:
        return h.new_empty(0, a.shape[1], channels), by_x, by_start
    count = segments_of(h) if segments is None else segments
    steps = triton.cdiv(length, count)
    count = triton.cdiv(length, steps)
    by_a = h.new_empty(batch, count if fixed else length, channels)
    options = _options(h, reset, FIXED=fixed)
    grad = rows(grad.resolve_conj())
    inputs = [*_transitions(a, reset), _parts(grad), *_strides(grad), _parts(h)]
    inputs.append(_parts(start.contiguous()))
    outputs = [_parts(by_a), _parts(by_x), _parts(by_start), length, channels, steps]
    grid = batch * triton.cdiv(channels, BLOCK), count
    with torch.cuda.device_of(h):
        state = planar(_parts(torch.zeros_like(start)))
        before = state[:, None]
        if count > 1:
            product, added = state.new_empty(2, batch, count, *state.shape[1:])
            kernels.backward[grid](*inputs, state, product, added, *outputs, REDUCE=True, **options)
            before = carried(product, added, state, reverse=False)
        kernels.backward[grid](*inputs, before, state, state, *outputs, REDUCE=False, **options)
    return by_a.sum(1, keepdim=True) if fixed else by_a, by_x, by_start


def _parts(t: Tensor) -> Tensor:
    """Real, real and imaginary part in an axis at the end."""
    return torch.view_as_real(t) if t.is_complex() else t[..., None]


def _strides(t: Tensor) -> tuple[int, int]:
    """From one batch entry and one step to the next, in real numbers."""
    batch, time = strides(t)
    numbers = 2 if t.is_complex() else 1
    return numbers * batch, numbers * time


def _transitions(a: Tensor, reset: Tensor | None) -> list[Tensor | int]:
    """The kernels' first arguments; a reset that is None is never read."""
    a = rows(a.resolve_conj())
    flags = _parts(a) if reset is None else reset.contiguous().view(torch.uint8)
    return [_parts(a), *_strides(a), flags]


def _options(x: Tensor, reset: Tensor | None, **switches: bool) -> dict[str, Any]:
    return {
        "TURNS": x.is_complex(),
        "RESETS": reset is not None,
        **switches,
        "BLOCK": BLOCK,
        "STAGES": STAGES,
        "num_warps": 1,
    }
