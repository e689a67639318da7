"""The algebra of a block of steps, for the kernels of outer-product heads.

Time goes by in blocks of ``ROWS`` steps. Within one, Φ_n is the sum of the phases from the block's
start and turns q and k into planes, q̃_n = q_n e^{−iΦ_n} and k̃_n = k_n e^{−iΦ_n}, so that
Re(q_n e^{i(Φ_n − Φ_m)} k_m) is the real product q̃_n · k̃_m. With R(n, m) the product of |a| from
m + 1 to n,

    y_n = (q̃_n ⊙ since_n) S + Σ_{m ≤ n} (Σ q̃_n ⊙ k̃_m ⊙ R(n, m)) v_m
    S' = e^{iΦ_end} (whole ⊙ S + Σ_m (k̃_m ⊙ until_m)ᵀ v_m)

where since_n is the product of |a| up to n, until_m from m + 1 on, and whole all of it. They come
from float64 sums of log|a| over the block, so that every exponent is at most 0 and no digits are
lost between large sums; a reset starts another segment, and what lies in different segments does
not meet. Where all keys of a head share one |a|, R is a matrix; else the pairs are taken one column
after the other, R(·, m) being built up by products.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gateloop.recurrence.kernels.triton_math import exp, sin_cos


@triton.jit
def _row(tile, n, ROWS: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, ROWS) == n)[:, None], tile, 0.0), 0)


@triton.jit
def load(pointer, here):
    return tl.load(pointer, mask=here, other=0.0).to(tl.float32)


@triton.jit
def load_state(pointer, plane, here, TURNS: tl.constexpr):
    re = tl.load(pointer, mask=here, other=0.0)
    if TURNS:
        im = tl.load(pointer + plane, mask=here, other=0.0)
    else:
        im = tl.zeros_like(re)
    return re, im


@triton.jit
def store_state(pointer, plane, here, re, im, TURNS: tl.constexpr):
    tl.store(pointer, re, mask=here)
    if TURNS:
        tl.store(pointer + plane, im, mask=here)


@triton.jit
def decays(
    pointer, reset, here, later,
    GROWTH: tl.constexpr, RESETS: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """log|a| and its sums, since, until and whole; the steps' segments, and which remember.

    One column for all keys where they share them.
    """
    if SHARED:
        here = (~later)[:, None]
    x = tl.load(pointer, mask=here, other=0.0)
    x = tl.where(x < -87.0, -87.0, x)  # -inf in a sum turns into NaN
    if not GROWTH:
        x = tl.where(x > 0.0, 0.0, x)
    sums, total = tl.cumsum(x.to(tl.float64), 0), tl.sum(x.to(tl.float64), 0)
    since = exp(sums.to(tl.float32))
    until = exp((total[None, :] - sums).to(tl.float32))
    whole = exp(total.to(tl.float32))
    remember = ~later
    segment = tl.zeros_like(later.to(tl.int32))
    if RESETS:
        forget = tl.load(reset, mask=~later, other=0).to(tl.int32)
        remember = remember & (forget == 0)
        segment = tl.cumsum(forget, 0)
        final = tl.sum(forget, 0)
        since = tl.where((segment == 0)[:, None], since, 0.0)
        until = tl.where((segment == final)[:, None], until, 0.0)
        whole = tl.where(final == 0, whole, 0.0)
    return x, sums, since, until, whole, segment, remember


@triton.jit
def _ratios(sums, segment, ROWS: tl.constexpr):
    """R(n, m) for m <= n, of a |a| that the keys share."""
    row = tl.arange(0, ROWS)
    meet = (row[:, None] >= row[None, :]) & (segment[:, None] == segment[None, :])
    return tl.where(meet, exp((sums - tl.trans(sums)).to(tl.float32)), 0.0)


@triton.jit
def _sizes(x, segment, ROWS: tl.constexpr):
    """|a|, 0 where a segment begins."""
    row = tl.arange(0, ROWS)
    # the segment of the step before, 0 before the first
    earlier = tl.sum(tl.where(row[:, None] == row[None, :] + 1, segment[None, :], 0), 1)
    return tl.where((segment == earlier)[:, None], exp(x), 0.0)


@triton.jit
def turns(pointer, here):
    """sin and cos of Φ for each step of a block, and of its last."""
    phase = tl.load(pointer, mask=here, other=0.0).to(tl.float64)
    sums, total = tl.cumsum(phase, 0), tl.sum(phase, 0)
    sin, cos = sin_cos(_within_a_turn(sums))
    sin_end, cos_end = sin_cos(_within_a_turn(total))
    return sin, cos, sin_end, cos_end


@triton.jit
def _within_a_turn(angle):
    whole = tl.floor(angle * 0.15915494309189535 + 0.5)
    return (angle - whole * 6.283185307179586).to(tl.float32)


@triton.jit
def scores_of(
    q_re, q_im, k_re, k_im, x, sums, segment,
    TURNS: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a block's steps read of one another."""
    if SHARED:
        scores = tl.dot(q_re, tl.trans(k_re), input_precision=PRECISION)
        if TURNS:
            scores += tl.dot(q_im, tl.trans(k_im), input_precision=PRECISION)
        return scores * _ratios(sums, segment, ROWS)
    else:
        row = tl.arange(0, ROWS)
        size = _sizes(x, segment, ROWS)
        decay = tl.full(size.shape, 1.0, tl.float32)
        scores = tl.zeros((ROWS, ROWS), tl.float32)
        for j in range(ROWS):
            m = ROWS - 1 - j
            products = q_re * _row(k_re, m, ROWS)[None, :]
            if TURNS:
                products += q_im * _row(k_im, m, ROWS)[None, :]
            column = tl.sum(products * decay, 1)
            filled = (row >= m)[:, None] & (row == m)[None, :]
            scores = tl.where(filled, column[:, None], scores)
            decay = tl.where((row >= m)[:, None], decay * _row(size, m, ROWS)[None, :], decay)
        return scores


