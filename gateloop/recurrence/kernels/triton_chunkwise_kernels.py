"""The device side of triton_chunkwise: what a program does with its head and its segment.

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
def _decays(
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
def _scores(
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
    SHARED: tl.constexpr, REDUCE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    VALUES: tl.constexpr, PRECISION: tl.constexpr,
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
    amplitude += batch * amplitude_batch + head * amplitude_head
    if not SHARED:
        amplitude += key[None, :] * amplitude_key
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
        x, sums, since, until, whole, along, _ = _decays(
            amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
            GROWTH, RESETS, SHARED,
        )  # fmt: skip
        v_t = _load(v + t * v_time, is_input)
        k_re = _load(k + t * k_time, here)
        k_im, sin_end, cos_end = k_re, k_re, k_re
        if TURNS:
            sin, cos, sin_end, cos_end = _turns(phase + t * phase_time, here)
            k_im = -sin * k_re
            k_re *= cos
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
            scores = _scores(q_re, q_im, k_re, k_im, x, sums, along, TURNS, SHARED, ROWS, PRECISION)
            if first % CHUNK == 0:
                _store_state(
                    checkpoints + first // CHUNK * planes, plane, is_state, s_re, s_im, TURNS
                )
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
            added + (batch * segments + segment) * planes + place,
            plane,
            is_state,
            s_re,
            s_im,
            TURNS,
        )
        if tl.program_id(2) == 0:
            ends = (batch * segments + segment) * (2 if TURNS else 1) * heads * keys
            ends += head * keys + key
            _store_state(product + ends, heads * keys, is_key, p_re, p_im, TURNS)
    elif segment == segments - 1:
        _store_state(last + batch * planes + place, plane, is_state, s_re, s_im, TURNS)


@triton.jit
def reduce_backward(
    q, q_batch, q_time, q_head, k, k_batch, k_time, k_head, v, v_batch, v_time, v_head,
    amplitude, amplitude_batch, amplitude_time, amplitude_head, amplitude_key,
    phase, phase_batch, phase_time, phase_head, phase_key, reset,
    grad_y, grad_y_batch, grad_y_time, grad_y_head,
    product, added, length, heads, keys, values, steps,
    CHUNK: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr, RESETS: tl.constexpr,
    SHARED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A segment as one step for the state's gradient, towards the past: G ↦ product ⊙ G + added."""
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    row, key = tl.arange(0, ROWS), tl.arange(0, KEYS)
    value = tl.program_id(2) * VALUES + tl.arange(0, VALUES)
    is_key, is_value = key < keys, value < values
    plane = heads * keys * values
    planes = (2 if TURNS else 1) * plane
    place = head * keys * values + key[:, None] * values + value[None, :]
    begin = segment * steps
    end = tl.minimum(begin + steps, length)
    q += batch * q_batch + head * q_head + key[None, :]
    amplitude += batch * amplitude_batch + head * amplitude_head
    if not SHARED:
        amplitude += key[None, :] * amplitude_key
    phase += batch * phase_batch + head * phase_head + key[None, :] * phase_key
    reset += batch * length
    grad_y += batch * grad_y_batch + head * grad_y_head + value[None, :]

    g_re = tl.zeros((KEYS, VALUES), tl.float32)
    g_im = tl.zeros((KEYS, VALUES), tl.float32)
    p_re = tl.full((KEYS,), 1.0, tl.float32)
    p_im = tl.zeros((KEYS,), tl.float32)
    blocks = tl.cdiv(end - begin, ROWS)
    for block in range(blocks):
        first = begin + (blocks - 1 - block) * ROWS
        t = (first + row)[:, None]
        here, is_input = (t < end) & is_key[None, :], (t < end) & is_value[None, :]
        _, _, since, _, whole, _, _ = _decays(
            amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
            GROWTH, RESETS, SHARED,
        )  # fmt: skip
        q_re = _load(q + t * q_time, here)
        dy = _load(grad_y + t * grad_y_time, is_input)
        if TURNS:
            sin, cos, sin_end, cos_end = _turns(phase + t * phase_time, here)
            g_re, g_im = (
                cos_end[:, None] * g_re + sin_end[:, None] * g_im,
                cos_end[:, None] * g_im - sin_end[:, None] * g_re,
            )
            p_re, p_im = cos_end * p_re + sin_end * p_im, cos_end * p_im - sin_end * p_re
            g_im = whole[:, None] * g_im
            g_im += tl.dot(tl.trans(-sin * q_re * since), dy, input_precision=PRECISION)
            q_re *= cos
        g_re = whole[:, None] * g_re
        g_re += tl.dot(tl.trans(q_re * since), dy, input_precision=PRECISION)
        p_re *= whole
        p_im *= whole
    _store_state(
        added + (batch * segments + segment) * planes + place,
        plane, is_key[:, None] & is_value[None, :], g_re, g_im, TURNS,
    )  # fmt: skip
    if tl.program_id(2) == 0:
        ends = (batch * segments + segment) * (2 if TURNS else 1) * heads * keys + head * keys + key
        _store_state(product + ends, heads * keys, is_key, p_re, p_im, TURNS)


