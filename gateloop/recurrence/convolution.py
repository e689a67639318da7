"""Mode ``convolution``: one kernel for the whole sequence, by FFT, in O(l log l).

Where a, q and k are constant, y is the causal convolution of v with κ_l = Σ_K q a^l k. A power
a^l, l = i + R·j, is the product of a^i and a^{Rj}, so two tables of √l powers each make the kernel,
what a given state adds, and the state after the last step, all as matrix products; no power is
written out by step. The tables' exponents are multiplied out and wrapped in float64.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gateloop.recurrence.derivative import OTHER_MODES, first_only
from gateloop.recurrence.transition import transition


def convolution(
    q_11HK: Tensor,
    k_11HK: Tensor,
    v_BLHV: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    state_BHKV: Tensor | None,
    reset_BL: None,
    complex_output: bool,
) -> tuple[Tensor, Tensor]:
    """Read-out and final state. ``phase`` may be bool; a state of None is zero, at no cost."""
    length = v_BLHV.shape[1]
    rows = math.isqrt(length - 1) + 1  # √l, rounded up
    blocks = -(-length // rows)
    real = v_BLHV.real.dtype if v_BLHV.is_complex() else v_BLHV.dtype
    q_HK, k_HK = q_11HK[0, 0], k_11HK[0, 0]
    v_HBVL = v_BLHV.permute(2, 0, 3, 1)
    only_real = not complex_output and not v_BLHV.is_complex()

    row = torch.arange(rows + 1, device=v_BLHV.device)
    within_HKR = _powers(log_amplitude, phase, row, real).expand(*q_HK.shape, -1)
    whole_HKJ = _powers(log_amplitude, phase, rows * row[:blocks], real).expand(*q_HK.shape, -1)

    kernel_HJR = _product(
        whole_HKJ.mT, (q_HK * k_HK)[..., None] * within_HKR[..., :rows], only_real
    )
    kernel_HL = kernel_HJR.flatten(1)[:, :length]
    y_HBVL = _CausalConvolution.apply(kernel_HL[:, None, None], v_HBVL)

    last_HBVK = k_HK[:, None, None] * _weighed_sum(v_HBVL, within_HKR[..., :rows], whole_HKJ)
    last_BHKV = last_HBVK.permute(1, 0, 3, 2)
    if state_BHKV is not None:
        steps = torch.tensor([length], device=v_BLHV.device)
        last_BHKV = last_BHKV + _powers(log_amplitude, phase, steps, real) * state_BHKV
        state_HBVK = state_BHKV.permute(1, 0, 3, 2)
        start_HBVJK = whole_HKJ.mT[:, None, None] * state_HBVK[..., None, :]
        read_HKR = q_HK[..., None] * within_HKR[..., 1:]
        y_HNR = _product(start_HBVJK.flatten(1, 3), read_HKR, only_real)
        y_HBVL = y_HBVL + y_HNR.reshape(*y_HBVL.shape[:3], -1)[..., :length]
    y_BLHV = y_HBVL.permute(1, 3, 0, 2)
    return y_BLHV.real if y_BLHV.is_complex() and not complex_output else y_BLHV, last_BHKV


def _powers(
    log_amplitude: Tensor, phase: Tensor | None, exponents: Tensor, real: torch.dtype
) -> Tensor:
    """a^n for every exponent n, (heads, keys, exponents)."""
    decay = (log_amplitude[0, 0, :, :, None].double() * exponents).to(real)
    if phase is None:
        return transition(decay, None)
    if phase.dtype == torch.bool:
        odd = phase[0, 0, :, :, None] & (exponents % 2 == 1)
        amplitude = transition(decay, None)
        return torch.where(odd, -amplitude, amplitude)
    # Modulo a full turn while still in float64, so that float32 holds it exactly enough.
    turn = (phase[0, 0, :, :, None].double() * exponents).remainder(2 * math.pi).to(real)
    return transition(decay, turn)


def _weighed_sum(v_HBVL: Tensor, within_HKR: Tensor, whole_HKJ: Tensor) -> Tensor:
    """Σ_l a^{length−1−l} v_l, (heads, batch, values, keys)."""
    rows, blocks = within_HKR.shape[2], whole_HKJ.shape[2]
    v_HBVL = pad(v_HBVL, (rows * blocks - v_HBVL.shape[3], 0))
    v_HNR = v_HBVL.reshape(v_HBVL.shape[0], -1, rows)
    by_block_HNK = _product(v_HNR, within_HKR.flip(2).mT)
    by_block_HBVJK = by_block_HNK.reshape(*v_HBVL.shape[:3], blocks, -1)
    return (by_block_HBVJK * whole_HKJ.flip(2).mT[:, None, None]).sum(3)


def _product(x: Tensor, y: Tensor, only_real: bool = False) -> Tensor:
    """The matrix product, or its real part, without work for imaginary parts that are zero."""
    if x.is_complex() and y.is_complex():
        return x.real @ y.real - x.imag @ y.imag if only_real else x @ y
    if only_real:
        return _real(x) @ _real(y)
    if x.is_complex():
        return torch.complex(x.real @ y, x.imag @ y)
    if y.is_complex():
        return torch.complex(x @ y.real, x @ y.imag)
    return x @ y


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x


class _CausalConvolution(torch.autograd.Function):
    """y_n = Σ_{m ≤ n} κ_{n−m} v_m along the last axis; kernel (heads, 1, 1, length).

    rfft's own backward pass is a complex FFT of the full length; this one uses real FFTs again.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, v: Tensor) -> Tensor:
        length = v.shape[-1]
        size = _fast_length(2 * length)
        ctx.kinds = kernel.is_complex(), v.is_complex()
        there, back = _transforms(any(ctx.kinds))
        kernel_f, v_f = there(kernel, size), there(v, size)
        ctx.save_for_backward(kernel_f, v_f)
        ctx.sizes = length, size
        # no view, which whoever has the result could not change in place
        return back(kernel_f * v_f, size)[..., :length].clone()

    @staticmethod
    @first_only(OTHER_MODES)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        kernel_f, v_f = ctx.saved_tensors
        length, size = ctx.sizes
        there, back = _transforms(any(ctx.kinds))
        grad_f = there(grad, size)
        grad_kernel = grad_v = None
        if ctx.needs_input_grad[0]:
            of_kernel = (grad_f * v_f.conj()).sum((1, 2), keepdim=True)
            grad_kernel = back(of_kernel, size)[..., :length]
            grad_kernel = grad_kernel if ctx.kinds[0] else _real(grad_kernel)
        if ctx.needs_input_grad[1]:
            grad_v = back(grad_f * kernel_f.conj(), size)[..., :length]
            grad_v = grad_v if ctx.kinds[1] else _real(grad_v)
        return grad_kernel, grad_v


def _transforms(is_complex: bool) -> tuple[Any, Any]:
    if is_complex:
        return torch.fft.fft, torch.fft.ifft
    return torch.fft.rfft, torch.fft.irfft


def _fast_length(least: int) -> int:
    """The smallest m·2^n from ``least`` on, m in 1, 3, 5: FFTs of large primes are slow."""
    return min(m << max(0, (-(-least // m) - 1).bit_length()) for m in (1, 3, 5))
