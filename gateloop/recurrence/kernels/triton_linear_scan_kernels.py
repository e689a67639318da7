"""The device side of triton_linear_scan: what a program does with its channels and its segment."""

from __future__ import annotations

import triton
import triton.language as tl

from gateloop.recurrence.kernels.triton_elementwise_kernels import (
    load_state,
    owned,
    store_state,
    turned,
)


@triton.jit
def _load_number(pointer, here, TURNS: tl.constexpr):
    re = tl.load(pointer, mask=here, other=0.0)
    im = tl.zeros_like(re)
    if TURNS:
        im = tl.load(pointer + 1, mask=here, other=0.0)
    return re, im


@triton.jit
def _store_number(pointer, here, re, im, TURNS: tl.constexpr):
    tl.store(pointer, re, mask=here)
    if TURNS:
        tl.store(pointer + 1, im, mask=here)


@triton.jit
def _kept(re, im, reset):
    """A number, or 0 where the state is forgotten."""
    forget = tl.load(reset) != 0
    return tl.where(forget, 0.0, re), tl.where(forget, 0.0, im)


@triton.jit
def forward(
    a, a_batch, a_time, reset, x, x_batch, x_time, out, out_batch, out_time, before, product, added,
    length, channels, steps, repeat,
    TURNS: tl.constexpr, RESETS: tl.constexpr, REVERSE: tl.constexpr, REDUCE: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A segment's states from the one before it. Segments count from where one starts.

    Or, under REDUCE, from no state, as one step: h ↦ product · h + added; out stays.
    """
    batch, channel, here = owned(channels, BLOCK)
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    numbers = 2 if TURNS else 1
    state = (batch * segments + segment) * numbers * channels + channel
    a += batch * a_batch + channel // repeat * numbers
    x += batch * x_batch + channel * numbers
    out += batch * out_batch + channel * numbers
    reset += batch * length
    first = segment * steps
    p_re, p_im = tl.full((BLOCK,), 1.0, tl.float32), tl.zeros((BLOCK,), tl.float32)
    if REDUCE:
        h_re, h_im = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    else:
        h_re, h_im = load_state(before + state, channels, here, TURNS)
    for i in tl.range(first, tl.minimum(first + steps, length), num_stages=STAGES):
        n = length - 1 - i if REVERSE else i
        a_re, a_im = _load_number(a + n * a_time, here, TURNS)
        x_re, x_im = _load_number(x + n * x_time, here, TURNS)
        if RESETS:
            h_re, h_im = _kept(h_re, h_im, reset + n)
            p_re, p_im = _kept(p_re, p_im, reset + n)
        h_re, h_im = turned(a_re, a_im, h_re, h_im, TURNS)
        h_re += x_re
        h_im += x_im
        if REDUCE:
            p_re, p_im = turned(a_re, a_im, p_re, p_im, TURNS)
        else:
            _store_number(out + n * out_time, here, h_re, h_im, TURNS)
    if REDUCE:
        store_state(product + state, channels, here, p_re, p_im, TURNS)
        store_state(added + state, channels, here, h_re, h_im, TURNS)


@triton.jit
def backward(
    a, a_batch, a_time, reset, grad, grad_batch, grad_time, h, start, before, product, added,
    by_a, by_x, by_start, length, channels, steps,
    TURNS: tl.constexpr, RESETS: tl.constexpr, FIXED: tl.constexpr, REDUCE: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A segment's gradients, from the last step to the first; segments count from the end.

    With G_n the gradient by h_n and r_n = conj(a_n) G_n what the state before takes of it,
    G_n = grad_n + r_{n+1} is the one by x_n, G_n conj(h_{n-1}) that by a_n. Or, under REDUCE, the
    segment as one step: r ↦ product · r + added. By a fixed a: a segment's sum.
    """
    batch, channel, here = owned(channels, BLOCK)
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    numbers = 2 if TURNS else 1
    state = (batch * segments + segment) * numbers * channels + channel
    at = channel * numbers
    a += batch * a_batch + at
    grad += batch * grad_batch + at
    start += batch * channels * numbers + at
    reset += batch * length
    row = channels * numbers
    here_of = batch * length * row + at
    first = segment * steps
    zero = tl.zeros((BLOCK,), tl.float32)
    p_re, p_im, sum_re, sum_im = zero + 1.0, zero, zero, zero
    if REDUCE:
        r_re, r_im = zero, zero
    else:
        r_re, r_im = load_state(before + state, channels, here, TURNS)
    for i in tl.range(first, tl.minimum(first + steps, length), num_stages=STAGES):
        n = length - 1 - i
        a_re, a_im = _load_number(a + n * a_time, here, TURNS)
        g_re, g_im = _load_number(grad + n * grad_time, here, TURNS)
        g_re += r_re
        g_im += r_im
        if REDUCE:
            p_re, p_im = turned(a_re, -a_im, p_re, p_im, TURNS)
        else:
            _store_number(by_x + here_of + n * row, here, g_re, g_im, TURNS)
            h_re, h_im = _load_number(h + here_of + (n - 1) * row, here & (n > 0), TURNS)
            s_re, s_im = _load_number(start, here & (n == 0), TURNS)
            d_re, d_im = turned(h_re + s_re, -h_im - s_im, g_re, g_im, TURNS)
            if RESETS:
                d_re, d_im = _kept(d_re, d_im, reset + n)
            if FIXED:
                sum_re += d_re
                sum_im += d_im
            else:
                _store_number(by_a + here_of + n * row, here, d_re, d_im, TURNS)
        r_re, r_im = turned(a_re, -a_im, g_re, g_im, TURNS)
        if RESETS:
            r_re, r_im = _kept(r_re, r_im, reset + n)
            p_re, p_im = _kept(p_re, p_im, reset + n)
    if REDUCE:
        store_state(product + state, channels, here, p_re, p_im, TURNS)
        store_state(added + state, channels, here, r_re, r_im, TURNS)
    else:
        if FIXED:
            segment_of = (batch * segments + segment) * row + at
            _store_number(by_a + segment_of, here, sum_re, sum_im, TURNS)
        if segment == segments - 1:
            _store_number(by_start + batch * row + at, here, r_re, r_im, TURNS)
