"""Mode ``chunkwise``: matrix products inside chunks, a short recurrence over the chunks.

Within a chunk, phases are prefix sums from its start that rotate q and k, so they cost no
exponent and everything inside is real, with real and imaginary part side by side along the keys.
Amplitudes that differ by key enter by halves: the later half of a chunk reads the earlier one by
way of the row between them, q_n e^{A_n − A_ref} and k_m e^{A_ref − A_m}, both exponents ≤ 0, and
each half is halved again, down to blocks whose differences A_n − A_m are taken one by one. Where
all keys of a head share one amplitude, the whole chunk is one such block, (q kᵀ) ⊙ e^{A_n − A_m}.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gateloop.recurrence.transition import transition

CHUNK = 64
BLOCK = 8


def chunkwise(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    state_BHKV: Tensor,
    reset_BL: Tensor | None,
    complex_output: bool,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Read-out and final state by chunks. Complex v and a complex read-out by linearity."""

    def read(q: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return _real_readout(q, k_BLHK, v, log_amplitude, phase, state, reset_BL, chunk)

    def read_all(q: Tensor) -> tuple[Tensor, Tensor]:
        if not v_BLHV.is_complex():
            return read(q, v_BLHV, state_BHKV)
        y, last = read(q, v_BLHV.real, state_BHKV)
        more_y, more_last = read(1j * q, v_BLHV.imag, torch.zeros_like(state_BHKV))
        return y + more_y, last + 1j * more_last

    y, last = read_all(q_BLHK)
    if complex_output and last.is_complex():
        y = torch.complex(y, read_all(-1j * q_BLHK)[0])
    return y, last


def _real_readout(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Whole chunks first, then what is left of the length as one shorter chunk."""
    length = q.shape[1]
    whole = length - length % chunk
    outputs = []
    for steps, size in ((slice(0, whole), chunk), (slice(whole, length), length - whole)):
        if steps.start == steps.stop:
            continue
        y, state = _equal_chunks(
            q[:, steps],
            k[:, steps],
            v[:, steps],
            _part(log_amplitude, steps),
            None if phase is None else _part(phase, steps),
            state,
            None if reset is None else reset[:, steps],
            size,
        )
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _part(gate: Tensor, steps: slice) -> Tensor:
    return gate if gate.shape[1] == 1 else gate[:, steps]


def _equal_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Below, tensors are (batch, heads, chunks, size, keys or values)."""
    real = v.dtype
    planar = state.is_complex()
    q, k, v = (_cut(t, size) for t in (q, k, v))
    decay = _prefix_sums(log_amplitude, size)
    turn = None if phase is None else _prefix_sums(phase, size)
    segment = None if reset is None else reset.unflatten(1, (-1, size)).cumsum(-1)[:, None]

    since_start = decay.to(real).exp()
    until_end = (decay[..., -1:, :] - decay).to(real).exp()
    carry = transition(
        decay[..., -1, :].to(real), None if turn is None else _wrap(turn[..., -1, :], real)
    )[..., None]
    forget = None
    if segment is not None:
        since_start = since_start.masked_fill((segment != 0)[..., None], 0)
        until_end = until_end.masked_fill((segment != segment[..., -1:])[..., None], 0)
        forget = (segment[..., -1] != 0)[..., None, None]

    # What a step reads of itself has no transition in it. Apart, it leaves no rounding in theirs.
    itself = (q * k).sum(-1, keepdim=True)
    y = (itself.real if itself.is_complex() else itself) * v
    back = None if turn is None else _wrap(-turn, real)
    if planar:
        to_end = None if turn is None else _wrap(turn[..., -1:, :] - turn, real)
        added = _scaled(_planar(k, to_end), until_end).mT @ v
        added = torch.complex(*added.chunk(2, dim=-2))
        # (q e^{iΦ_n}) (k e^{−iΦ_m}), its real part as one real product
        q, k = _planar(q.conj(), back), _planar(k, back)
    else:
        added = (k * until_end).mT @ v
    before, last = _over_chunks(carry, added, state, forget)
    if planar:
        before = torch.cat([before.real, before.imag], dim=-2)
    y = y + _scaled(q, since_start) @ before + _inside(q, k, v, decay, segment)
    return y.flatten(2, 3).transpose(1, 2), last


def _cut(t: Tensor, size: int) -> Tensor:
    return t.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


def _prefix_sums(gate: Tensor, size: int) -> Tensor:
    """Sums from each chunk's start, in float64; of fixed gates for one chunk only."""
    gate = gate.double()
    if gate.shape[1] == 1:
        count = torch.arange(1, size + 1, device=gate.device)
        return gate.transpose(1, 2)[:, :, None] * count[:, None]
    return _cut(gate, size).cumsum(-2)


def _wrap(angle: Tensor, dtype: torch.dtype) -> Tensor:
    """Modulo a full turn while still in float64, so that float32 holds it exactly enough."""
    return angle.remainder(2 * math.pi).to(dtype)


def _planar(t: Tensor, turn: Tensor | None) -> Tensor:
    """t · e^{i·turn}, its real and its imaginary part side by side along the keys."""
    re, im = (t.real, t.imag) if t.is_complex() else (t, None)
    if turn is not None:
        cos, sin = turn.cos(), turn.sin()
        if im is None:
            re, im = re * cos, re * sin
        else:
            re, im = re * cos - im * sin, re * sin + im * cos
    return torch.cat([re, torch.zeros_like(re) if im is None else im], dim=-1)


def _scaled(t: Tensor, weight: Tensor) -> Tensor:
    """t · weight, the same for the real and the imaginary part of a planar t."""
    if weight.shape[-1] in (1, t.shape[-1]):
        return t * weight
    return (t.unflatten(-1, (2, -1)) * weight[..., None, :]).flatten(-2)


def _over_chunks(
    carry: Tensor, added: Tensor, state: Tensor, forget: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The state before each chunk, and after the last; ``forget``: chunks with a reset."""
    carries, inputs = carry.unbind(2), added.unbind(2)
    before = []
    for n in range(len(inputs)):
        before.append(state)
        if forget is not None:
            state = state.masked_fill(forget[:, :, n], 0)
        state = torch.addcmul(inputs[n], carries[n if len(carries) > 1 else 0], state)
    return torch.stack(before, dim=2), state


def _inside(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, segment: Tensor | None) -> Tensor:
    """What each step of a chunk reads of those before it."""
    size = q.shape[-2]
    if size <= BLOCK or decay.shape[-1] == 1:
        return _inside_block(q, k, v, decay, segment)
    halves = (size // 2, size - size // 2)
    (q1, q2), (k1, k2), (v1, v2), (decay1, decay2) = (
        t.split(halves, dim=-2) for t in (q, k, v, decay)
    )
    segment1 = segment2 = None
    if segment is not None:
        segment1, segment2 = segment.split(halves, dim=-1)
    reference = decay1[..., -1:, :]
    since = _scaled(q2, (decay2 - reference).to(v.dtype).exp())
    until = _scaled(k1, (reference - decay1).to(v.dtype).exp())
    scores = since @ until.mT
    if segment1 is not None and segment2 is not None:
        scores = scores.masked_fill(segment2[..., :, None] != segment1[..., None, :], 0)
    y1 = _inside(q1, k1, v1, decay1, segment1)
    y2 = _inside(q2, k2, v2, decay2, segment2) + scores @ v1
    return torch.cat([y1, y2], dim=-2)


def _inside_block(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, segment: Tensor | None) -> Tensor:
    step = torch.arange(q.shape[-2], device=q.device)
    not_before = step >= step[:, None]
    difference = decay[..., :, None, :] - decay[..., None, :, :]
    weight = difference.masked_fill(not_before[..., None], -math.inf).to(v.dtype).exp()
    if weight.shape[-1] == 1:
        scores = (q @ k.mT) * weight[..., 0]
    else:
        pairs = q[..., :, None, :] * k[..., None, :, :]
        if pairs.shape[-1] > weight.shape[-1]:
            real, imaginary = pairs.chunk(2, dim=-1)
            pairs = real + imaginary
        scores = (pairs * weight).sum(-1)
    if segment is not None:
        scores = scores.masked_fill(segment[..., :, None] != segment[..., None, :], 0)
    return scores @ v
