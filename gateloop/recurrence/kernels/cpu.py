"""The C kernels called on tensors. The operators of :mod:`.operators` say what each computes."""

from __future__ import annotations

import ctypes
from functools import cache
from struct import Struct

import torch
from torch import Tensor

from gateloop.recurrence.kernels.compiler import library

TASKS = 8  # heads of sequences, or blocks of their values, that are worth sharing out
LEAST_BLOCK = 16  # values
ALIGNMENT = 64  # bytes, of torch's own memory; the outer product reads states in whole vectors

LOGIT, LOG_AMPLITUDE, GROWING_LOG_AMPLITUDE = range(3)  # of gates.h


# The structures of blocks.h and of the kernels, packed: ctypes is slower to fill its own, which is
# seen beside a kernel that has emptied the caches. An address of None is 0.
SHAPE = Struct("4q12q")  # batch, length, channels, repeat; stride
# of; d_key, d_value, blocks; q_parts, k_parts, parts, gate, threads; as many bytes as C gives it
HEAD = Struct(f"{SHAPE.format}3q5i0q")
INPUTS = Struct("7P")  # q, k, v, amplitude, phase, grad_y, reset
GRADIENTS = Struct("6P2i")  # q, k, v, amplitude, phase, state; fixed_amplitude, fixed_phase

_STRUCTURE, _INT, _POINTER = ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p
ARGUMENTS = {
    "gate_loop_forward": [_STRUCTURE] * 2 + [_INT] * 2 + [_POINTER] * 4,
    "gate_loop_backward": [_STRUCTURE] * 2 + [_INT] * 2 + [_POINTER] * 2 + [_STRUCTURE],
    "outer_product_forward": [_STRUCTURE] * 2 + [_POINTER] * 4,
    "outer_product_backward": [_STRUCTURE] * 2 + [_POINTER] * 2 + [_STRUCTURE],
    "linear_scan_forward": [_STRUCTURE] + [_INT] * 3 + [_POINTER] * 5,
    "linear_scan_backward": [_STRUCTURE] + [_INT] * 2 + [_POINTER] * 8,
}


def available(real: torch.dtype) -> bool:
    """Whether there are kernels for ``real``, float32 or float64."""
    return library(real) is not None


@cache
def _kernels(real: torch.dtype) -> ctypes.CDLL:
    kernels = library(real)
    assert kernels is not None
    for name, arguments in ARGUMENTS.items():
        getattr(kernels, name).argtypes = arguments
    return kernels


def _dense(t: Tensor) -> Tensor:
    """``t``, with numbers of one row side by side."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _rows(t: Tensor) -> Tensor:
    """``t``, the two last axes of which are dense."""
    if t.is_contiguous():
        return t
    heads, width = t.shape[2:]
    row = width == 1 or t.stride(3) == 1
    return t if row and (heads == 1 or t.stride(2) == width) else t.contiguous()


def _shape(size: tuple[int, ...], repeat: int, *arrays: Tensor | None) -> bytes:
    """``arrays`` are (batch or 1, length or 1, …); strides count real numbers."""
    return SHAPE.pack(*size, repeat, *_strides(arrays))


def _strides(arrays: tuple[Tensor | None, ...]) -> list[int]:
    strides = [0] * 12
    for i, t in enumerate(arrays):
        if t is not None:
            batch, length = t.shape[:2]
            over_batch, over_time = t.stride()[:2]
            numbers = 2 if t.is_complex() else 1
            strides[2 * i] = numbers * over_batch if batch > 1 else 0
            strides[2 * i + 1] = numbers * over_time if length > 1 else 0
    return strides


def _at(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _all_at(*arrays: Tensor | None) -> list[int]:
    return [_at(t) for t in arrays]


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
    keeps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels(v.dtype)
    q, k, v, amplitude = (_rows(t) for t in (q, k, v, amplitude))
    phase = None if phase is None else _rows(phase)
    state, reset = state.contiguous(), None if reset is None else reset.contiguous()
    batch, length, heads, width = v.shape
    size = batch, length, heads * width
    chunks = -(-length // kernels.gate_loop_chunk()) if keeps else 0
    y, last = v.new_empty(v.shape), torch.empty_like(state)
    kept = v.new_empty(batch, chunks, state.shape[-1], heads * width)
    kernels.gate_loop_forward(
        _shape(size, 1, q, k, v, amplitude, phase),
        INPUTS.pack(*_all_at(q, k, v, amplitude, phase, None, reset)),
        _gate(logits, growth),
        torch.get_num_threads(),
        *_all_at(state, y, last, kept if keeps else None),
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
        _shape(size, 1, q, k, v, amplitude, phase, grad_y),
        INPUTS.pack(*_all_at(q, k, v, amplitude, phase, grad_y, reset)),
        _gate(logits, growth),
        torch.get_num_threads(),
        *_all_at(kept, grad_last),
        GRADIENTS.pack(*_all_at(*gradients), *fixed),
    )
    return gradients


def _gate_gradient(gate: Tensor, v: Tensor) -> Tensor:
    """Where a gate's gradient goes: zeros to add to where the gate is fixed over time."""
    batch, length, heads, width = v.shape
    if gate.shape[1] == 1 < length:
        return v.new_zeros(batch, 1, heads, width)
    return v.new_empty(v.shape)


