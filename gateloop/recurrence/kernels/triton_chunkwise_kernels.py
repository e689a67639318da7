"""The device side of triton_chunkwise: what a program does with its head and its segment.

Time goes by in blocks of ``ROWS`` steps. Within one, Φ_n is the sum of the phases from the block's
start and turns q and k into planes, q̃_n = q_n e^{−iΦ_n} and k̃_n = k_n e^{−iΦ_n}, so that
Re(q_n e^{i(Φ_n − Φ_m)} k_m) is the real product q̃_n · k̃_m. With R(n, m) the product of |a| from
m + 1 to n,

    y_n = (q̃_n ⊙ since_n) S + Σ_{m ≤ n} (Σ q̃_n ⊙ k̃_m ⊙ R(n, m)) v_m
    S' = e^{iΦ_end} (whole ⊙ S + Σ_m (k̃_m ⊙ until_m)ᵀ v_m)

where since_n is the product of |a| up to n, until_m from m + 1 on, and whole all of it. These are
built up a step at a time as products of numbers at most 1, with no sums of logarithms to subtract:
a reset is a factor 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gateloop.recurrence.kernels.triton_math import exp, sin_cos


@triton.jit
def _row(tile, n, ROWS: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, ROWS) == n)[:, None], tile, 0.0), 0)


@triton.jit
def _with_row(tile, n, row, ROWS: tl.constexpr):
    return tl.where((tl.arange(0, ROWS) == n)[:, None], row[None, :], tile)


@triton.jit
def _load(pointer, here):
    return tl.load(pointer, mask=here, other=0.0).to(tl.float32)


@triton.jit
def _load_state(pointer, plane, here, TURNS: tl.constexpr):
    re = tl.load(pointer, mask=here, other=0.0)
    if TURNS:
        im = tl.load(pointer + plane, mask=here, other=0.0)
    else:
        im = tl.zeros_like(re)
    return re, im


@triton.jit
def _store_state(pointer, plane, here, re, im, TURNS: tl.constexpr):
    tl.store(pointer, re, mask=here)
    if TURNS:
        tl.store(pointer + plane, im, mask=here)


@triton.jit
def _amplitudes(pointer, reset, here, later, GROWTH: tl.constexpr, RESETS: tl.constexpr):
    """|a|, 0 where the state is forgotten, 1 past the end; and which steps remember."""
    x = tl.load(pointer, mask=here, other=0.0)
    if not GROWTH:
        x = tl.where(x > 0.0, 0.0, x)
    size = exp(x)
    remember = ~later
    if RESETS:
        remember = remember & (tl.load(reset, mask=~later, other=0) == 0)
        size = tl.where((remember | later)[:, None], size, 0.0)
    return size, remember


@triton.jit
def _turns(pointer, here):
    """sin and cos of Φ for each step of a block, and of its last."""
    phase = tl.load(pointer, mask=here, other=0.0).to(tl.float64)
    sums, total = tl.cumsum(phase, 0), tl.sum(phase, 0)
    sin, cos = sin_cos(_within_a_turn(sums))
    sin_end, cos_end = sin_cos(_within_a_turn(total))
    return sin, cos, sin_end, cos_end


@triton.jit
def _within_a_turn(angle):
    turns = tl.floor(angle * 0.15915494309189535 + 0.5)
    return (angle - turns * 6.283185307179586).to(tl.float32)


@triton.jit
def _until(size, ROWS: tl.constexpr):
    """until and whole."""
    until = tl.full(size.shape, 1.0, tl.float32)
    whole = tl.full((size.shape[1],), 1.0, tl.float32)
    for j in range(ROWS):
        m = ROWS - 1 - j
        until = _with_row(until, m, whole, ROWS)
        whole *= _row(size, m, ROWS)
    return until, whole


@triton.jit
def _scores(q_re, q_im, k_re, k_im, size, ROWS: tl.constexpr, TURNS: tl.constexpr):
    """The scores of a block's steps for each other, and since."""
    row = tl.arange(0, ROWS)
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
    return scores, decay


