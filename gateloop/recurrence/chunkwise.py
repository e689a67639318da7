"""Mode ``chunkwise``: matrix products inside chunks, a short recurrence over the chunks.

Within a chunk, phases are prefix sums from its start that rotate q and k, so they cost no
exponent and everything inside is real, with real and imaginary part side by side along the keys.
Amplitudes that differ by key enter by halves: the later half of a chunk reads the earlier one by
way of the row between them, q_n e^{A_n − A_ref} and k_m e^{A_ref − A_m}, both exponents ≤ 0, and
both halves are halved again, down to single steps. Where all keys of a head share one amplitude,
the whole chunk is one product, (q kᵀ) ⊙ e^{A_n − A_m}.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gateloop.recurrence.transition import transition

CHUNK = 64


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
    sizes = [steps for steps in (length - length % chunk, length % chunk) if steps]
    parts = (_parts(t, sizes) for t in (q, k, v, log_amplitude, phase, reset))
    outputs = []
    for steps, (q_n, k_n, v_n, log_amplitude_n, phase_n, reset_n) in zip(
        sizes, zip(*parts, strict=True), strict=True
    ):
        y, state = _equal_chunks(
            q_n, k_n, v_n, log_amplitude_n, phase_n, state, reset_n, min(steps, chunk)
        )
        outputs.append(y)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), state


def _parts(t: Any, sizes: list[int]) -> Any:
    """Of an input over time. One that is whole stays itself: to cut it costs a copy going back."""
    if t is None or len(sizes) == 1 or t.shape[1] == 1:
        return [t] * len(sizes)
    return t.split(sizes, dim=1)


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
    turn = None if phase is None else _prefix_sums(phase, size)
    segment = None if reset is None else reset.unflatten(1, (-1, size)).cumsum(-1)[:, None]

    # What a step reads of itself has no transition in it. Apart, it leaves no rounding in theirs.
    itself = (q * k).sum(-1, keepdim=True)
    y = (itself.real if itself.is_complex() else itself) * v
    if planar:
        # (q e^{iΦ_n}) (k e^{−iΦ_m}), its real part as one real product
        back = None if turn is None else _wrap(-turn, real)
        q, k = _planar(q.conj(), back), _planar(k, back)
    if log_amplitude.shape[-1] == 1:
        inside, since_start, until_end = _at_once(q, k, v, log_amplitude, segment)
    else:
        inside, since_start, until_end = _by_halves(q, k, v, _steps(log_amplitude, size), segment)
    whole_turn = None if turn is None else _wrap(turn[..., -1, :], real)
    carry = transition(since_start[..., -1, :], whole_turn)[..., None]
    since_start, until_end = since_start.exp(), until_end.exp()
    forget, lasts, v_last = None, _scaled(k, until_end), v
    if segment is not None:
        since_start = since_start.masked_fill((segment != 0)[..., None], 0)
        earlier = (segment != segment[..., -1:])[..., None]
        lasts, v_last = lasts.masked_fill(earlier, 0), v.masked_fill(earlier, 0)
        forget = (segment[..., -1] != 0)[..., None, None]

    added = lasts.mT @ v_last
    if planar:
        added = torch.complex(*added.chunk(2, dim=-2))
    if whole_turn is not None:
        added = added * torch.polar(torch.ones_like(whole_turn), whole_turn)[..., None]
    before, last = _over_chunks(carry, added, state, forget)
    if planar:
        before = torch.cat([before.real, before.imag], dim=-2)
    y = y + inside + _scaled(q, since_start) @ before
    return y.flatten(2, 3).transpose(1, 2), last


def _cut(t: Tensor, size: int) -> Tensor:
    return t.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


def _steps(gate: Tensor, size: int) -> Tensor:
    """A gate by chunks, one chunk of a fixed one."""
    if gate.shape[1] == 1:
        return gate.transpose(1, 2)[:, :, None].expand(-1, -1, -1, size, -1)
    return _cut(gate, size)


def _prefix_sums(gate: Tensor, size: int) -> Tensor:
    """Sums from each chunk's start, in float64."""
    return _steps(gate.double(), size).cumsum(-2)


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


# The two below give what each step of a chunk reads of those before it, and the sums of logarithms
# from the chunk's start to each step and from each to the chunk's end.


def _at_once(
    q: Tensor, k: Tensor, v: Tensor, log_amplitude: Tensor, segment: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where all keys share an amplitude."""
    step = torch.arange(q.shape[-2], device=q.device)
    not_before = step >= step[:, None]
    since = _prefix_sums(log_amplitude, q.shape[-2])
    weight = (since - since.mT).masked_fill(not_before, -math.inf).to(v.dtype).exp()
    scores = (q @ k.mT) * weight
    if segment is not None:
        scores = scores.masked_fill(segment[..., :, None] != segment[..., None, :], 0)
    until = since[..., -1:, :] - since
    return scores @ v, since.to(v.dtype), until.to(v.dtype)


def _by_halves(
    q: Tensor, k: Tensor, v: Tensor, log_amplitude: Tensor, segment: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each key has its own: sums inside a half never span more than what they are for."""
    size = q.shape[-2]
    if size == 1:
        return torch.zeros_like(v), log_amplitude, torch.zeros_like(log_amplitude)
    if size % 2:  # one step more, which none of the others reads
        q, k, v = (torch.cat([t, t[..., -1:, :]], dim=-2) for t in (q, k, v))
        log_amplitude = torch.cat([log_amplitude, torch.zeros_like(log_amplitude[..., -1:, :])], -2)
        if segment is not None:
            segment = torch.cat([segment, segment[..., -1:]], dim=-1)
        y, since, until = _by_halves(q, k, v, log_amplitude, segment)
        return y[..., :size, :], since[..., :size, :], until[..., :size, :]

    q, k, v, log_amplitude = (t.unflatten(-2, (2, -1)) for t in (q, k, v, log_amplitude))
    segment = None if segment is None else segment.unflatten(-1, (2, -1))
    halves = _by_halves(q, k, v, log_amplitude, segment)
    (y1, y2), (since1, since2), (until1, until2) = (t.unbind(-3) for t in halves)
    (_, q2), (k1, _), (v1, _) = (t.unbind(-3) for t in (q, k, v))
    scores = _scaled(q2, since2.exp()) @ _scaled(k1, until1.exp()).mT
    if segment is not None:
        earlier, later = segment.unbind(-2)
        scores = scores.masked_fill(later[..., :, None] != earlier[..., None, :], 0)
    y = torch.cat([y1, y2 + scores @ v1], dim=-2)
    since = torch.cat([since1, since1[..., -1:, :] + since2], dim=-2)
    return y, since, torch.cat([until1 + since2[..., -1:, :], until2], dim=-2)
