"""The C kernels called on tensors. The operators of :mod:`.operators` say what each computes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from gateloop.recurrence.kernels.compiler import library

TASKS = 8  # heads of sequences, or blocks of their values, that are worth sharing out
LEAST_BLOCK = 16  # values

LOGIT, LOG_AMPLITUDE, GROWING_LOG_AMPLITUDE = range(3)  # of gates.h


class Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "length", "channels", "repeat")),
        ("stride", ctypes.c_int64 * 12),
    )


class Head(ctypes.Structure):
    _fields_ = (
        ("of", Shape),
        *((name, ctypes.c_int64) for name in ("d_key", "d_value", "blocks")),
        *((n, ctypes.c_int) for n in ("q_parts", "k_parts", "parts", "gate", "threads")),
    )


def _pointers(*names: str) -> tuple[tuple[str, type], ...]:
    return tuple((name, ctypes.c_void_p) for name in names)


class Inputs(ctypes.Structure):
    _fields_ = _pointers("q", "k", "v", "amplitude", "phase", "grad_y", "reset")


class Gradients(ctypes.Structure):
    _fields_ = (
        *_pointers("q", "k", "v", "amplitude", "phase", "state"),
        ("fixed_amplitude", ctypes.c_int),
        ("fixed_phase", ctypes.c_int),
    )


def available(real: torch.dtype) -> bool:
    """Whether there are kernels for ``real``, float32 or float64."""
    return library(real) is not None


def _kernels(real: torch.dtype) -> ctypes.CDLL:
    kernels = library(real)
    assert kernels is not None
    return kernels


def _dense(t: Tensor) -> Tensor:
    """``t``, with numbers of one row side by side."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _rows(t: Tensor) -> Tensor:
    """``t``, the two last axes of which are dense."""
    heads, width = t.shape[2:]
    row = width == 1 or t.stride(3) == 1
    return t if row and (heads == 1 or t.stride(2) == width) else t.contiguous()


def _shape(size: tuple[int, ...], repeat: int, *arrays: Tensor | None) -> Shape:
    """``arrays`` are (batch or 1, length or 1, …); strides count real numbers."""
    strides = []
    for t in arrays:
        if t is None:
            strides += [0, 0]
            continue
        numbers = 2 if t.is_complex() else 1
        for step, steps in zip(t.stride()[:2], t.shape[:2], strict=True):
            strides.append(numbers * step if steps > 1 else 0)
    strides += [0] * (12 - len(strides))
    return Shape(*size, repeat, (ctypes.c_int64 * 12)(*strides))


