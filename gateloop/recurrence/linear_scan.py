"""The bare recurrence: all states from transitions and inputs, without gates and read-out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gateloop.recurrence import kernels
from gateloop.recurrence.derivative import OTHER_MODES, first_only
from gateloop.recurrence.scan import forgotten, solve


def linear_scan(
    a: Tensor, x_BLC: Tensor, state_BC: Tensor | None = None, *, reset: Tensor | None = None
) -> Tensor:
    """All states of h_n = a_n ⊙ h_{n-1} + x_n, (batch, length, channels) like x.

    a (batch or 1, length or 1, channels): a length axis of 1 is a fixed transition, and is not
    written out. state (batch, channels) stands before the first step; None is zero. reset (batch,
    length) bool: the state is zero before that step. All float32 or float64, or all complex.

    Raises ValueError for wrong shapes and dtypes.
    """
    _check(a, x_BLC, state_BC, reset)
    if state_BC is None:
        state_BC = x_BLC.new_zeros(x_BLC.shape[0], x_BLC.shape[2])
    return _LinearScan.apply(a, x_BLC, state_BC, reset)


def _check(a: Tensor, x: Tensor, state: Tensor | None, reset: Tensor | None) -> None:
    wide = (torch.float32, torch.float64, torch.complex64, torch.complex128)
    if x.ndim != 3 or x.dtype not in wide or x.shape[2] == 0:
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; it must be float32, float64 or complex, "
            "(batch, length, channels), with at least one channel"
        )
    batch, length, channels = x.shape
    sizes = {1, batch}, {1, length}, {channels}
    if (
        a.dtype != x.dtype
        or a.ndim != 3
        or any(n not in admitted for n, admitted in zip(a.shape, sizes, strict=True))
    ):
        raise ValueError(
            f"a is {a.dtype} of shape {tuple(a.shape)}; with x {x.dtype} {tuple(x.shape)} it must "
            f"be {x.dtype}, (batch or 1, length or 1, channels)"
        )
    if state is not None and (state.dtype != x.dtype or tuple(state.shape) != (batch, channels)):
        raise ValueError(
            f"state is {state.dtype} of shape {tuple(state.shape)}; it must be {x.dtype}, "
            f"(batch, channels), here {(batch, channels)}"
        )
    if reset is not None and (tuple(reset.shape) != (batch, length) or reset.dtype != torch.bool):
        raise ValueError(
            f"reset is {reset.dtype} of shape {tuple(reset.shape)}; it must be bool of shape "
            f"(batch, length), here {(batch, length)}"
        )


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, x: Tensor, start: Tensor, reset: Tensor | None) -> Tensor:
        h = torch.empty_like(x, memory_format=torch.contiguous_format)
        a_BLC11, x_BLC11, out = (t[..., None, None] for t in (a, x, h))
        solve(a_BLC11, x_BLC11, start[..., None, None], out, forgotten(reset), False)
        ctx.save_for_backward(a, start, reset, h)
        return h

    @staticmethod
    @first_only(OTHER_MODES)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, start, reset, h = ctx.saved_tensors
        if kernels.scans(h):
            return (*kernels.linear_scan_backward(grad, a, h, start, reset), None)
        mu = grad.conj().resolve_conj().clone(memory_format=torch.contiguous_format)
        later = a[:, 1:] if a.shape[1] > 1 else a
        rest = mu[:, :-1][..., None, None]
        if h.shape[1] > 1:
            solve(later[..., None, None], rest, mu[:, -1][..., None, None], rest,
                   forgotten(None if reset is None else reset[:, 1:]), True)  # fmt: skip
        by_a = mu * torch.cat([start[:, None], h[:, :-1]], dim=1)
        by_start = mu[:, 0] * a[:, 0]
        if reset is not None:
            by_a = by_a.masked_fill(reset[..., None], 0)
            by_start = by_start.masked_fill(reset[:, :1], 0)
        return by_a.sum_to_size(a.shape).conj(), mu.conj(), by_start.conj(), None
