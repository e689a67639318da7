"""Mode ``scan``: an associative scan over time in O(log l) sequential steps.

The sequence is cut into blocks of ``RADIX`` steps. All blocks at once are reduced to one
transition and one input each; the states at the block ends are the same recurrence, RADIX times
shorter, solved by recursion; from them all blocks at once are filled in. Nothing is stored but the
transitions and the states, and the backward pass is the same scan run towards the past.

Where there is a compiled kernel it takes the place of the blocks, going through time step by step
with all channels at once; and where a head's state is one number, of the whole recurrence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gateloop.recurrence.derivative import OTHER_MODES, first_only
from gateloop.recurrence.kernels import solve_, solves
from gateloop.recurrence.transition import transition

RADIX = 16


def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The associative operator: the step (a₁, x₁), then (a₂, x₂), as one step.

    h ↦ a₂ (a₁ h + x₁) + x₂, that is (a₁ a₂, a₂ x₁ + x₂).
    """
    (a1, x1), (a2, x2) = left, right
    return a1 * a2, torch.addcmul(x2, a2, x1)


class _Scan(torch.autograd.Function):
    """From q, k (…, d_key, 1), v (…, 1, d_value) and a to y and the last state.

    In one function, so that nothing but the arguments and the states is kept, and the inputs
    k v are written where the states will stand. a broadcasts to the states, and a length axis
    of 1 is a fixed transition; forget (batch, length, 1, 1, 1) is where the state is forgotten.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        a: Tensor,
        h0: Tensor,
        forget: Tensor | None,
        complex_output: bool,
    ) -> tuple[Tensor, Tensor]:
        h = torch.empty(*k.shape[:4], v.shape[4], dtype=h0.dtype, device=k.device)
        torch.mul(k, v, out=h)
        solve(a, h, h0, h, forget, reverse=False)
        ctx.save_for_backward(q, k, v, a, h0, forget, h)
        ctx.set_materialize_grads(False)
        y = _product(q, h, complex_output)
        return y if y.shape[3] == 1 else y.sum(3, keepdim=True), h[:, -1].clone()

    @staticmethod
    @first_only(OTHER_MODES)
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, a, h0, forget, h = ctx.saved_tensors
        # The gradient by h_n is λ_n = g_n + conj(a_{n+1}) λ_{n+1}. Everything below is conjugated,
        # which spares a conjugated copy of a: μ_n = conj(g_n) + a_{n+1} μ_{n+1}.
        mu = torch.empty_like(h)
        grad_q = None
        if grad_y is None:
            mu.zero_()
        else:
            torch.mul(q, grad_y.conj().resolve_conj(), out=mu)
            if ctx.needs_input_grad[0]:
                grad_q = _gradient(q, h, grad_y.conj())
        if grad_last is not None:
            mu[:, -1] += grad_last.conj()
        if h.shape[1] > 1:
            rest, later = mu[:, :-1], None if forget is None else forget[:, 1:]
            solve(a[:, 1:] if a.shape[1] > 1 else a, rest, mu[:, -1], rest, later, reverse=True)

        grad_k = _gradient(k, mu, v) if ctx.needs_input_grad[1] else None
        grad_v = _gradient(v, mu, k) if ctx.needs_input_grad[2] else None
        grad_h0 = grad_a = None
        if ctx.needs_input_grad[4]:
            first = None if forget is None else forget[:, 0]
            grad_h0 = _gradient(h0, _kept(mu[:, 0], first), a[:, 0])
        if ctx.needs_input_grad[3]:
            mu[:, 1:] *= h[:, :-1]
            mu[:, 0] *= h0
            grad_a = _gradient(a, _kept(mu, forget))
        return grad_q, grad_k, grad_v, grad_a, grad_h0, None, None


def _gradient(of: Tensor, *conjugated: Tensor) -> Tensor:
    """The gradient of ``of``, whose conjugate is the product of ``conjugated``."""
    if len(conjugated) == 2:
        product = _product(*conjugated, of.is_complex())
    else:
        (product,) = conjugated
        product = product if of.is_complex() else _real(product)
    return product.sum_to_size(of.shape).conj()


def _product(x: Tensor, y: Tensor, complex_output: bool) -> Tensor:
    """x · y, or its real part."""
    if complex_output:
        return x * y
    if x.is_complex() and y.is_complex():
        return x.real * y.real - x.imag * y.imag
    return _real(x) * _real(y)


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


def solve(
    a: Tensor, x: Tensor, start: Tensor, out: Tensor, forget: Tensor | None, reverse: bool
) -> None:
    """out_n = a_n · out_{n∓1} + x_n from ``start``, towards the future or the past.

    Where ``forget`` (batch, length, 1, 1, 1) is true, out_n = x_n. ``out`` may be ``x``. Takes
    O(RADIX · log_RADIX(length)) tensor operations.
    """
    if solves(a, out):
        solve_(a, x, start, out, forget, reverse)
        return
    length = x.shape[1]
    if length <= RADIX:
        _fill(_steps(a, length, reverse), _steps(x, length, reverse), start,
              _steps(out, length, reverse), _steps(forget, length, reverse))  # fmt: skip
        return
    blocks, rest = divmod(length, RADIX)
    body, tail = slice(0, length - rest), slice(length - rest, length)
    if reverse:
        body, tail = slice(rest, length), slice(0, rest)

    a_steps, x_steps, out_steps, forget_steps = (
        _steps(t, length - rest, reverse, body, blocks) for t in (a, x, out, forget)
    )
    ends = start.new_empty(x.shape[0], blocks + 1, *x.shape[2:])
    if reverse:
        before, after, first, last = ends[:, 1:], ends[:, :-1], ends[:, -1], ends[:, 0]
    else:
        before, after, first, last = ends[:, :-1], ends[:, 1:], ends[:, 0], ends[:, -1]
    first.copy_(start)
    whole_a, whole_x = _reduce(a_steps, x_steps, forget_steps)
    whole_forget = None if forget is None else torch.stack(list(forget_steps)).any(0)
    solve(_kept(whole_a, whole_forget), whole_x, start, after, whole_forget, reverse)
    _fill(a_steps, x_steps, before, out_steps, forget_steps)
    if rest:
        a_steps, x_steps, out_steps, forget_steps = (
            _steps(t, rest, reverse, tail) for t in (a, x, out, forget)
        )
        _fill(a_steps, x_steps, last, out_steps, forget_steps)


def _steps(
    t: Tensor | None,
    length: int,
    reverse: bool,
    where: slice = slice(None),
    blocks: int | None = None,
) -> Sequence[Any]:
    """Views of one step each in the scan's order; of the same step of every block, where cut."""
    if t is None or t.shape[1] == 1:
        single = t if t is None or blocks is not None else t[:, 0]
        return (single,) * (length // (blocks or 1))
    t = t[:, where]
    views = t.unbind(1) if blocks is None else t.unflatten(1, (blocks, -1)).unbind(2)
    return views[::-1] if reverse else views


def _fill(
    a: Sequence[Tensor],
    x: Sequence[Tensor],
    state: Tensor,
    out: Sequence[Tensor],
    forget: Sequence[Tensor | None],
) -> None:
    for a_n, x_n, out_n, forget_n in zip(a, x, out, forget, strict=True):
        state = torch.addcmul(x_n, a_n, _kept(state, forget_n), out=out_n)


def _reduce(
    a: Sequence[Tensor], x: Sequence[Tensor], forget: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """The steps of each block as one step; its a is right only where no step of it forgets."""
    whole_a, whole_x = a[0], x[0]
    for a_n, x_n, forget_n in zip(a[1:], x[1:], forget[1:], strict=True):
        whole_a, whole_x = combine((whole_a, _kept(whole_x, forget_n)), (a_n, x_n))
    return whole_a, whole_x


def _kept(t: Tensor, forget: Tensor | None) -> Tensor:
    """``t`` but for what is forgotten; not a product, which would leave what is not finite."""
    return t if forget is None else t.masked_fill(forget, 0)


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
    """All states at once, then the read-out: memory of length · d_key · d_value."""
    a = transition(log_amplitude, phase)[..., None]
    y_BLH1V, last_BHKV = _Scan.apply(
        q_BLHK[..., None], k_BLHK[..., None], v_BLHV[..., None, :], a, state_BHKV,
        forgotten(reset_BL), complex_output,
    )  # fmt: skip
    return y_BLH1V[:, :, :, 0], last_BHKV


def forgotten(reset_BL: Tensor | None) -> Tensor | None:
    """(batch, length, 1, 1, 1), as ``solve`` takes it."""
    return None if reset_BL is None else reset_BL[..., None, None, None]