@triton.jit
def of_segment(tile, which, segment, RESETS: tl.constexpr):
    """The steps of one segment; 0 in the others, which a factor of 0 leaves what is not finite."""
    if RESETS:
        tile = tl.where((segment == which)[:, None], tile, 0.0)
    return tile


@triton.jit
def _kept(whole, state):
    """whole ⊙ state; behind a reset nothing, not even of what is not finite."""
    return tl.where((whole == 0.0)[:, None], 0.0, whole[:, None] * state)


@triton.jit
def advanced(
    s_re, s_im, k_re, k_im, v, until, whole, sin_end, cos_end, segment,
    TURNS: tl.constexpr, RESETS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state after a block."""
    final = tl.max(segment, 0)
    k_re = of_segment(k_re, final, segment, RESETS)
    k_im = of_segment(k_im, final, segment, RESETS)
    v = of_segment(v, final, segment, RESETS)
    s_re = _kept(whole, s_re) + tl.dot(tl.trans(k_re * until), v, input_precision=PRECISION)
    if TURNS:
        s_im = _kept(whole, s_im) + tl.dot(tl.trans(k_im * until), v, input_precision=PRECISION)
        return (
            cos_end[:, None] * s_re - sin_end[:, None] * s_im,
            sin_end[:, None] * s_re + cos_end[:, None] * s_im,
        )
    else:
        return s_re, s_im


@triton.jit
def receded(
    g_re, g_im, q_re, q_im, dy, since, whole, segment,
    TURNS: tl.constexpr, RESETS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of the state before a block, from that behind it, already turned back."""
    q_re = of_segment(q_re, 0, segment, RESETS)
    q_im = of_segment(q_im, 0, segment, RESETS)
    dy = of_segment(dy, 0, segment, RESETS)
    g_re = _kept(whole, g_re) + tl.dot(tl.trans(q_re * since), dy, input_precision=PRECISION)
    if TURNS:
        g_im = _kept(whole, g_im) + tl.dot(tl.trans(q_im * since), dy, input_precision=PRECISION)
    return g_re, g_im


@triton.jit
def pairs(
    weights, q_re, q_im, k_re, k_im, dq_re, dq_im, dk_re, dk_im, x, sums, segment,
    TURNS: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds what a block's steps read of earlier ones to the gradients of q̃ and k̃."""
    row = tl.arange(0, ROWS)
    weights = tl.where(row[:, None] > row[None, :], weights, 0.0)
    if SHARED:
        weights *= _ratios(sums, segment, ROWS)
        dq_re += tl.dot(weights, k_re, input_precision=PRECISION)
        dk_re += tl.dot(tl.trans(weights), q_re, input_precision=PRECISION)
        if TURNS:
            dq_im += tl.dot(weights, k_im, input_precision=PRECISION)
            dk_im += tl.dot(tl.trans(weights), q_im, input_precision=PRECISION)
    else:
        size = _sizes(x, segment, ROWS)
        decay = tl.full(size.shape, 1.0, tl.float32)
        for j in range(ROWS):
            m = ROWS - 1 - j
            column = tl.sum(tl.where((row == m)[None, :], weights, 0.0), 1)
            weight = column[:, None] * decay
            is_m = (row == m)[:, None]
            dq_re += weight * _row(k_re, m, ROWS)[None, :]
            dk_re += tl.where(is_m, tl.sum(weight * q_re, 0)[None, :], 0.0)
            if TURNS:
                dq_im += weight * _row(k_im, m, ROWS)[None, :]
                dk_im += tl.where(is_m, tl.sum(weight * q_im, 0)[None, :], 0.0)
            decay = tl.where((row >= m)[:, None], decay * _row(size, m, ROWS)[None, :], decay)
    return dq_re, dq_im, dk_re, dk_im