def _head(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    grad_y: Tensor | None,
    parts: int,
    logits: bool,
    growth: bool,
) -> bytes:
    batch, length, heads, d_value = v.shape
    q_parts, k_parts = (2 if t.is_complex() else 1 for t in (q, k))
    return HEAD.pack(
        *(batch, length, heads, 1, *_strides((q, k, v, amplitude, phase, grad_y))),
        *(q.shape[3], d_value, _blocks(v)),
        *(q_parts, k_parts, parts, _gate(logits, growth), torch.get_num_threads()),
    )


def _blocks(v: Tensor) -> int:
    """Of a head's values: whatever the number of threads, so that it changes no bit."""
    batch, _, heads, d_value = v.shape
    return min(-(-TASKS // max(1, batch * heads)), -(-d_value // LEAST_BLOCK))


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
    keeps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels(v.dtype)
    q, k, v = (_rows(t) for t in (q, k, v))
    amplitude, phase = _spread(amplitude, q), None if phase is None else _spread(phase, q)
    state, reset = state.contiguous(), None if reset is None else reset.contiguous()
    batch, length, heads, d_value = v.shape
    d_key, group = q.shape[3], kernels.outer_product_group()
    y, last = torch.zeros_like(v, memory_format=torch.contiguous_format), torch.empty_like(state)
    chunks = -(-length // kernels.outer_product_chunk()) if keeps else 0
    kept = v.new_empty(batch, heads, -(-d_key // group), chunks, d_value, state.shape[4], group)
    kernels.outer_product_forward(
        _head(q, k, v, amplitude, phase, None, state.shape[4], logits, growth),
        INPUTS.pack(*_all_at(q, k, v, amplitude, phase, None, reset)),
        *_all_at(state, y, last, kept if keeps else None),
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
    # whoever kept it elsewhere (saved_tensors_hooks) may bring it back to any address
    kept = kept.contiguous()
    kept = kept if kept.data_ptr() % ALIGNMENT == 0 else kept.clone()
    size = (_blocks(v), *v.shape[:3], q.shape[3])

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
        _head(q, k, v, amplitude, phase, grad_y, grad_last.shape[4], logits, growth),
        INPUTS.pack(*_all_at(q, k, v, amplitude, phase, grad_y, reset)),
        *_all_at(kept, grad_last),
        GRADIENTS.pack(*_all_at(*gradients), *fixed),
    )

    def whole(terms: Tensor) -> Tensor:
        return terms.sum(0) if len(terms) > 1 else terms[0]

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
        _shape(x.shape, x.shape[2] // a.shape[2], a, x, out, None, reset),
        2 if x.is_complex() else 1,
        torch.get_num_threads(),
        int(reverse),
        *_all_at(a, x, start, reset, out),
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
        _shape(h.shape, 1, a, grad, grad_x, grad_a, reset),
        2 if h.is_complex() else 1,
        torch.get_num_threads(),
        *_all_at(a, h, start, reset, grad, grad_x, grad_a, grad_start),
    )
    return grad_a, grad_x, grad_start
