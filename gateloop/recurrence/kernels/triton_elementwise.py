"""The element-wise gated recurrence as Triton kernels, gates inside, in (batch, length, channel).

    h_n = a_n h_{n-1} + k_n v_n        y_n = q_n Re h_n        a = |a| exp(i·phase)

A program takes one batch entry, a block of channels and a segment of time, and walks through its
segment step by step with the state in registers. One segment is the serial variant and moves the
fewest bytes. Where there are too few channels to fill the device, time is cut into more segments
and three phases: what each segment does to a state, as one step (``reduce_…``); the states between
the segments (``carry``); the walk through all segments at once.

The forward pass keeps the state before every ``chunk`` steps and nothing else. The backward pass
walks the chunks from the last to the first, each forwards from its kept state and then backwards;
the states of the one chunk at hand lie in a scratch buffer small enough for the cache.

Correct in Triton's interpreter and compiled for a GPU; not measured on one.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from gateloop.recurrence.kernels import triton_elementwise_kernels as kernels

CHUNK = 64  # steps from one kept state to the next: 8 / CHUNK bytes per token and channel
BLOCK = 64  # channels of a program, which is one warp
STAGES = 8  # steps whose inputs are on their way while one is computed
# Channels per multiprocessor from which time is not split; below, programs per multiprocessor that
# splitting aims at. Neither is measured. A program has STAGES · 5 inputs · 4 · BLOCK bytes on their
# way, and an H200's memory wants some 3.4 MB: of fewer than 0.6 of the channels that takes, reading
# the inputs once more (40 bytes a number instead of 24) takes less time than waiting for them.
ENOUGH_CHANNELS = 100
PROGRAMS = 8


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
    """y_n = q_n Re h_n with h_n = a_n h_{n-1} + k_n v_n.

    q, k, v (batch, length, channels), real, float32, bfloat16 or float16, of any batch and time
    strides (0 broadcasts). amplitude (batch|1, length|1, channels) float32: logits, |a| =
    σ(amplitude), where ``logits``, else log|a|, counted as at most 0 unless ``growth`` and as at
    least -87. phase like amplitude, float32 radians, or None: a is real. state (batch, channels,
    P) float32: real and imaginary part, P = 2, or P = 1 without phase. reset (batch, length) bool:
    the state is zero before that step.

    Returns y (batch, length, channels) in v's dtype, the last state (batch, channels, P), and the
    state before each ``chunk`` steps (batch, ⌈length / chunk⌉, P, channels), both float32; of the
    latter none unless it ``keeps`` them.

    ``segments``: the parts that time is cut into (module docstring); None chooses by device.
    """
    batch, length, channels = v.shape
    chunks = triton.cdiv(length, chunk)
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    state = planar(state)
    planes = state.shape[1]
    last = torch.empty_like(state)
    checkpoints = state.new_empty(batch, chunks if keeps else 0, planes, channels)
    if batch == 0:
        return y, interleaved(last), checkpoints

    inputs = _inputs(q, k, v, amplitude, phase, reset)
    options = _options(amplitude, phase, reset, logits, growth)
    steps, count = _cut(v, chunks, chunk, segments, growth)
    grid = batch * triton.cdiv(channels, BLOCK), count
    with torch.cuda.device_of(v):
        before = state[:, None]
        if count > 1:
            product, added = state.new_empty(2, batch, count, planes, channels)
            kernels.reduce_forward[grid](
                *inputs, product, added, length, channels, steps,
                **options, STAGES=STAGES, num_warps=1,
            )  # fmt: skip
            before = carried(product, added, state, reverse=False)
        kernels.forward[grid](
            *inputs, before, y, last, checkpoints, length, channels, steps,
            CHUNK=chunk, KEEPS=keeps, **options, STAGES=STAGES, num_warps=1,
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

    With z_n = a_n h_{n-1} and G_n = dy_n q_n + conj(a_{n+1}) G_{n+1}, the gradient by h_n:
    dq = dy Re h, dk = Re(G) v, dv = Re(G) k, d log|a| = Re(conj(z) G), d phase = Im(conj(z) G),
    d state = conj(a_0) G_0.

    Arguments as in :func:`forward`, ``chunk`` the same; grad_y (batch, length, channels) of any
    strides, grad_last (batch, channels, P).

    Returns dq, dk, dv (batch, length, channels) in the dtypes of q, k and v; damplitude and dphase
    (batch, length, channels), or (batch, 1, channels) and summed over time where the gate's length
    axis is 1, both float32; dstate like grad_last. Nothing is summed over a broadcast batch.
    """
    batch, length, channels = v.shape
    chunks, planes = checkpoints.shape[1:3]
    dq, dk, dv = (torch.empty(v.shape, dtype=t.dtype, device=v.device) for t in (q, k, v))
    grad_last = planar(grad_last)
    dstate = torch.empty_like(grad_last)
    if batch == 0:
        gates = [None if g is None else g.new_empty(0, *g.shape[1:]) for g in (amplitude, phase)]
        assert gates[0] is not None
        return dq, dk, dv, gates[0], gates[1], interleaved(dstate)

    grad_y = rows(grad_y)
    inputs = _inputs(q, k, v, amplitude, phase, reset)
    options = _options(amplitude, phase, reset, logits, growth)
    steps, count = _cut(v, chunks, chunk, segments, growth)
    # where a gate is fixed, one sum for each segment
    damplitude, by_phase = (
        checkpoints.new_empty(batch, count if options[fixed] else length, channels)
        for fixed in ("FIXED_AMPLITUDE", "FIXED_PHASE")
    )
    dphase = None if phase is None else by_phase
    scratch = checkpoints.new_empty(batch, count, chunk, planes, channels)
    grid = batch * triton.cdiv(channels, BLOCK), count
    with torch.cuda.device_of(v):
        after = grad_last[:, None]
        if count > 1:
            product, added = checkpoints.new_empty(2, batch, count, planes, channels)
            kernels.reduce_backward[grid](
                *inputs, grad_y, *strides(grad_y), product, added, length, channels, steps,
                **options, STAGES=STAGES, num_warps=1,
            )  # fmt: skip
            after = carried(product, added, grad_last, reverse=True)
        kernels.backward[grid](
            *inputs, grad_y, *strides(grad_y), after, checkpoints, scratch,
            dq, dk, dv, damplitude, by_phase, dstate,
            length, channels, steps,
            CHUNK=chunk, **options, STAGES=STAGES, num_warps=1,
        )  # fmt: skip
    if options["FIXED_AMPLITUDE"]:
        damplitude = damplitude.sum(1, keepdim=True)
    if dphase is not None and options["FIXED_PHASE"]:
        dphase = dphase.sum(1, keepdim=True)
    return dq, dk, dv, damplitude, dphase, interleaved(dstate)