@triton.jit
def _advanced(
    s_re, s_im, k_re, k_im, v, until, whole, sin_end, cos_end,
    TURNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state after a block."""
    s_re = whole[:, None] * s_re + tl.dot(tl.trans(k_re * until), v, input_precision=PRECISION)
    if TURNS:
        s_im = whole[:, None] * s_im + tl.dot(tl.trans(k_im * until), v, input_precision=PRECISION)
        return (
            cos_end[:, None] * s_re - sin_end[:, None] * s_im,
            sin_end[:, None] * s_re + cos_end[:, None] * s_im,
        )
    else:
        return s_re, s_im


@triton.jit
def forward(
    q, q_batch, q_time, q_head, k, k_batch, k_time, k_head, v, v_batch, v_time, v_head,
    amplitude, amplitude_batch, amplitude_time, amplitude_head, amplitude_key,
    phase, phase_batch, phase_time, phase_head, phase_key, reset,
    before, y, last, checkpoints, product, added, length, heads, keys, values, steps,
    CHUNK: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr, RESETS: tl.constexpr,
    REDUCE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One segment from the state before it: y, the kept states, the last segment's last state.

    Or, under REDUCE, from no state, as one step: S ↦ product ⊙ S + added.
    """
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    row, key = tl.arange(0, ROWS), tl.arange(0, KEYS)
    value = tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    is_key, is_value = key < keys, value < values
    is_state = is_key[:, None] & is_value[None, :]
    plane = heads * keys * values
    planes = (2 if TURNS else 1) * plane
    place = head * keys * values + key[:, None] * values + value[None, :]
    begin = segment * steps
    end = tl.minimum(begin + steps, length)
    q += batch * q_batch + head * q_head + key[None, :]
    k += batch * k_batch + head * k_head + key[None, :]
    v += batch * v_batch + head * v_head + value[None, :]
    amplitude += batch * amplitude_batch + head * amplitude_head + key[None, :] * amplitude_key
    phase += batch * phase_batch + head * phase_head + key[None, :] * phase_key
    reset += batch * length
    y += batch * length * heads * values + head * values + value[None, :]
    checkpoints += batch * tl.cdiv(length, CHUNK) * planes + place

    if REDUCE:
        s_re = tl.zeros((KEYS, VALUES), tl.float32)
        s_im = tl.zeros((KEYS, VALUES), tl.float32)
    else:
        start = before + (batch * segments + segment) * planes + place
        s_re, s_im = _load_state(start, plane, is_state, TURNS)
    p_re = tl.full((KEYS,), 1.0, tl.float32)
    p_im = tl.zeros((KEYS,), tl.float32)
    for first in range(begin, end, ROWS):
        t = (first + row)[:, None]
        here, is_input = (t < end) & is_key[None, :], (t < end) & is_value[None, :]
        size, _ = _amplitudes(
            amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
            GROWTH, RESETS,
        )  # fmt: skip
        v_t = _load(v + t * v_time, is_input)
        k_re = _load(k + t * k_time, here)
        k_im, sin_end, cos_end = k_re, p_re, p_re
        if TURNS:
            sin, cos, sin_end, cos_end = _turns(phase + t * phase_time, here)
            k_im = -sin * k_re
            k_re *= cos
        until, whole = _until(size, ROWS)
        if REDUCE:
            p_re *= whole
            p_im *= whole
            if TURNS:
                p_re, p_im = cos_end * p_re - sin_end * p_im, sin_end * p_re + cos_end * p_im
        else:
            q_re = _load(q + t * q_time, here)
            q_im = q_re
            if TURNS:
                q_im = -sin * q_re
                q_re *= cos
            scores, since = _scores(q_re, q_im, k_re, k_im, size, ROWS, TURNS)
            if first % CHUNK == 0:
                _store_state(checkpoints + first // CHUNK * planes, plane, is_state, s_re, s_im, TURNS)
            y_t = tl.dot(scores, v_t, input_precision=PRECISION)
            y_t += tl.dot(q_re * since, s_re, input_precision=PRECISION)
            if TURNS:
                y_t += tl.dot(q_im * since, s_im, input_precision=PRECISION)
            tl.store(y + t * heads * values, y_t, mask=is_input)
        s_re, s_im = _advanced(
            s_re, s_im, k_re, k_im, v_t, until, whole, sin_end, cos_end, TURNS, PRECISION
        )
    if REDUCE:
        _store_state(
            added + (batch * segments + segment) * planes + place, plane, is_state, s_re, s_im, TURNS
        )
        if tl.program_id(2) == 0:
            ends = (batch * segments + segment) * (2 if TURNS else 1) * heads * keys
            ends += head * keys + key
            _store_state(product + ends, heads * keys, is_key, p_re, p_im, TURNS)
    elif segment == segments - 1:
        _store_state(last + batch * planes + place, plane, is_state, s_re, s_im, TURNS)
