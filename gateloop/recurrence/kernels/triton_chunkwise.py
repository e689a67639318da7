"""The gated recurrence with outer-product heads as Triton kernels, in (batch, length, head, key).

    h_n = a_n ⊙ h_{n-1} + k_nᵀ v_n        y_n = q_n Re h_n        a = exp(log_amplitude + i·phase)

A program takes one head of one batch entry, a block of values and a segment of time, and walks
through its segment in blocks of 16 steps with the state in registers: matrix products within a
block and with the state (triton_chunkwise_block has the algebra). As in triton_elementwise, one
segment is the serial variant, and more are three phases: each segment as one step, the states
between them, all segments at once. The forward pass keeps the state before every ``chunk`` steps;
the backward pass computes everything else again.

The kernels hold real and imaginary part as planes, (batch, P, heads, d_key, d_value), and take
logarithms of amplitudes; what the operator has instead is turned into that here.

Products are in float32 ("ieee", without the tensor cores; "tf32x3" would be three products on
them). Correct in Triton's interpreter and compiled for a GPU; not measured on one.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.functional import logsigmoid

from gateloop.recurrence.kernels import triton_chunkwise_kernels as kernels
from gateloop.recurrence.kernels.triton_elementwise import interleaved, planar
from gateloop.recurrence.kernels.triton_elementwise_kernels import carry

CHUNK = 64  # steps from one kept state to the next, a multiple of ROWS
ROWS = 16  # steps of a block, the least that a matrix product takes
# Numbers of a program's state, in each plane: as many as hardly spill from the registers of 8 warps
# going forwards; backwards some always do.
STATE = 4096
STATE_BACKWARD = 2048
WARPS = 8
# Inputs loaded ahead would take the shared memory that a state of more than 128 keys needs, and
# registers: compiled for sm_90, three stages in place of one double what backwards spills.
STAGES = 1
PRECISION = "ieee"
PROGRAMS = 2  # per multiprocessor, that splitting time aims at; not measured


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
    keeps: bool = True,
    *,
    segments: int | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor, Tensor]:
    """y_n = q_n Re h_n with h_n = a_n ⊙ h_{n-1} + k_nᵀ v_n.

    q, k (batch, length, heads, d_key) and v (batch, length, heads, d_value), real, float32,
    bfloat16 or float16, of any strides. amplitude and phase float32, each axis 1 or that of
    (batch, length, heads, d_key): logits, |a| = σ(amplitude), where ``logits``, else log|a|,
    counted as at most 0 unless ``growth`` and as at least -87; phase in radians, or None: a is
    real. state (batch, heads, d_key, d_value, P) float32: real and imaginary part, P = 2, or P = 1
    without phase. reset (batch, length) bool: the state is zero before that step.

    Returns y (batch, length, heads, d_value) in v's dtype, the last state, and the state before
    each ``chunk`` steps (batch, ⌈length / chunk⌉, P, heads, d_key, d_value), both float32; of the
    latter none unless it ``keeps`` them.

    ``segments``: the parts that time is cut into; None chooses by device.
    """
    batch, length, heads, values = v.shape
    keys, planes = q.shape[3], state.shape[4]
    chunks = triton.cdiv(length, chunk)
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    state = planar(state)
    last = torch.empty_like(state)
    checkpoints = state.new_empty(batch, chunks if keeps else 0, planes, heads, keys, values)
    if batch == 0:
        return y, interleaved(last), checkpoints

    log_amplitude = logsigmoid(amplitude) if logits else amplitude
    inputs = _inputs(q, k, v, log_amplitude, phase, reset)
    options = _options(q, v, amplitude, phase, reset, growth, chunk, STATE)
    steps, count = _cut(v, chunks, chunk, segments, growth, options["VALUES"])
    sizes = length, heads, keys, values, steps
    grid = batch * heads, count, triton.cdiv(values, options["VALUES"])
    with torch.cuda.device_of(v):
        before = state[:, None]
        if count > 1:
            product = state.new_empty(batch, count, planes, heads, keys)
            added = state.new_empty(batch, count, planes, heads, keys, values)
            kernels.forward[grid](
                *inputs, state, y, last, checkpoints, product, added, *sizes,
                KEEPS=keeps, REDUCE=True, **options,
            )  # fmt: skip
            before = _carried(product, added, state, reverse=False)
        kernels.forward[grid](
            *inputs, before, y, last, checkpoints, state, state, *sizes,
            KEEPS=keeps, REDUCE=False, **options,
        )  # fmt: skip
    return y, interleaved(last), checkpoints


def backward(
    grad_y: Tensor,
    grad_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    checkpoints: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
    *,
    segments: int | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """The gradients of :func:`forward`, from those of y and of the last state.

    Arguments as in :func:`forward`, ``chunk`` the same; grad_y (batch, length, heads, d_value) of
    any strides, grad_last (batch, heads, d_key, d_value, P).

    Returns dq and dk (batch, length, heads, d_key) and dv (batch, length, heads, d_value), in the
    dtypes of q, k and v; damplitude and dphase (batch, length, heads, d_key), summed over time to
    (batch, 1, heads, d_key) where the gate is fixed, float32; dstate like grad_last. Nothing is
    summed over a batch, heads or keys that share a gate.
    """
    batch, length, heads, values = v.shape
    keys = q.shape[3]
    chunks, planes = checkpoints.shape[1:3]
    dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    grad_last = planar(grad_last)
    dstate = torch.empty_like(grad_last)
    if batch == 0:
        dq, dk = (torch.empty(q.shape, dtype=t.dtype, device=t.device) for t in (q, k))
        gates = [
            None if g is None else g.new_empty(0, g.shape[1], heads, keys)
            for g in (amplitude, phase)
        ]
        assert gates[0] is not None
        return dq, dk, dv, gates[0], gates[1], interleaved(dstate)

    grad_y = _rows(grad_y)
    log_amplitude = logsigmoid(amplitude) if logits else amplitude
    inputs = [*_inputs(q, k, v, log_amplitude, phase, reset), grad_y, *_strides(grad_y, 3)]
    options = _options(q, v, amplitude, phase, reset, growth, chunk, STATE_BACKWARD)
    steps, count = _cut(v, chunks, chunk, segments, growth, options["VALUES"])
    sizes = length, heads, keys, values, steps
    blocks = triton.cdiv(values, options["VALUES"])
    grid = batch * heads, count, blocks
    # one summand for each block of values
    parts = checkpoints.new_empty(3 if phase is None else 4, blocks, batch, length, heads, keys)
    scratch = checkpoints.new_empty(batch, count, chunk // ROWS, planes, heads, keys, values)
    with torch.cuda.device_of(v):
        after = grad_last[:, None]
        if count > 1:
            product = checkpoints.new_empty(batch, count, planes, heads, keys)
            added = checkpoints.new_empty(batch, count, planes, heads, keys, values)
            kernels.reduce_backward[grid](*inputs, product, added, *sizes, **options)
            after = _carried(product, added, grad_last, reverse=True)
        kernels.backward[grid](
            *inputs, after, checkpoints, scratch,
            parts[0], parts[1], dv, parts[2], parts[-1], dstate, *sizes, **options,
        )  # fmt: skip
    dq, dk, damplitude, *dphase_ = (part.sum(0) for part in parts)
    if logits:
        damplitude = damplitude * torch.sigmoid(-amplitude)
    return (
        dq.to(q.dtype),
        dk.to(k.dtype),
        dv,
        _over_time(damplitude, amplitude),
        None if phase is None else _over_time(dphase_[0], phase),
        interleaved(dstate),
    )


def _over_time(terms: Tensor, gate: Tensor) -> Tensor:
    """Summed, where the gate is fixed."""
    return terms.sum(1, keepdim=True) if gate.shape[1] == 1 else terms


def _rows(t: Tensor) -> Tensor:
    """With keys or values side by side, copied if need be."""
    return t if t.stride(3) == 1 or t.shape[3] == 1 else t.contiguous()


def _strides(t: Tensor, axes: int) -> list[int]:
    return [0 if t.shape[axis] == 1 else t.stride(axis) for axis in range(axes)]


def _inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    reset: Tensor | None,
) -> list[Tensor | int]:
    """The kernels' first arguments; what is None is never read."""
    arguments: list[Tensor | int] = []
    for t in (q, k, v):
        t = _rows(t)
        arguments += [t, *_strides(t, 3)]
    for gate in (log_amplitude, log_amplitude if phase is None else phase):
        arguments += [gate, *_strides(gate, 4)]
    flags = log_amplitude if reset is None else reset.contiguous().view(torch.uint8)
    return [*arguments, flags]


