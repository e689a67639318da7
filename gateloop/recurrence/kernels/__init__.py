"""Compiled forms of the recurrence, each optional: what they serve, and how they are called."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gateloop.recurrence.kernels import cpu, cuda, operators

__all__ = [
    "available",
    "fused",
    "fuses",
    "linear_scan_backward",
    "reads_16_bits",
    "scans",
    "solve_",
    "solves",
    "without",
]

_left_out = False


@contextmanager
def without() -> Iterator[None]:
    """Inside, the recurrence is computed in PyTorch alone, in all threads."""
    global _left_out
    before, _left_out = _left_out, True
    try:
        yield
    finally:
        _left_out = before


def available(device: str, real: torch.dtype) -> bool:
    """Whether there are kernels in C for a kind of device and a precision."""
    return not _left_out and _built(device, real)


@torch.compiler.assume_constant_result
def _built(device: str, real: torch.dtype) -> bool:
    return device == "cpu" and cpu.available(real)


@torch.compiler.assume_constant_result
def _built_on_cuda(kind: str) -> bool:
    return cuda.available(kind)


def fuses(
    q: Tensor, k: Tensor, v: Tensor, turns: bool, is_complex: bool, real: torch.dtype
) -> bool:
    """Whether one kernel takes a recurrence whole, from its gates to a real read-out.

    ``turns``: whether the transitions have phases; ``is_complex``: whether the states are complex;
    ``real``: the precision it is computed in.
    """
    if v.is_complex():
        return False
    plain = _is_plain(q, k, turns, is_complex)
    if v.is_cuda:
        kind = "gate_loop" if _is_narrow(q, v) else "outer_product"
        if kind == "outer_product" and q.shape[3] > cuda.MOST_KEYS:
            return False
        return plain and not _left_out and real == torch.float32 and _built_on_cuda(kind)
    return available(v.device.type, real) and (plain or not q.shape[3] == v.shape[3] == 1)


def reads_16_bits(v: Tensor) -> bool:
    """Whether ``fused`` takes q, k and v of 16 bits as they are, and computes in float32."""
    return v.is_cuda


def _is_plain(q: Tensor, k: Tensor, turns: bool, is_complex: bool) -> bool:
    return is_complex == turns and not q.is_complex() and not k.is_complex()


def _is_narrow(q: Tensor, v: Tensor) -> bool:
    """Whether a head has a row of numbers for its state, and no matrix."""
    return q.shape[3] == 1 or v.shape[3] == 1


def fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    *,
    is_complex: bool,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor]:
    """y and the last state of what ``fuses`` admits; ``amplitude`` as logits or as logarithms."""
    batch, _, heads, d_value = v.shape
    d_key = q.shape[3]
    if state is None:
        parts = amplitude.new_zeros(batch, heads, d_key, d_value, 2 if is_complex else 1)
    else:
        parts = torch.view_as_real(state.resolve_conj()) if is_complex else state[..., None]
    if _is_narrow(q, v) and _is_plain(q, k, phase is not None, is_complex):
        y, last = _channels(q, k, v, amplitude, phase, parts, reset, logits, growth)
    else:
        y, last, _ = operators.outer_product(
            q, k, v, amplitude, phase, parts, reset, logits, growth, False
        )
    return y, torch.view_as_complex(last) if is_complex else last.squeeze(-1)


def _channels(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    state_BHKVP: Tensor,
    reset_BL: Tensor | None,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor]:
    """Every key of a head with one value, or every value of one with one key, is a channel."""
    heads, d_key, d_value, _ = state_BHKVP.shape[1:]
    size = heads, d_key * d_value

    def channels(t: Tensor) -> Tensor:
        if t.shape[2:] == size:
            return t
        # in the precision of the gates: y, or a gradient, is a sum over what is spread out here
        return t.to(amplitude.dtype).expand(*t.shape[:2], *size)

    y_BLHW, last, _ = operators.gate_loop(
        *map(channels, (q_BLHK, k_BLHK, v_BLHV, amplitude)),
        None if phase is None else channels(phase), state_BHKVP, reset_BL, logits, growth, False,
    )  # fmt: skip
    return y_BLHW if d_key == 1 else y_BLHW.sum(3, keepdim=True), last


def solves(a: Tensor, out: Tensor) -> bool:
    """Whether one kernel makes the states (batch, length, heads, d_key, d_value) from a."""
    return (
        a.dtype == out.dtype
        and out.stride(-1) == 1
        and out.stride(2) == out.shape[3] * out.stride(3) == math.prod(out.shape[3:])
        and scans(out)
    )


def scans(x: Tensor) -> bool:
    """Whether there is a kernel for all states of x's kind, and one for their gradients."""
    real = x.real.dtype if x.is_complex() else x.dtype
    if x.is_cuda:
        return not _left_out and real == torch.float32 and _built_on_cuda("linear_scan")
    return available(x.device.type, real)


def solve_(
    a: Tensor, x: Tensor, start: Tensor, out: Tensor, forget: Tensor | None, reverse: bool
) -> None:
    """out_n ← h_n of h_n = a_n h_{n∓1} + x_n, for what ``solves`` admits; out may be x.

    a has five axes as x does, each 1 or x's but the first two of their own; start one fewer. Where
    ``forget`` (batch, length, 1, 1, 1) is true, h_n = x_n.
    """
    heads, d_key, _ = x.shape[2:]
    sizes = tuple(a.shape[2:])
    if sizes == (heads, 1, 1):
        a = a[..., 0, 0]
    else:
        a = a.expand(*a.shape[:2], heads, d_key, sizes[2]).flatten(2)
    reset = None if forget is None else forget[:, :, 0, 0, 0]
    to = out.flatten(2)
    operators.linear_scan_(
        a, to if out is x else x.flatten(2), start.flatten(1), reset, to, reverse
    )


def linear_scan_backward(
    grad: Tensor, a: Tensor, h: Tensor, start: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by a, x and start of all states h (batch, length, channels) of a scan."""
    by_a, by_x, by_start = operators.linear_scan_backward(grad, a, h, start, reset)
    return by_a.sum_to_size(a.shape), by_x, by_start