@triton.jit
def _pairs(
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


@triton.jit
def backward(
    q, q_batch, q_time, q_head, k, k_batch, k_time, k_head, v, v_batch, v_time, v_head,
    amplitude, amplitude_batch, amplitude_time, amplitude_head, amplitude_key,
    phase, phase_batch, phase_time, phase_head, phase_key, reset,
    grad_y, grad_y_batch, grad_y_time, grad_y_head,
    after, checkpoints, scratch, dq, dk, dv, damplitude, dphase, dstate,
    length, heads, keys, values, steps,
    CHUNK: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr, RESETS: tl.constexpr,
    SHARED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One segment from the gradient behind it: every gradient, those of q, k and the gates as far
    as this program's values go.

    A log-amplitude scales all that passes its step: what the steps from it on read, less what they
    were given, plus what goes on behind the block. With dq̃ and dk̃ the gradients of q̃ and k̃ less a
    step's reading of itself, and G that of the state S' after the block,

        d log|a|_j = Σ S' ⊙ G + Σ_{n ≥ j} (q̃_n ⊙ dq̃_n − k̃_n ⊙ dk̃_n)

    and likewise a phase, which turns it.
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
    amplitude += batch * amplitude_batch + head * amplitude_head
    if not SHARED:
        amplitude += key[None, :] * amplitude_key
    phase += batch * phase_batch + head * phase_head + key[None, :] * phase_key
    reset += batch * length
    grad_y += batch * grad_y_batch + head * grad_y_head + value[None, :]
    dv += batch * length * heads * values + head * values + value[None, :]
    # the gradients that are sums over the values, apart for each block of them
    part = tl.program_id(2) * (tl.num_programs(0) // heads) + batch
    out = part * length * heads * keys + head * keys + key[None, :]
    checkpoints += batch * tl.cdiv(length, CHUNK) * planes + place
    scratch += (batch * segments + segment) * (CHUNK // ROWS) * planes + place

    start = after + (batch * segments + segment) * planes + place
    g_re, g_im = _load_state(start, plane, is_state, TURNS)
    chunks = tl.cdiv(end - begin, CHUNK)
    for c in range(chunks):
        first_of_chunk = begin + (chunks - 1 - c) * CHUNK
        stop = tl.minimum(first_of_chunk + CHUNK, end)
        s_re, s_im = _load_state(
            checkpoints + first_of_chunk // CHUNK * planes, plane, is_state, TURNS
        )
        for first in range(first_of_chunk, stop, ROWS):
            _store_state(
                scratch + (first - first_of_chunk) // ROWS * planes, plane, is_state,
                s_re, s_im, TURNS,
            )  # fmt: skip
            t = (first + row)[:, None]
            here, is_input = (t < end) & is_key[None, :], (t < end) & is_value[None, :]
            _, _, _, until, whole, _, _ = _decays(
                amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
                GROWTH, RESETS, SHARED,
            )  # fmt: skip
            k_re = _load(k + t * k_time, here)
            k_im, sin_end, cos_end = k_re, k_re, k_re
            if TURNS:
                sin, cos, sin_end, cos_end = _turns(phase + t * phase_time, here)
                k_im = -sin * k_re
                k_re *= cos
            s_re, s_im = _advanced(
                s_re, s_im, k_re, k_im, _load(v + t * v_time, is_input), until, whole,
                sin_end, cos_end, TURNS, PRECISION,
            )  # fmt: skip
        # what one thread wrote, another may read
        tl.debug_barrier()
        blocks = tl.cdiv(stop - first_of_chunk, ROWS)
        for b in range(blocks):
            block = blocks - 1 - b
            first = first_of_chunk + block * ROWS
            t = (first + row)[:, None]
            here, is_input = (t < end) & is_key[None, :], (t < end) & is_value[None, :]
            x, sums, since, until, whole, along, remember = _decays(
                amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
                GROWTH, RESETS, SHARED,
            )  # fmt: skip
            q_t, k_t = _load(q + t * q_time, here), _load(k + t * k_time, here)
            v_t, dy = _load(v + t * v_time, is_input), _load(grad_y + t * grad_y_time, is_input)
            q_re, q_im, k_re, k_im = q_t, q_t, k_t, k_t
            by_amplitude = tl.sum(s_re * g_re, 1)
            by_phase = by_amplitude
            if TURNS:
                by_amplitude += tl.sum(s_im * g_im, 1)
                by_phase = tl.sum(s_re * g_im - s_im * g_re, 1)
                sin, cos, sin_end, cos_end = _turns(phase + t * phase_time, here)
                q_re, q_im, k_re, k_im = cos * q_t, -sin * q_t, cos * k_t, -sin * k_t
                g_re, g_im = (
                    cos_end[:, None] * g_re + sin_end[:, None] * g_im,
                    cos_end[:, None] * g_im - sin_end[:, None] * g_re,
                )
            scores = _scores(q_re, q_im, k_re, k_im, x, sums, along, TURNS, SHARED, ROWS, PRECISION)
            s_re, s_im = _load_state(scratch + block * planes, plane, is_state, TURNS)

            dv_t = tl.dot(tl.trans(scores), dy, input_precision=PRECISION)
            dv_t += tl.dot(k_re * until, g_re, input_precision=PRECISION)
            dq_re = since * tl.dot(dy, tl.trans(s_re), input_precision=PRECISION)
            dk_re = until * tl.dot(v_t, tl.trans(g_re), input_precision=PRECISION)
            dq_im, dk_im = dq_re, dk_re
            if TURNS:
                dv_t += tl.dot(k_im * until, g_im, input_precision=PRECISION)
                dq_im = since * tl.dot(dy, tl.trans(s_im), input_precision=PRECISION)
                dk_im = until * tl.dot(v_t, tl.trans(g_im), input_precision=PRECISION)
            weights = tl.dot(dy, tl.trans(v_t), input_precision=PRECISION)
            dq_re, dq_im, dk_re, dk_im = _pairs(
                weights,
                q_re,
                q_im,
                k_re,
                k_im,
                dq_re,
                dq_im,
                dk_re,
                dk_im,
                x,
                sums,
                along,
                TURNS,
                SHARED,
                ROWS,
                PRECISION,
            )
            stretch = q_re * dq_re - k_re * dk_re
            if TURNS:
                stretch += q_im * dq_im - k_im * dk_im
                turn = q_im * dq_re - q_re * dq_im + k_im * dk_re - k_re * dk_im
                turn = by_phase[None, :] + tl.cumsum(turn, 0, reverse=True)
                turn = tl.where(remember[:, None], turn, 0.0)
                tl.store(dphase + out + t * heads * keys, turn, mask=here)
                dq_re = cos * dq_re - sin * dq_im
                dk_re = cos * dk_re - sin * dk_im
            stretch = by_amplitude[None, :] + tl.cumsum(stretch, 0, reverse=True)
            stretch = tl.where(remember[:, None], stretch, 0.0)
            itself = tl.sum(tl.where(row[:, None] == row[None, :], weights, 0.0), 1)[:, None]
            tl.store(damplitude + out + t * heads * keys, stretch, mask=here)
            tl.store(dq + out + t * heads * keys, dq_re + itself * k_t, mask=here)
            tl.store(dk + out + t * heads * keys, dk_re + itself * q_t, mask=here)
            tl.store(dv + t * heads * values, dv_t, mask=is_input)

            g_re = whole[:, None] * g_re
            g_re += tl.dot(tl.trans(q_re * since), dy, input_precision=PRECISION)
            if TURNS:
                g_im = whole[:, None] * g_im
                g_im += tl.dot(tl.trans(q_im * since), dy, input_precision=PRECISION)
        tl.debug_barrier()
    if segment == 0:
        _store_state(dstate + batch * planes + place, plane, is_state, g_re, g_im, TURNS)
