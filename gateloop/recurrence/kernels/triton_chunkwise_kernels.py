"""The device side of triton_chunkwise: what a program does with its head and its segment.

The symbols are those of triton_chunkwise_block.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gateloop.recurrence.kernels.triton_chunkwise_block import (
    advanced,
    decays,
    load,
    load_state,
    of_segment,
    pairs,
    receded,
    scores_of,
    store_state,
    turns,
)


@triton.jit
def forward(
    q, q_batch, q_time, q_head, k, k_batch, k_time, k_head, v, v_batch, v_time, v_head,
    amplitude, amplitude_batch, amplitude_time, amplitude_head, amplitude_key,
    phase, phase_batch, phase_time, phase_head, phase_key, reset,
    before, y, last, checkpoints, product, added, length, heads, keys, values, steps,
    CHUNK: tl.constexpr, KEEPS: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr,
    RESETS: tl.constexpr, SHARED: tl.constexpr, REDUCE: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, VALUES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One segment from the state before it: y, the kept states, the last segment's last state.

    Or, under REDUCE, from no state, as one step: S ↦ product ⊙ S + added.
    """
    which = tl.program_id(0).to(tl.int64)
    batch, head = which // heads, which % heads
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
        s_re, s_im = load_state(start, plane, is_state, TURNS)
    p_re = tl.full((KEYS,), 1.0, tl.float32)
    p_im = tl.zeros((KEYS,), tl.float32)
    for first in range(begin, end, ROWS):
        t = (first + row)[:, None]
        here, is_input = (t < end) & is_key[None, :], (t < end) & is_value[None, :]
        x, sums, since, until, whole, along, _ = decays(
            amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
            GROWTH, RESETS, SHARED,
        )  # fmt: skip
        v_t = load(v + t * v_time, is_input)
        k_re = load(k + t * k_time, here)
        k_im, sin_end, cos_end = k_re, k_re, k_re
        if TURNS:
            sin, cos, sin_end, cos_end = turns(phase + t * phase_time, here)
            k_im = -sin * k_re
            k_re *= cos
        if REDUCE:
            p_re *= whole
            p_im *= whole
            if TURNS:
                p_re, p_im = cos_end * p_re - sin_end * p_im, sin_end * p_re + cos_end * p_im
        else:
            q_re = load(q + t * q_time, here)
            q_im = q_re
            if TURNS:
                q_im = -sin * q_re
                q_re *= cos
            scores = scores_of(
                q_re, q_im, k_re, k_im, x, sums, along, TURNS, SHARED, ROWS, PRECISION
            )
            if KEEPS and first % CHUNK == 0:
                store_state(
                    checkpoints + first // CHUNK * planes, plane, is_state, s_re, s_im, TURNS
                )
            y_t = tl.dot(q_re * since, s_re, input_precision=PRECISION)
            if TURNS:
                y_t += tl.dot(q_im * since, s_im, input_precision=PRECISION)
            y_t = of_segment(y_t, 0, along, RESETS)
            y_t += tl.dot(scores, v_t, input_precision=PRECISION)
            tl.store(y + t * heads * values, y_t, mask=is_input)
        s_re, s_im = advanced(
            s_re, s_im, k_re, k_im, v_t, until, whole, sin_end, cos_end, along,
            TURNS, RESETS, PRECISION,
        )  # fmt: skip
    if REDUCE:
        store_state(
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
            store_state(product + ends, heads * keys, is_key, p_re, p_im, TURNS)
    elif segment == segments - 1:
        store_state(last + batch * planes + place, plane, is_state, s_re, s_im, TURNS)


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
    which = tl.program_id(0).to(tl.int64)
    batch, head = which // heads, which % heads
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
        _, _, since, _, whole, along, _ = decays(
            amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
            GROWTH, RESETS, SHARED,
        )  # fmt: skip
        q_re = load(q + t * q_time, here)
        q_im = q_re
        dy = load(grad_y + t * grad_y_time, is_input)
        if TURNS:
            sin, cos, sin_end, cos_end = turns(phase + t * phase_time, here)
            g_re, g_im = (
                cos_end[:, None] * g_re + sin_end[:, None] * g_im,
                cos_end[:, None] * g_im - sin_end[:, None] * g_re,
            )
            p_re, p_im = cos_end * p_re + sin_end * p_im, cos_end * p_im - sin_end * p_re
            q_im = -sin * q_re
            q_re *= cos
        g_re, g_im = receded(
            g_re, g_im, q_re, q_im, dy, since, whole, along, TURNS, RESETS, PRECISION
        )
        p_re *= whole
        p_im *= whole
    store_state(
        added + (batch * segments + segment) * planes + place,
        plane, is_key[:, None] & is_value[None, :], g_re, g_im, TURNS,
    )  # fmt: skip
    if tl.program_id(2) == 0:
        ends = (batch * segments + segment) * (2 if TURNS else 1) * heads * keys + head * keys + key
        store_state(product + ends, heads * keys, is_key, p_re, p_im, TURNS)


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
    which = tl.program_id(0).to(tl.int64)
    batch, head = which // heads, which % heads
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
    g_re, g_im = load_state(start, plane, is_state, TURNS)
    chunks = tl.cdiv(end - begin, CHUNK)
    for c in range(chunks):
        first_of_chunk = begin + (chunks - 1 - c) * CHUNK
        stop = tl.minimum(first_of_chunk + CHUNK, end)
        s_re, s_im = load_state(
            checkpoints + first_of_chunk // CHUNK * planes, plane, is_state, TURNS
        )
        for first in range(first_of_chunk, stop, ROWS):
            store_state(
                scratch + (first - first_of_chunk) // ROWS * planes, plane, is_state,
                s_re, s_im, TURNS,
            )  # fmt: skip
            t = (first + row)[:, None]
            here, is_input = (t < end) & is_key[None, :], (t < end) & is_value[None, :]
            _, _, _, until, whole, along, _ = decays(
                amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
                GROWTH, RESETS, SHARED,
            )  # fmt: skip
            k_re = load(k + t * k_time, here)
            k_im, sin_end, cos_end = k_re, k_re, k_re
            if TURNS:
                sin, cos, sin_end, cos_end = turns(phase + t * phase_time, here)
                k_im = -sin * k_re
                k_re *= cos
            s_re, s_im = advanced(
                s_re, s_im, k_re, k_im, load(v + t * v_time, is_input), until, whole,
                sin_end, cos_end, along, TURNS, RESETS, PRECISION,
            )  # fmt: skip
        # what one thread wrote, another may read
        tl.debug_barrier()
        blocks = tl.cdiv(stop - first_of_chunk, ROWS)
        for b in range(blocks):
            block = blocks - 1 - b
            first = first_of_chunk + block * ROWS
            t = (first + row)[:, None]
            here, is_input = (t < end) & is_key[None, :], (t < end) & is_value[None, :]
            x, sums, since, until, whole, along, remember = decays(
                amplitude + t * amplitude_time, reset + first + row, here, first + row >= end,
                GROWTH, RESETS, SHARED,
            )  # fmt: skip
            q_t, k_t = load(q + t * q_time, here), load(k + t * k_time, here)
            v_t, dy = load(v + t * v_time, is_input), load(grad_y + t * grad_y_time, is_input)
            q_re, q_im, k_re, k_im = q_t, q_t, k_t, k_t
            by_amplitude = tl.sum(s_re * g_re, 1)
            by_phase = by_amplitude
            if TURNS:
                by_amplitude += tl.sum(s_im * g_im, 1)
                by_phase = tl.sum(s_re * g_im - s_im * g_re, 1)
                sin, cos, sin_end, cos_end = turns(phase + t * phase_time, here)
                q_re, q_im, k_re, k_im = cos * q_t, -sin * q_t, cos * k_t, -sin * k_t
                g_re, g_im = (
                    cos_end[:, None] * g_re + sin_end[:, None] * g_im,
                    cos_end[:, None] * g_im - sin_end[:, None] * g_re,
                )
            scores = scores_of(
                q_re, q_im, k_re, k_im, x, sums, along, TURNS, SHARED, ROWS, PRECISION
            )
            s_re, s_im = load_state(scratch + block * planes, plane, is_state, TURNS)

            dv_t = tl.dot(k_re * until, g_re, input_precision=PRECISION)
            dq_re = since * tl.dot(dy, tl.trans(s_re), input_precision=PRECISION)
            dk_re = until * tl.dot(v_t, tl.trans(g_re), input_precision=PRECISION)
            dq_im, dk_im = dq_re, dk_re
            if TURNS:
                dv_t += tl.dot(k_im * until, g_im, input_precision=PRECISION)
                dq_im = since * tl.dot(dy, tl.trans(s_im), input_precision=PRECISION)
                dk_im = until * tl.dot(v_t, tl.trans(g_im), input_precision=PRECISION)
            final = tl.max(along, 0)
            dq_re = of_segment(dq_re, 0, along, RESETS)
            dq_im = of_segment(dq_im, 0, along, RESETS)
            dk_re = of_segment(dk_re, final, along, RESETS)
            dk_im = of_segment(dk_im, final, along, RESETS)
            dv_t = of_segment(dv_t, final, along, RESETS)
            dv_t += tl.dot(tl.trans(scores), dy, input_precision=PRECISION)
            weights = tl.dot(dy, tl.trans(v_t), input_precision=PRECISION)
            dq_re, dq_im, dk_re, dk_im = pairs(
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

            g_re, g_im = receded(
                g_re, g_im, q_re, q_im, dy, since, whole, along, TURNS, RESETS, PRECISION
            )
        tl.debug_barrier()
    if segment == 0:
        store_state(dstate + batch * planes + place, plane, is_state, g_re, g_im, TURNS)