def _options(
    q: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    reset: Tensor | None,
    growth: bool,
    chunk: int,
    most: int,
) -> dict[str, Any]:
    keys = max(ROWS, triton.next_power_of_2(q.shape[3]))
    values = max(ROWS, min(triton.next_power_of_2(v.shape[3]), most // keys))
    return {
        "CHUNK": chunk,
        "GROWTH": growth,
        "TURNS": phase is not None,
        "RESETS": reset is not None,
        "SHARED": amplitude.shape[3] == 1,
        "ROWS": ROWS,
        "KEYS": keys,
        "VALUES": values,
        "PRECISION": PRECISION,
        "num_warps": WARPS,
        "num_stages": STAGES,
    }


def _cut(
    v: Tensor, chunks: int, chunk: int, segments: int | None, growth: bool, block: int
) -> tuple[int, int]:
    """The steps of a segment, whole chunks, and the number of segments."""
    if segments is None:
        batch, _, heads, values = v.shape
        segments = 1
        # growing transitions may overflow as a product where no state does
        if v.is_cuda and not growth:
            multiprocessors = torch.cuda.get_device_properties(v.device).multi_processor_count
            programs = batch * heads * triton.cdiv(values, block)
            segments = triton.cdiv(PROGRAMS * multiprocessors, programs)
            # with two, the time of the serial variant again goes into the reduction
            segments = 1 if segments <= 2 else segments
    steps = triton.cdiv(chunks, segments) * chunk
    return steps, triton.cdiv(chunks * chunk, steps)


def _carried(product: Tensor, added: Tensor, state: Tensor, reverse: bool) -> Tensor:
    """The state (or, in reverse, its gradient) with which each segment starts."""
    batch, segments, planes = product.shape[:3]
    channels = added[0, 0, 0].numel()
    starts = torch.empty_like(added)
    block = 256
    carry[(batch * triton.cdiv(channels, block),)](
        product[..., None].expand_as(added).contiguous(), added, state, starts,
        segments, channels, TURNS=planes == 2, REVERSE=reverse, BLOCK=block,
    )  # fmt: skip
    return starts