def _at(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _pointer(t: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(_at(t))


def _gate(logits: bool, growth: bool) -> int:
    if logits:
        return LOGIT
    return GROWING_LOG_AMPLITUDE if growth else LOG_AMPLITUDE


def gate_loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels(v.dtype)
    q, k, v, amplitude = (_rows(t) for t in (q, k, v, amplitude))
    phase = None if phase is None else _rows(phase)
    state, reset = state.contiguous(), None if reset is None else reset.contiguous()
    batch, length, heads, width = v.shape
    size = batch, length, heads * width
    chunks = -(-length // kernels.gate_loop_chunk())
    y, last = v.new_empty(v.shape), torch.empty_like(state)
    kept = v.new_empty(batch, chunks, state.shape[-1], heads * width)
    kernels.gate_loop_forward(
        ctypes.byref(_shape(size, 1, q, k, v, amplitude, phase)),
        ctypes.byref(Inputs(_at(q), _at(k), _at(v), _at(amplitude), _at(phase), None, _at(reset))),
        _gate(logits, growth),
        torch.get_num_threads(),
        *(_pointer(t) for t in (state, y, last, kept)),
    )
    return y, last, kept


def gate_loop_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    kept: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    grad_y, q, k, v, amplitude = (_rows(t) for t in (grad_y, q, k, v, amplitude))
    phase = None if phase is None else _rows(phase)
    batch, length, heads, width = v.shape
    size = batch, length, heads * width
    grad_last, reset = grad_last.contiguous(), None if reset is None else reset.contiguous()
    grad_q, grad_k, grad_v = (v.new_empty(v.shape) for _ in range(3))
    grad_amplitude = _gate_gradient(amplitude, v)
    grad_phase = None if phase is None else _gate_gradient(phase, v)
    grad_state = torch.empty_like(grad_last)
    gradients = (grad_q, grad_k, grad_v, grad_amplitude, grad_phase, grad_state)
    fixed = [t is not None and t.shape[1] == 1 < v.shape[1] for t in (amplitude, phase)]
    _kernels(v.dtype).gate_loop_backward(
        ctypes.byref(_shape(size, 1, q, k, v, amplitude, phase, grad_y)),
        ctypes.byref(Inputs(*(_at(t) for t in (q, k, v, amplitude, phase, grad_y, reset)))),
        _gate(logits, growth),
        torch.get_num_threads(),
        _pointer(kept),
        _pointer(grad_last),
        ctypes.byref(Gradients(*(_at(t) for t in gradients), *fixed)),
    )
    return gradients


def _gate_gradient(gate: Tensor, v: Tensor) -> Tensor:
    """Where a gate's gradient goes: zeros to add to where the gate is fixed over time."""
    batch, length, heads, width = v.shape
    if gate.shape[1] == 1 < length:
        return v.new_zeros(batch, 1, heads, width)
    return v.new_empty(v.shape)


def _outer_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    grad_y: Tensor | None,
    parts: int,
    logits: bool,
    growth: bool,
) -> Head:
    batch, length, heads, d_value = v.shape
    shape = _shape((batch, length, heads), 1, q, k, v, amplitude, phase, grad_y)
    # whatever the number of threads, so that it changes no bit
    blocks = min(-(-TASKS // max(1, batch * heads)), -(-d_value // LEAST_BLOCK))
    q_parts, k_parts = (2 if t.is_complex() else 1 for t in (q, k))
    gate = _gate(logits, growth)
    sizes = q.shape[3], d_value, blocks, q_parts, k_parts, parts
    return Head(shape, *sizes, gate, torch.get_num_threads())


def _spread(gate: Tensor, q: Tensor) -> Tensor:
    """A gate, with a number for every head and key."""
    return _rows(gate.expand(*gate.shape[:2], *q.shape[2:]))


def outer_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels(v.dtype)
    q, k, v = (_rows(t) for t in (q, k, v))
    amplitude, phase = _spread(amplitude, q), None if phase is None else _spread(phase, q)
    state, reset = state.contiguous(), None if reset is None else reset.contiguous()
    batch, length, heads, d_value = v.shape
    d_key, group = q.shape[3], kernels.outer_product_group()
    y, last = torch.zeros_like(v, memory_format=torch.contiguous_format), torch.empty_like(state)
    chunks = -(-length // kernels.outer_product_chunk())
    kept = v.new_empty(batch, heads, -(-d_key // group), chunks, d_value, state.shape[4], group)
    head = _outer_product(q, k, v, amplitude, phase, None, state.shape[4], logits, growth)
    kernels.outer_product_forward(
        ctypes.byref(head),
        ctypes.byref(Inputs(*(_at(t) for t in (q, k, v, amplitude, phase, None, reset)))),
        *(_pointer(t) for t in (state, y, last, kept)),
    )
    return y, last, kept


def outer_product_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    kept: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    grad_y, q, k, v = (_rows(t) for t in (grad_y, q, k, v))
    amplitude, phase = _spread(amplitude, q), None if phase is None else _spread(phase, q)
    grad_last, reset = grad_last.contiguous(), None if reset is None else reset.contiguous()
    head = _outer_product(q, k, v, amplitude, phase, grad_y, grad_last.shape[4], logits, growth)
    size = (head.blocks, *v.shape[:3], q.shape[3])

    def of(gate: Tensor) -> Tensor:
        if gate.shape[1] == 1 < v.shape[1]:
            return v.new_zeros(*size[:2], 1, *size[3:])
        return v.new_empty(size)

    grad_v, grad_state = v.new_zeros(v.shape), torch.empty_like(grad_last)
    grad_q, grad_k = (t.new_empty(size) for t in (q, k))
    grad_amplitude, grad_phase = of(amplitude), None if phase is None else of(phase)
    gradients = (grad_q, grad_k, grad_v, grad_amplitude, grad_phase, grad_state)
    fixed = [t is not None and t.shape[1] == 1 < v.shape[1] for t in (amplitude, phase)]
    _kernels(v.dtype).outer_product_backward(
        ctypes.byref(head),
        ctypes.byref(Inputs(*(_at(t) for t in (q, k, v, amplitude, phase, grad_y, reset)))),
        _pointer(kept),
        _pointer(grad_last),
        ctypes.byref(Gradients(*(_at(t) for t in gradients), *fixed)),
    )

    def whole(terms: Tensor) -> Tensor:
        return terms.sum(0) if head.blocks > 1 else terms[0]

    by_phase = None if grad_phase is None else whole(grad_phase)
    by_q, by_k, by_amplitude = (whole(t) for t in (grad_q, grad_k, grad_amplitude))
    return by_q, by_k, grad_v, by_amplitude, by_phase, grad_state


def linear_scan_(
    a: Tensor, x: Tensor, start: Tensor, reset: Tensor | None, out: Tensor, reverse: bool
) -> None:
    a, x, start = _dense(a), _dense(x), start.contiguous()
    if reset is not None and reset.stride(1) != 1:
        reset = reset.contiguous()
    _kernels(x.real.dtype if x.is_complex() else x.dtype).linear_scan_forward(
        ctypes.byref(_shape(x.shape, x.shape[2] // a.shape[2], a, x, out, None, reset)),
        2 if x.is_complex() else 1,
        torch.get_num_threads(),
        int(reverse),
        *(_pointer(t) for t in (a, x, start, reset, out)),
    )


def linear_scan_backward(
    grad: Tensor, a: Tensor, h: Tensor, start: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    grad, a, start = _dense(grad), _dense(a), start.contiguous()
    reset = None if reset is None else reset.contiguous()
    batch, _, channels = h.shape
    fixed = a.shape[1] == 1  # of a single step, too: the kernel adds to what is there
    grad_x, grad_start = torch.empty_like(h), torch.empty_like(start)
    grad_a = a.new_zeros(batch, 1, channels) if fixed else torch.empty_like(h)
    _kernels(h.real.dtype if h.is_complex() else h.dtype).linear_scan_backward(
        ctypes.byref(_shape(h.shape, 1, a, grad, grad_x, grad_a, reset)),
        2 if h.is_complex() else 1,
        torch.get_num_threads(),
        *(_pointer(t) for t in (a, h, start, reset, grad, grad_x, grad_a, grad_start)),
    )
    return grad_a, grad_x, grad_start
