"""The device side of triton_elementwise: what a program does with its channels and its segment."""

from __future__ import annotations

import triton
import triton.language as tl

from gateloop.recurrence.kernels.triton_math import exp, sin_cos


@triton.jit
def owned(channels, BLOCK: tl.constexpr):
    """This program's batch entry, its channels, and which of them there are."""
    blocks = tl.cdiv(channels, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    channel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    return batch, channel, channel < channels


@triton.jit
def _load(pointer, here):
    return tl.load(pointer, mask=here, other=0.0).to(tl.float32)


@triton.jit
def load_state(pointer, channels, here, TURNS: tl.constexpr):
    re = tl.load(pointer, mask=here, other=0.0)
    if TURNS:
        im = tl.load(pointer + channels, mask=here, other=0.0)
    else:
        im = tl.zeros_like(re)
    return re, im


@triton.jit
def store_state(pointer, channels, here, re, im, TURNS: tl.constexpr):
    tl.store(pointer, re, mask=here)
    if TURNS:
        tl.store(pointer + channels, im, mask=here)


@triton.jit
def _transition(
    amplitude, phase, here, LOGITS: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr
):
    """a, real and imaginary part, and d log|a| / d amplitude."""
    x = tl.load(amplitude, mask=here, other=0.0)
    if LOGITS:
        # the smaller of σ(x) and σ(−x); the larger is what it leaves of 1
        small = exp(-tl.abs(x))
        small = small / (1.0 + small)
        size = tl.where(x > 0.0, 1.0 - small, small)
        slope = tl.where(x > 0.0, small, 1.0 - small)
    else:
        if not GROWTH:
            x = tl.where(x > 0.0, 0.0, x)
        size = exp(x)
        slope = tl.full(x.shape, 1.0, tl.float32)
    if TURNS:
        sin, cos = sin_cos(tl.load(phase, mask=here, other=0.0))
        return size * cos, size * sin, slope
    else:
        return size, tl.zeros_like(size), slope


@triton.jit
def turned(a_re, a_im, re, im, TURNS: tl.constexpr):
    """a · (re + i im)."""
    if TURNS:
        return a_re * re - a_im * im, a_re * im + a_im * re
    else:
        return a_re * re, im


@triton.jit
def forward(
    q, q_batch, q_time, k, k_batch, k_time, v, v_batch, v_time,
    amplitude, amplitude_batch, amplitude_time, phase, phase_batch, phase_time, reset,
    before, y, last, checkpoints, length, channels, steps,
    CHUNK: tl.constexpr, KEEPS: tl.constexpr, LOGITS: tl.constexpr, GROWTH: tl.constexpr,
    TURNS: tl.constexpr, RESETS: tl.constexpr, FIXED_AMPLITUDE: tl.constexpr,
    FIXED_PHASE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One segment from the state before it: y, the kept states, the last segment's last state."""
    batch, channel, here = owned(channels, BLOCK)
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    first = segment * steps
    stop = tl.minimum(first + steps, length)
    plane = (2 if TURNS else 1) * channels
    q += batch * q_batch + channel
    k += batch * k_batch + channel
    v += batch * v_batch + channel
    amplitude += batch * amplitude_batch + channel
    phase += batch * phase_batch + channel
    reset += batch * length
    y += batch * length * channels + channel
    checkpoints += batch * tl.cdiv(length, CHUNK) * plane + channel

    h_re, h_im = load_state(
        before + (batch * segments + segment) * plane + channel, channels, here, TURNS
    )
    a_re, a_im, _ = _transition(amplitude, phase, here, LOGITS, GROWTH, TURNS)
    for t in tl.range(first, stop, num_stages=STAGES):
        if not (FIXED_AMPLITUDE and FIXED_PHASE):
            a_re, a_im, _ = _transition(
                amplitude + t * amplitude_time, phase + t * phase_time, here, LOGITS, GROWTH, TURNS
            )
        if KEEPS:
            first_of_chunk = here & (t % CHUNK == 0)
            store_state(
                checkpoints + t // CHUNK * plane, channels, first_of_chunk, h_re, h_im, TURNS
            )
        if RESETS:
            forget = tl.load(reset + t) != 0
            h_re = tl.where(forget, 0.0, h_re)
            h_im = tl.where(forget, 0.0, h_im)
        h_re, h_im = turned(a_re, a_im, h_re, h_im, TURNS)
        h_re += _load(k + t * k_time, here) * _load(v + t * v_time, here)
        tl.store(y + t * channels, _load(q + t * q_time, here) * h_re, mask=here)
    if segment == segments - 1:
        store_state(last + batch * plane + channel, channels, here, h_re, h_im, TURNS)


@triton.jit
def reduce_forward(
    q, q_batch, q_time, k, k_batch, k_time, v, v_batch, v_time,
    amplitude, amplitude_batch, amplitude_time, phase, phase_batch, phase_time, reset,
    product, added, length, channels, steps,
    LOGITS: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr,
    RESETS: tl.constexpr, FIXED_AMPLITUDE: tl.constexpr, FIXED_PHASE: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One segment as one step: the state after it is product · (the state before it) + added."""
    batch, channel, here = owned(channels, BLOCK)
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    first = segment * steps
    stop = tl.minimum(first + steps, length)
    plane = (2 if TURNS else 1) * channels
    k += batch * k_batch + channel
    v += batch * v_batch + channel
    amplitude += batch * amplitude_batch + channel
    phase += batch * phase_batch + channel
    reset += batch * length

    h_re = tl.zeros((BLOCK,), tl.float32)
    h_im = tl.zeros((BLOCK,), tl.float32)
    p_re = tl.full((BLOCK,), 1.0, tl.float32)
    p_im = tl.zeros((BLOCK,), tl.float32)
    a_re, a_im, _ = _transition(amplitude, phase, here, LOGITS, GROWTH, TURNS)
    for t in tl.range(first, stop, num_stages=STAGES):
        if not (FIXED_AMPLITUDE and FIXED_PHASE):
            a_re, a_im, _ = _transition(
                amplitude + t * amplitude_time, phase + t * phase_time, here, LOGITS, GROWTH, TURNS
            )
        if RESETS:
            forget = tl.load(reset + t) != 0
            h_re = tl.where(forget, 0.0, h_re)
            h_im = tl.where(forget, 0.0, h_im)
            p_re = tl.where(forget, 0.0, p_re)
            p_im = tl.where(forget, 0.0, p_im)
        h_re, h_im = turned(a_re, a_im, h_re, h_im, TURNS)
        p_re, p_im = turned(a_re, a_im, p_re, p_im, TURNS)
        h_re += _load(k + t * k_time, here) * _load(v + t * v_time, here)
    place = (batch * segments + segment) * plane + channel
    store_state(product + place, channels, here, p_re, p_im, TURNS)
    store_state(added + place, channels, here, h_re, h_im, TURNS)


@triton.jit
def carry(
    product, added, state, starts, segments, channels,
    TURNS: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """state ↦ product · state + added over the segments, and what stands before each."""
    batch, channel, here = owned(channels, BLOCK)
    plane = (2 if TURNS else 1) * channels
    h_re, h_im = load_state(state + batch * plane + channel, channels, here, TURNS)
    for n in tl.range(0, segments, num_stages=8):
        segment = segments - 1 - n if REVERSE else n
        place = (batch * segments + segment) * plane + channel
        p_re, p_im = load_state(product + place, channels, here, TURNS)
        x_re, x_im = load_state(added + place, channels, here, TURNS)
        store_state(starts + place, channels, here, h_re, h_im, TURNS)
        forgets = (p_re == 0.0) & (p_im == 0.0)  # also what is not finite, as a reset does
        h_re, h_im = turned(p_re, p_im, h_re, h_im, TURNS)
        h_re = tl.where(forgets, 0.0, h_re) + x_re
        h_im = tl.where(forgets, 0.0, h_im) + x_im


@triton.jit
def reduce_backward(
    q, q_batch, q_time, k, k_batch, k_time, v, v_batch, v_time,
    amplitude, amplitude_batch, amplitude_time, phase, phase_batch, phase_time, reset,
    grad_y, grad_y_batch, grad_y_time, product, added, length, channels, steps,
    LOGITS: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr,
    RESETS: tl.constexpr, FIXED_AMPLITUDE: tl.constexpr, FIXED_PHASE: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The same for the state's gradient, towards the past, with conjugate transitions."""
    batch, channel, here = owned(channels, BLOCK)
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    first = segment * steps
    stop = tl.minimum(first + steps, length)
    plane = (2 if TURNS else 1) * channels
    q += batch * q_batch + channel
    grad_y += batch * grad_y_batch + channel
    amplitude += batch * amplitude_batch + channel
    phase += batch * phase_batch + channel
    reset += batch * length

    g_re = tl.zeros((BLOCK,), tl.float32)
    g_im = tl.zeros((BLOCK,), tl.float32)
    p_re = tl.full((BLOCK,), 1.0, tl.float32)
    p_im = tl.zeros((BLOCK,), tl.float32)
    a_re, a_im, _ = _transition(amplitude, phase, here, LOGITS, GROWTH, TURNS)
    for n in tl.range(0, stop - first, num_stages=STAGES):
        t = stop - 1 - n
        if not (FIXED_AMPLITUDE and FIXED_PHASE):
            a_re, a_im, _ = _transition(
                amplitude + t * amplitude_time, phase + t * phase_time, here, LOGITS, GROWTH, TURNS
            )
        g_re += _load(grad_y + t * grad_y_time, here) * _load(q + t * q_time, here)
        g_re, g_im = turned(a_re, -a_im, g_re, g_im, TURNS)
        p_re, p_im = turned(a_re, -a_im, p_re, p_im, TURNS)
        if RESETS:
            forget = tl.load(reset + t) != 0
            g_re = tl.where(forget, 0.0, g_re)
            g_im = tl.where(forget, 0.0, g_im)
            p_re = tl.where(forget, 0.0, p_re)
            p_im = tl.where(forget, 0.0, p_im)
    place = (batch * segments + segment) * plane + channel
    store_state(product + place, channels, here, p_re, p_im, TURNS)
    store_state(added + place, channels, here, g_re, g_im, TURNS)


@triton.jit
def backward(
    q, q_batch, q_time, k, k_batch, k_time, v, v_batch, v_time,
    amplitude, amplitude_batch, amplitude_time, phase, phase_batch, phase_time, reset,
    grad_y, grad_y_batch, grad_y_time, after, checkpoints, scratch,
    dq, dk, dv, damplitude, dphase, dstate, length, channels, steps,
    CHUNK: tl.constexpr, LOGITS: tl.constexpr, GROWTH: tl.constexpr, TURNS: tl.constexpr,
    RESETS: tl.constexpr, FIXED_AMPLITUDE: tl.constexpr, FIXED_PHASE: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One segment from the gradient behind it: every gradient. λ is conj(a_{n+1}) G_{n+1}."""
    batch, channel, here = owned(channels, BLOCK)
    segment, segments = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    begin = segment * steps
    end = tl.minimum(begin + steps, length)
    plane = (2 if TURNS else 1) * channels
    q += batch * q_batch + channel
    k += batch * k_batch + channel
    v += batch * v_batch + channel
    amplitude += batch * amplitude_batch + channel
    phase += batch * phase_batch + channel
    reset += batch * length
    grad_y += batch * grad_y_batch + channel
    out = batch * length * channels + channel
    checkpoints += batch * tl.cdiv(length, CHUNK) * plane + channel
    place = (batch * segments + segment) * plane + channel
    scratch += (batch * segments + segment) * CHUNK * plane + channel

    l_re, l_im = load_state(after + place, channels, here, TURNS)
    a_re, a_im, slope = _transition(amplitude, phase, here, LOGITS, GROWTH, TURNS)
    to_amplitude = tl.zeros((BLOCK,), tl.float32)
    to_phase = tl.zeros((BLOCK,), tl.float32)
    chunks = tl.cdiv(end - begin, CHUNK)
    for c in range(chunks):
        first = begin + (chunks - 1 - c) * CHUNK
        size = tl.minimum(end - first, CHUNK)
        h_re, h_im = load_state(checkpoints + first // CHUNK * plane, channels, here, TURNS)
        for n in tl.range(0, size, num_stages=STAGES):
            t = first + n
            if not (FIXED_AMPLITUDE and FIXED_PHASE):
                a_re, a_im, slope = _transition(
                    amplitude + t * amplitude_time, phase + t * phase_time, here,
                    LOGITS, GROWTH, TURNS,
                )  # fmt: skip
            if RESETS:
                forget = tl.load(reset + t) != 0
                h_re = tl.where(forget, 0.0, h_re)
                h_im = tl.where(forget, 0.0, h_im)
            h_re, h_im = turned(a_re, a_im, h_re, h_im, TURNS)
            store_state(scratch + n * plane, channels, here, h_re, h_im, TURNS)
            h_re += _load(k + t * k_time, here) * _load(v + t * v_time, here)
        # what one thread wrote, another may read
        tl.debug_barrier()
        for m in tl.range(0, size, num_stages=STAGES):
            n = size - 1 - m
            t = first + n
            if not (FIXED_AMPLITUDE and FIXED_PHASE):
                a_re, a_im, slope = _transition(
                    amplitude + t * amplitude_time, phase + t * phase_time, here,
                    LOGITS, GROWTH, TURNS,
                )  # fmt: skip
            z_re, z_im = load_state(scratch + n * plane, channels, here, TURNS)
            k_t, v_t = _load(k + t * k_time, here), _load(v + t * v_time, here)
            dy = _load(grad_y + t * grad_y_time, here)
            g_re = l_re + dy * _load(q + t * q_time, here)
            tl.store(dq + out + t * channels, dy * (z_re + k_t * v_t), mask=here)
            tl.store(dk + out + t * channels, g_re * v_t, mask=here)
            tl.store(dv + out + t * channels, g_re * k_t, mask=here)
            by_amplitude = (g_re * z_re + l_im * z_im) * slope
            if FIXED_AMPLITUDE:
                to_amplitude += by_amplitude
            else:
                tl.store(damplitude + out + t * channels, by_amplitude, mask=here)
            if TURNS:
                by_phase = l_im * z_re - g_re * z_im
                if FIXED_PHASE:
                    to_phase += by_phase
                else:
                    tl.store(dphase + out + t * channels, by_phase, mask=here)
            l_re, l_im = turned(a_re, -a_im, g_re, l_im, TURNS)
            if RESETS:
                forget = tl.load(reset + t) != 0
                l_re = tl.where(forget, 0.0, l_re)
                l_im = tl.where(forget, 0.0, l_im)
        tl.debug_barrier()
    place = (batch * segments + segment) * channels + channel
    if FIXED_AMPLITUDE:
        tl.store(damplitude + place, to_amplitude, mask=here)
    if TURNS and FIXED_PHASE:
        tl.store(dphase + place, to_phase, mask=here)
    if segment == 0:
        store_state(dstate + batch * plane + channel, channels, here, l_re, l_im, TURNS)
