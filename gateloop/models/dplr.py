"""State spaces with a diagonal-plus-low-rank matrix: S4's kernel, its step, its state.

x' = A x + B u, y = 2 Re C x, with A = Λ − P P* and conjugate pairs of which half is kept
(arXiv 2111.00396). The bilinear rule makes it h_n = Ā h_{n−1} + B̄ u_n, where

    Ā = (1 − Δ/2 A)⁻¹ (1 + Δ/2 A),   B̄ = (1 − Δ/2 A)⁻¹ Δ B,
    (1 − Ā ω)⁻¹ B̄ = Δ/(1+ω) · (z − Δ/2 A)⁻¹ B,   z = (1−ω)/(1+ω).

So the transfer function at a node ω is made of Cauchy sums Σ ab/(z − μ), μ = Δ/2 Λ, joined by
Woodbury's identity for the rank-one part, and an inverse FFT turns nodes into the kernel.

The paper takes the nodes on the unit circle, where Σ_n C Ā^n B̄ ω^n stands for all n, and corrects
that to n < L by C̃ = C (1 − Ā^L): an L-th power of an N × N matrix for each channel. Here the nodes
lie on a circle of radius r < 1, as in the numerical inversion of generating functions (Abate and
Whitt 1992): what comes back at n is K_n + r^S K_{n+S} + …, S the number of nodes, with r^S below
the resolution wanted; ‖Ā‖ ≤ 1, so no K_{n+S} is large. That takes the place of every power of Ā, in
the kernel, the last state and what a state adds to later outputs alike.

It needs float64 whatever the model is, for rounding at n grows as r^{−n}. No batch is involved but
in the last state.

Letters of shapes: D channels, M modes (N/2), F nodes, B batch, L length. What is complex128 with an
M axis holds one half of each conjugate pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gateloop.recurrence import kernels
from gateloop.recurrence.kernels import cauchy

BUDGET = 1 << 19  # complex numbers at once in a block of channels: 8 MB, near the cache's size


class System(NamedTuple):
    """A continuous system and its step for each channel: float64 (D,), then complex128 (D, M)."""

    step_D: Tensor
    eigenvalues_DM: Tensor
    p_DM: Tensor
    b_DM: Tensor
    c_DM: Tensor


class Step(NamedTuple):
    """Ā = 1 + diag(change) − left rightᵀ and B̄: the bilinear rule keeps the form.

    For a half state h, rightᵀ h stands for 2 Re Σ right h. Complex (D, M).
    """

    change_DM: Tensor
    left_DM: Tensor
    right_DM: Tensor
    b_DM: Tensor


def bilinear(system: System) -> Step:
    """Ā and B̄, by Woodbury's identity.

    Ā − 1, not Ā: rounded to float32 it errs in proportion to the step, so that slow modes stay
    right over a thousand steps.
    """
    half_D1 = system.step_D[:, None] / 2
    mu_DM = half_D1 * system.eigenvalues_DM
    inverse_DM = 1 / (1 - mu_DM)
    right_DM = system.p_DM.conj() * inverse_DM
    rank_D1 = 1 + half_D1 * _pairs(right_DM * system.p_DM)
    b_DM = system.b_DM - system.p_DM * (half_D1 * _pairs(right_DM * system.b_DM) / rank_D1)
    return Step(
        change_DM=2 * mu_DM * inverse_DM,
        left_DM=2 * half_D1 * system.p_DM * inverse_DM / rank_D1,
        right_DM=right_DM,
        b_DM=2 * half_D1 * inverse_DM * b_DM,
    )


def _pairs(x: Tensor) -> Tensor:
    """Sum over modes and their conjugates, (…, 1)."""
    return 2 * x.real.sum(-1, keepdim=True)


class Nodes(NamedTuple):
    """Where the transfer function is evaluated, and what leads back to time."""

    length: int
    size: int  # of the FFT
    z_F: Tensor
    after_F: Tensor  # 1 / (1 + ω)
    damping_L: Tensor  # r^n
    last_F: Tensor  # x_{L−1} = Re Σ last · values of Σ x_n ωⁿ


def nodes(length: int, multiple: int, device: torch.device) -> Nodes:
    """Half of ω = r e^{−2πik/S}, S = ``multiple`` · ``length``; the other half is conjugate.

    What wraps around is r^S of the kernel, what rounding leaves is ε r^{−L}: ε^{m/(m+1)} both with
    the radius taken here, 1e-8 for a multiple m of 1, 4e-11 for 2, 3e-13 for 4.
    """
    size = multiple * length
    log_r = math.log(torch.finfo(torch.float64).eps) * multiple / (multiple + 1) / size
    k_F = torch.arange(size // 2 + 1, device=device)
    # z = tanh((iθ − log r)/2), so written that the pole near θ = π costs no digits.
    cosine_F = (math.pi / 2 / size * (size - 2 * k_F).double()).sin()
    sine_F = (math.pi / size * k_F.double()).sin()
    z_F = torch.complex(torch.full_like(cosine_F, math.sinh(-log_r) / 2), sine_F * cosine_F) / (
        math.sinh(log_r / 2) ** 2 + cosine_F.square()
    )
    both_F = 2.0 - ((k_F == 0) | (2 * k_F == size)).double()  # a node and its conjugate
    back_F = torch.polar(
        both_F * (math.exp(log_r * (1 - length)) / size),
        2 * math.pi / size * (k_F * (length - 1) % size).double(),
    )
    damping_L = (log_r * torch.arange(length, dtype=torch.float64, device=device)).exp()
    return Nodes(length, size, z_F, (1 + z_F) / 2, damping_L, back_F)


def kernel(system: System, at: Nodes) -> Tensor:
    """K_n = 2 Re C Ā^n B̄ for n below the length, float64 (D, L)."""
    blocks = _blocks(system, at, system.p_DM.shape[1])
    return torch.cat([_remember_inputs_only(_kernel, *part, at) for part in blocks])


def carry(system: System, u_DBL: Tensor, state_DBM: Tensor | None, at: Nodes) -> tuple[Tensor, ...]:
    """The state after the inputs, complex128 (D, B, M), and what ``state`` adds to each output.

    The latter, 2 Re C Ā^{n+1} h, is float64 (D, B, L); it is left out where there is no state.
    """
    width = max(system.p_DM.shape[1], 4 * u_DBL.shape[1])
    parts, first = [], 0
    for part in _blocks(system, at, width):
        some = slice(first, first + len(part.step_D))
        first = some.stop
        state = None if state_DBM is None else state_DBM[some]
        parts.append(_remember_inputs_only(_carry, *part, u_DBL[some], state, at))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _blocks(system: System, at: Nodes, width: int) -> list[System]:
    """The system by blocks of channels with about BUDGET numbers for ``width`` per node each."""
    channels = max(1, BUDGET // (len(at.z_F) * width))
    return [System(*part) for part in zip(*(t.split(channels) for t in system), strict=True)]


def _kernel(
    step_D: Tensor, eigenvalues_DM: Tensor, p_DM: Tensor, b_DM: Tensor, c_DM: Tensor, at: Nodes
) -> Tensor:
    half_D1 = step_D[:, None] / 2
    mu_DM = half_D1 * eigenvalues_DM
    terms = (c_DM * b_DM, c_DM * p_DM, p_DM.conj() * b_DM, p_DM.conj() * p_DM)
    sums_DRF = _cauchy_sums(torch.stack(terms, 1), mu_DM, _resolvent(mu_DM, at), at)
    cb_DF, cp_DF, pb_DF, pp_DF = sums_DRF.unbind(1)
    transfer_DF = cb_DF - half_D1 * cp_DF * pb_DF / (1 + half_D1 * pp_DF)
    return _in_time(2 * half_D1 * at.after_F * transfer_DF, at)


def _carry(
    step_D: Tensor,
    eigenvalues_DM: Tensor,
    p_DM: Tensor,
    b_DM: Tensor,
    c_DM: Tensor,
    u_DBL: Tensor,
    state_DBM: Tensor | None,
    at: Nodes,
) -> tuple[Tensor, ...]:
    """The generating function of the states, ((1+ω)(z − Δ/2 A))⁻¹ (Δ B û + (1 + Δ/2 A) h).

    Of it the coefficient of ω^{L−1} is wanted, and its product with C at every n.
    """
    half_D1 = step_D[:, None] / 2
    half_D11 = half_D1[..., None]
    mu_DM = half_D1 * eigenvalues_DM
    mu_D1M, p_D1M, b_D1M, c_D1M = (t[:, None] for t in (mu_DM, p_DM, b_DM, c_DM))
    resolvent = _resolvent(mu_DM, at)
    weight_F = at.last_F * at.after_F

    def sums(terms_DRM: Tensor) -> Tensor:
        return _cauchy_sums(terms_DRM, mu_DM, resolvent, at)

    def last(x_DRF: Tensor, b_DRM: Tensor) -> Tensor:
        """Σ_F (z − μ)⁻¹ b x over the nodes and their conjugates."""
        z, one = resolvent.reduce(torch.cat([at.z_F * x_DRF, x_DRF], 1)).chunk(2, 1)
        return b_DRM * z - b_DRM * mu_D1M.conj() * one

    rank_D1F = half_D11 / (1 + half_D11 * sums(p_D1M.conj() * p_D1M))
    input_DBF = torch.fft.rfft(u_DBL.double() * at.damping_L, n=at.size)
    input_DBF = 2 * half_D11 * weight_F * input_DBF
    low_DBF = rank_D1F * sums(p_D1M.conj() * b_D1M) * input_DBF
    if state_DBM is None:
        return (last(input_DBF, b_D1M) - last(low_DBF, p_D1M),)

    pushed_DBM = state_DBM + mu_D1M * state_DBM
    pushed_DBM = pushed_DBM - half_D11 * p_D1M * _pairs(p_D1M.conj() * state_DBM)
    low_of_state_DBF = rank_D1F * sums(p_D1M.conj() * pushed_DBM)
    response_DBF = sums(c_D1M * pushed_DBM) - sums(c_D1M * p_D1M) * low_of_state_DBF
    low_DBF = low_DBF + weight_F * low_of_state_DBF
    last_DBM = last(input_DBF, b_D1M) - last(low_DBF, p_D1M)
    last_DBM = last_DBM + last(weight_F.expand(len(step_D), 1, -1), pushed_DBM)
    return last_DBM, _in_time(at.after_F * response_DBF, at)


class _Resolvent:
    """R = 1 / ((z − μ)(z − μ̄)), what a mode and its conjugate share, (D, M, F)."""

    def __init__(self, mu_DM: Tensor, at: Nodes) -> None:
        mu_DM1 = mu_DM[..., None]
        both_DMF = (at.z_F - mu_DM1) * (at.z_F - mu_DM1.conj())
        self.flat = torch.view_as_real(both_DMF.reciprocal()).flatten(-2)

    def expand(self, x_DRM: Tensor) -> Tensor:
        """Σ_M x R of real rows, (D, R, F)."""
        return torch.view_as_complex((x_DRM @ self.flat).unflatten(-1, (-1, 2)))

    def reduce(self, y_DRF: Tensor) -> Tensor:
        """Re Σ_F y R, (D, R, M)."""
        y = torch.view_as_real(y_DRF.conj().resolve_conj()).flatten(-2)
        return y @ self.flat.mT


class _ResolventInKernels:
    """The same, its numbers never in memory."""

    def __init__(self, mu_DM: Tensor, at: Nodes) -> None:
        self.poles = mu_DM.real, mu_DM.imag, at.z_F

    def expand(self, x_DRM: Tensor) -> Tensor:
        return cauchy.expand(x_DRM, *self.poles)

    def reduce(self, y_DRF: Tensor) -> Tensor:
        return cauchy.reduce(y_DRF, *self.poles)


def _resolvent(mu_DM: Tensor, at: Nodes) -> _Resolvent | _ResolventInKernels:
    fused = kernels.available(mu_DM.device.type, mu_DM.real.dtype)
    return _ResolventInKernels(mu_DM, at) if fused else _Resolvent(mu_DM, at)


def _cauchy_sums(
    terms_DRM: Tensor, mu_DM: Tensor, resolvent: _Resolvent | _ResolventInKernels, at: Nodes
) -> Tensor:
    """Σ v/(z − μ) + v̄/(z − μ̄) for rows v, (D, R, F).

    A pair's sum is (2 Re v z − 2 Re v μ̄) · resolvent with real factors.
    """
    constant_DRM = (terms_DRM * mu_DM[:, None].conj()).real
    rows_DRM = torch.cat([terms_DRM.real, constant_DRM], 1) * 2
    linear_DRF, constant_DRF = resolvent.expand(rows_DRM).chunk(2, 1)
    return linear_DRF * at.z_F - constant_DRF


def _in_time(transfer: Tensor, at: Nodes) -> Tensor:
    """From values at the nodes to the sequence, (…, L)."""
    return torch.fft.irfft(transfer, n=at.size)[..., : at.length] / at.damping_L


def _remember_inputs_only(function: Callable[..., Any], *arguments: Any) -> Any:
    """Its blocks of nodes and modes are made again in the backward pass, not kept."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
