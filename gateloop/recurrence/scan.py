"""Mode ``scan``: an associative scan over time in O(log l) sequential steps.

The sequence is cut into blocks of ``RADIX`` steps. All blocks at once are reduced to one
transition and one input each; the states at the block ends are the same recurrence, RADIX times
shorter, solved by recursion; from them all blocks at once are filled in. Nothing is stored but the
transitions and the states, and the backward pass is the same scan run towards the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gateloop.recurrence.transition import transition

RADIX = 16


def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The associative operator: the step (a₁, x₁), then (a₂, x₂), as one step.

    h ↦ a₂ (a₁ h + x₁) + x₂, that is (a₁ a₂, a₂ x₁ + x₂).
    """
    (a1, x1), (a2, x2) = left, right
    return a1 * a2, torch.addcmul(x2, a2, x1)


def linear_scan(
    a: Tensor, x: Tensor, h0: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All states of h_n = keep_n · a_n · h_{n-1} + x_n, and the last of them.

    x (batch, length, …); a broadcasts to x, and a length axis of 1 is a fixed transition;
    h0 (batch, …) in the dtype of the states; keep (batch, length, 1, …) is 0 where the state
    is forgotten, else 1, and gets no gradient.
    Returns h (batch, length, …) and h_L (batch, …). x may be real where a or h0 is complex.
    """
    return _LinearScan.apply(a, x, h0, keep)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, x: Tensor, h0: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        h = torch.empty(x.shape, dtype=h0.dtype, device=x.device)
        _solve(a, x, h0, h, keep, reverse=False)
        ctx.save_for_backward(a, h, h0, keep)
        ctx.real_input = not x.is_complex()
        ctx.set_materialize_grads(False)
        return h, h[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        a, h, h0, keep = ctx.saved_tensors
        # λ_n = g_n + conj(a_{n+1}) λ_{n+1}. Its conjugate μ needs no conjugated copy of a.
        if grad_h is None:
            mu = torch.zeros_like(h)
        else:
            mu = grad_h.conj().clone(memory_format=torch.contiguous_format).resolve_conj()
        if grad_last is not None:
            mu[:, -1] += grad_last.conj()
        if h.shape[1] > 1:
            later = None if keep is None else keep[:, 1:]
            rest = mu[:, :-1]
            _solve(a[:, 1:] if a.shape[1] > 1 else a, rest, mu[:, -1], rest, later, reverse=True)

        grad_a = grad_h0 = None
        if ctx.needs_input_grad[0]:
            product = torch.empty_like(h)
            torch.mul(mu[:, :1], h0[:, None], out=product[:, :1])
            torch.mul(mu[:, 1:], h[:, :-1], out=product[:, 1:])
            if keep is not None:
                product *= keep
            grad_a = (product if a.is_complex() else _real(product)).sum_to_size(a.shape).conj()
        if ctx.needs_input_grad[2]:
            first = mu[:, 0] * a[:, 0] if keep is None else mu[:, 0] * (a[:, 0] * keep[:, 0])
            grad_h0 = first.conj()
        return grad_a, _real(mu) if ctx.real_input else mu.conj(), grad_h0, None


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def _solve(
    a: Tensor, x: Tensor, start: Tensor, out: Tensor, keep: Tensor | None, reverse: bool
) -> None:
    """out_n = keep_n · a_n · out_{n∓1} + x_n from ``start``, towards the future or the past.

    ``out`` may be ``x``. Takes O(RADIX · log_RADIX(length)) tensor operations.
    """
    length = x.shape[1]
    if length <= RADIX:
        _fill(_steps(a, length, reverse), _steps(x, length, reverse), start,
              _steps(out, length, reverse), _steps(keep, length, reverse))  # fmt: skip
        return
    blocks, rest = divmod(length, RADIX)
    body, tail = slice(0, length - rest), slice(length - rest, length)
    if reverse:
        body, tail = slice(rest, length), slice(0, rest)

    a_steps, x_steps, out_steps, keep_steps = (
        _steps(t, length - rest, reverse, body, blocks) for t in (a, x, out, keep)
    )
    ends = start.new_empty(x.shape[0], blocks + 1, *x.shape[2:])
    if reverse:
        before, after, first, last = ends[:, 1:], ends[:, :-1], ends[:, -1], ends[:, 0]
    else:
        before, after, first, last = ends[:, :-1], ends[:, 1:], ends[:, 0], ends[:, -1]
    first.copy_(start)
    whole_a, whole_x = _reduce(a_steps, x_steps, keep_steps)
    _solve(whole_a, whole_x, start, after, None, reverse)
    _fill(a_steps, x_steps, before, out_steps, keep_steps)
    if rest:
        a_steps, x_steps, out_steps, keep_steps = (
            _steps(t, rest, reverse, tail) for t in (a, x, out, keep)
        )
        _fill(a_steps, x_steps, last, out_steps, keep_steps)


def _steps(
    t: Tensor | None,
    length: int,
    reverse: bool,
    where: slice = slice(None),
    blocks: int | None = None,
) -> Sequence[Tensor] | None:
    """Views of one step each in the scan's order; of the same step of every block, where cut."""
    if t is None:
        return None
    if t.shape[1] == 1:
        return (t[:, 0] if blocks is None else t,) * (length // (blocks or 1))
    t = t[:, where]
    views = t.unbind(1) if blocks is None else t.unflatten(1, (blocks, -1)).unbind(2)
    return views[::-1] if reverse else views


def _fill(
    a: Sequence[Tensor],
    x: Sequence[Tensor],
    state: Tensor,
    out: Sequence[Tensor],
    keep: Sequence[Tensor] | None,
) -> None:
    for n in range(len(x)):
        a_n = a[n] if keep is None else a[n] * keep[n]
        state = torch.addcmul(x[n], a_n, state, out=out[n])


def _reduce(
    a: Sequence[Tensor], x: Sequence[Tensor], keep: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The steps of each block as one step."""
    whole = None
    for n in range(len(x)):
        step = (a[n] if keep is None else a[n] * keep[n], x[n])
        whole = step if whole is None else combine(whole, step)
    return whole


def scan(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    state_BHKV: Tensor,
    reset_BL: Tensor | None,
    complex_output: bool,
) -> tuple[Tensor, Tensor]:
    """All states by :func:`linear_scan`, then the read-out; O(l · d_key · d_value) memory."""
    a = transition(log_amplitude, phase)
    keep = None
    if reset_BL is not None:
        keep = reset_BL.logical_not().to(log_amplitude.dtype)[..., None, None]
    if v_BLHV.shape[-1] == 1:  # no axis of values: max-headed recurrences live here
        h, last = linear_scan(a, k_BLHK * v_BLHV, state_BHKV[..., 0], keep)
        y = _real_part(q_BLHK, h, complex_output)
        if q_BLHK.shape[-1] > 1:
            y = y.sum(-1, keepdim=True)
        return y, last[..., None]
    x_BLHKV = k_BLHK[..., None] * v_BLHV[..., None, :]
    keep = keep if keep is None else keep[..., None]
    h, last = linear_scan(a[..., None], x_BLHKV, state_BHKV, keep)
    return _real_part(q_BLHK[..., None], h, complex_output).sum(-2), last


def _real_part(q: Tensor, h: Tensor, complex_output: bool) -> Tensor:
    if complex_output:
        return q * h
    if q.is_complex() and h.is_complex():
        return q.real * h.real - q.imag * h.imag
    return _real(q) * _real(h)
