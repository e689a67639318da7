"""Sums over pairs of poles, S4's kernel, as operators of torch: for the CPU, in float64."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from gateloop.recurrence.kernels.compiler import library


class Sizes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("channels", "rows", "modes", "nodes")),
        ("threads", ctypes.c_int),
    )


def _call(name: str, rows: int, a_DM: Tensor, z_F: Tensor, *arrays: Tensor | None) -> None:
    kernels = library(torch.float64)
    assert kernels is not None
    sizes = Sizes(a_DM.shape[0], rows, a_DM.shape[1], len(z_F), torch.get_num_threads())
    pointers = (ctypes.c_void_p(None if t is None else t.data_ptr()) for t in arrays)
    getattr(kernels, name)(ctypes.byref(sizes), *pointers)


def _plain(*arrays: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.resolve_conj().contiguous() for t in arrays)


@torch.library.custom_op("gateloop::cauchy_expand", mutates_args=(), device_types="cpu")
def expand(x_DRM: Tensor, a_DM: Tensor, b_DM: Tensor, z_F: Tensor) -> Tensor:
    """Σ_m x R, R = 1 / ((z − μ)(z − μ̄)), μ = a + ib: (D, R, F) complex128 of float64 x, a and b.

    z (F,) is complex128, no pole, and has no gradient.
    """
    x_DRM, a_DM, b_DM, z_F = _plain(x_DRM, a_DM, b_DM, z_F)
    y_DRF = z_F.new_empty(*x_DRM.shape[:2], len(z_F))
    _call("cauchy_expand", x_DRM.shape[1], a_DM, z_F, x_DRM, a_DM, b_DM, z_F, y_DRF)
    return y_DRF


@expand.register_fake
def _(x_DRM, a_DM, b_DM, z_F):  # type: ignore[no-untyped-def]
    return z_F.new_empty(*x_DRM.shape[:2], z_F.shape[0])


@torch.library.custom_op("gateloop::cauchy_reduce", mutates_args=(), device_types="cpu")
def reduce(y_DRF: Tensor, a_DM: Tensor, b_DM: Tensor, z_F: Tensor) -> Tensor:
    """Re Σ_f y R, (D, R, M) float64 of complex128 y: with R as in ``expand``."""
    y_DRF, a_DM, b_DM, z_F = _plain(y_DRF, a_DM, b_DM, z_F)
    x_DRM = a_DM.new_empty(*y_DRF.shape[:2], a_DM.shape[1])
    none = (None, None)
    _call("cauchy_reduce", y_DRF.shape[1], a_DM, z_F, y_DRF, None, a_DM, b_DM, z_F, x_DRM, *none)
    return x_DRM


@reduce.register_fake
def _(y_DRF, a_DM, b_DM, z_F):  # type: ignore[no-untyped-def]
    return a_DM.new_empty(*y_DRF.shape[:2], a_DM.shape[1])


@torch.library.custom_op("gateloop::cauchy_gradients", mutates_args=(), device_types="cpu")
def gradients(
    x_DRM: Tensor, y_DRF: Tensor, a_DM: Tensor, b_DM: Tensor, z_F: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of Re Σ x y R by x, a and b."""
    x_DRM, y_DRF, a_DM, b_DM, z_F = _plain(x_DRM, y_DRF, a_DM, b_DM, z_F)
    by_x, by_a, by_b = torch.empty_like(x_DRM), torch.zeros_like(a_DM), torch.zeros_like(b_DM)
    arrays = (y_DRF, x_DRM, a_DM, b_DM, z_F, by_x, by_a, by_b)
    _call("cauchy_reduce", x_DRM.shape[1], a_DM, z_F, *arrays)
    return by_x, by_a, by_b


@gradients.register_fake
def _(x_DRM, y_DRF, a_DM, b_DM, z_F):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (x_DRM, a_DM, b_DM))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _expand_backward(ctx: Any, grad_DRF: Tensor) -> tuple[Tensor | None, ...]:
    x_DRM, *poles = ctx.saved_tensors
    return *gradients(x_DRM, grad_DRF.conj().resolve_conj(), *poles), None


def _reduce_backward(ctx: Any, grad_DRM: Tensor) -> tuple[Tensor | None, ...]:
    y_DRF, *poles = ctx.saved_tensors
    _, by_a, by_b = gradients(grad_DRM, y_DRF, *poles)
    return expand(grad_DRM, *poles).conj().resolve_conj(), by_a, by_b, None


expand.register_autograd(_expand_backward, setup_context=_keep)
reduce.register_autograd(_reduce_backward, setup_context=_keep)
