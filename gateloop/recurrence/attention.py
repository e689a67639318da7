"""Mode ``attention``: the surrogate attention of the paper, O(l²) work.

y_n = Re Σ_{m ≤ n} (q_n ⊙ exp(Λ_n − Λ_m)) k_mᵀ v_m, where Λ is the prefix sum of log-amplitude and
phase. The weights come from differences of prefix sums, in float64, and the exponent is masked
before exp: a quotient of cumulative products of a would be 0/0 after a few hundred steps. The
weights of a block of heads and rows are recomputed in the backward pass, so that no more than
``BUDGET`` of them exist at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gateloop.recurrence.transition import transition

BUDGET = 1 << 20  # weights at once, over batch, heads, rows, columns and keys
ROWS = 128


def attention(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    state_BHKV: Tensor,
    reset_BL: Tensor | None,
    complex_output: bool,
) -> tuple[Tensor, Tensor]:
    """Read-out and final state by weights between every two steps."""
    batch, length, heads, _ = q_BLHK.shape
    q, k, v = (t.transpose(1, 2) for t in (q_BLHK, k_BLHK, v_BLHV))  # (B, H, L, ·)
    decays = _prefix_sums(log_amplitude)
    turns = None if phase is None else _prefix_sums(phase)
    segment_BL = None if reset_BL is None else reset_BL.cumsum(1)

    keys = max(g.shape[3] for g in (log_amplitude, phase) if g is not None)
    rows_at_once = max(1, min(ROWS, length, BUDGET // (batch * length * keys)))
    heads_at_once = max(1, min(heads, BUDGET // (batch * length * keys * rows_at_once)))

    y_heads = []
    for h0 in range(0, heads, heads_at_once):
        some = slice(h0, h0 + heads_at_once)
        y_rows = []
        for stop in range(rows_at_once, length + rows_at_once, rows_at_once):
            rows = slice(stop - rows_at_once, min(stop, length))
            columns = slice(0, rows.stop)
            y_rows.append(
                _remember_inputs_only(
                    _rows,
                    q[:, some, rows],
                    k[:, some, columns],
                    v[:, some, columns],
                    _pick(decays(columns), some),
                    None if turns is None else _pick(turns(columns), some),
                    state_BHKV[:, some],
                    None if segment_BL is None else segment_BL[:, columns],
                    complex_output,
                )
            )
        y_heads.append(torch.cat(y_rows, dim=2))
    y = torch.cat(y_heads, dim=1).transpose(1, 2)

    everything = slice(0, length)
    last = _final_state(
        k, v, decays(everything), None if turns is None else turns(everything), state_BHKV,
        segment_BL,
    )  # fmt: skip
    return y, last


def _rows(
    q_BHNK: Tensor,
    k_BHMK: Tensor,
    v_BHMV: Tensor,
    decay_BHMK: Tensor,
    turn_BHMK: Tensor | None,
    state_BHKV: Tensor,
    segment_BM: Tensor | None,
    complex_output: bool,
) -> Tensor:
    """The read-out of the last N of M steps."""
    rows, columns = q_BHNK.shape[2], k_BHMK.shape[2]
    real = q_BHNK.real.dtype if q_BHNK.is_complex() else q_BHNK.dtype
    step = torch.arange(columns, device=q_BHNK.device)
    later = step > step[-rows:, None]

    decay = decay_BHMK[:, :, -rows:, None] - decay_BHMK[:, :, None]
    decay = decay.masked_fill(later[..., None], -math.inf).to(real)
    turn = None
    if turn_BHMK is not None:
        turn = _wrap(turn_BHMK[:, :, -rows:, None] - turn_BHMK[:, :, None]).to(real)
    only_real = not complex_output and not any(t.is_complex() for t in (q_BHNK, k_BHMK, v_BHMV))
    if only_real and turn is not None:
        weight = decay.exp() * turn.cos()
    else:
        weight = transition(decay, turn)
    if weight.shape[-1] == 1:
        scores_BHNM = _matmul(q_BHNK, k_BHMK.mT) * weight[..., 0]
    else:
        scores_BHNM = (q_BHNK[:, :, :, None] * k_BHMK[:, :, None] * weight).sum(-1)
    if segment_BM is not None:
        other = segment_BM[:, None, -rows:, None] != segment_BM[:, None, None, :]
        scores_BHNM = scores_BHNM.masked_fill(other, 0)
    y = _matmul(scores_BHNM, v_BHMV)

    start = _since_start(decay_BHMK[:, :, -rows:], turn_BHMK, segment_BM, rows, real)
    y_start = _matmul(q_BHNK * start, state_BHKV)
    if complex_output:
        return y + y_start
    return _real(y) + _real(y_start)


def _since_start(
    decay: Tensor, turn: Tensor | None, segment_BM: Tensor | None, rows: int, real: torch.dtype
) -> Tensor:
    """The product of all transitions up to each of the last ``rows`` steps."""
    turn = None if turn is None else _wrap(turn[:, :, -rows:]).to(real)
    product = transition(decay.to(real), turn)
    if segment_BM is None:
        return product
    return product.masked_fill((segment_BM != 0)[:, None, -rows:, None], 0)


def _final_state(
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    turn: Tensor | None,
    state_BHKV: Tensor,
    segment_BL: Tensor | None,
) -> Tensor:
    real = v.real.dtype if v.is_complex() else v.dtype
    left_turn = None if turn is None else _wrap(turn[:, :, -1:] - turn).to(real)
    weight = transition((decay[:, :, -1:] - decay).to(real), left_turn)
    if segment_BL is not None:
        other = (segment_BL != segment_BL[:, -1:])[:, None, :, None]
        weight = weight.masked_fill(other, 0)
    start = _since_start(decay[:, :, -1:], turn, segment_BL, 1, real)
    return start.mT * state_BHKV + _matmul((k * weight).mT, v)


def _prefix_sums(gate: Tensor) -> Callable[[slice], Tensor]:
    """The sums up to and including each step, (batch, heads, steps, keys) in float64."""
    gate = gate.transpose(1, 2).double()
    if gate.shape[2] > 1:
        sums = gate.cumsum(2)
        return lambda steps: sums[:, :, steps]

    def fixed(steps: slice) -> Tensor:
        count = torch.arange(steps.start + 1, steps.stop + 1, device=gate.device)
        return gate * count[:, None]

    return fixed


def _pick(t: Tensor, heads: slice) -> Tensor:
    return t if t.shape[1] == 1 else t[:, heads]


def _wrap(angle: Tensor) -> Tensor:
    """Modulo a full turn while still in float64, so that float32 holds it exactly enough."""
    return angle.remainder(2 * math.pi)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    dtype = torch.promote_types(left.dtype, right.dtype)
    return left.to(dtype) @ right.to(dtype)


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def _remember_inputs_only(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