def planar(state: Tensor) -> Tensor:
    """(batch, P, …), as the kernels have it, of the operators' (batch, …, P)."""
    return state.movedim(-1, 1).contiguous()


def interleaved(state: Tensor) -> Tensor:
    return state.movedim(1, -1).contiguous()


def rows(t: Tensor) -> Tensor:
    """With channels side by side, copied if need be."""
    return t if t.stride(2) == 1 or t.shape[2] == 1 else t.contiguous()


def strides(t: Tensor) -> tuple[int, int]:
    """From one batch entry and one step to the next."""
    batch, time = (0 if t.shape[axis] == 1 else t.stride(axis) for axis in (0, 1))
    return batch, time


def _inputs(
    q: Tensor, k: Tensor, v: Tensor, amplitude: Tensor, phase: Tensor | None, reset: Tensor | None
) -> list[Tensor | int]:
    """The kernels' first arguments; what is None is never read."""
    arguments: list[Tensor | int] = []
    for t in (q, k, v, amplitude, amplitude if phase is None else phase):
        t = rows(t)
        arguments += [t, *strides(t)]
    flags = amplitude if reset is None else reset.contiguous().view(torch.uint8)
    return [*arguments, flags]


def _options(
    amplitude: Tensor, phase: Tensor | None, reset: Tensor | None, logits: bool, growth: bool
) -> dict[str, bool | int]:
    fixed = [gate is None or gate.shape[1] == 1 for gate in (amplitude, phase)]
    return {
        "LOGITS": logits,
        "GROWTH": growth,
        "TURNS": phase is not None,
        "RESETS": reset is not None,
        "FIXED_AMPLITUDE": fixed[0],
        "FIXED_PHASE": fixed[1],
        "BLOCK": BLOCK,
    }


def _cut(v: Tensor, chunks: int, chunk: int, segments: int | None, growth: bool) -> tuple[int, int]:
    """The steps of a segment, whole chunks, and the number of segments."""
    if segments is None:
        # growing transitions may overflow as a product where no state does
        segments = 1 if growth else segments_of(v)
    steps = triton.cdiv(chunks, segments) * chunk
    return steps, triton.cdiv(chunks * chunk, steps)


def segments_of(x: Tensor) -> int:
    """The parts that time is cut into, by the batch and the channels of x and by its device."""
    batch, _, channels = x.shape
    if x.is_cuda:
        multiprocessors = torch.cuda.get_device_properties(x.device).multi_processor_count
        if batch * channels < ENOUGH_CHANNELS * multiprocessors:
            programs = batch * triton.cdiv(channels, BLOCK)
            return triton.cdiv(PROGRAMS * multiprocessors, programs)
    return 1


def carried(product: Tensor, added: Tensor, state: Tensor, reverse: bool) -> Tensor:
    """The state (or, in reverse, its gradient) with which each segment starts."""
    batch, segments, planes, channels = product.shape
    starts = torch.empty_like(added)
    grid = (batch * triton.cdiv(channels, BLOCK),)
    kernels.carry[grid](
        product, added, state, starts, segments, channels,
        TURNS=planes == 2, REVERSE=reverse, BLOCK=BLOCK, num_warps=1,
    )  # fmt: skip
    return starts
