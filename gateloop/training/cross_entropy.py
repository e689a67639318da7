"""Cross-entropy of a linear read-out, in chunks of positions: its logits are never held whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.data import IGNORE
from gateloop.recurrence.derivative import first_only

BUDGET = 1 << 22  # logits at once, where a weight with as many elements is not larger still


def token_losses(head: nn.Linear, x_BLD: Tensor, targets_BL: Tensor) -> Tensor:
    """``linear_cross_entropy`` of what ``head`` reads: (batch, length) losses."""
    losses_N = linear_cross_entropy(
        x_BLD.flatten(0, 1), head.weight, head.bias, targets_BL.flatten()
    )
    return losses_N.view_as(targets_BL)


def linear_cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor
) -> Tensor:
    """Negative log-likelihood (N,) in nats of targets (N,) int64 under softmax(x Wᵀ + b).

    float32, or float64 where x is; 0 where the target is IGNORE. Under autocast the product is in
    autocast's dtype, the softmax in float32. Of more positions than one chunk, the gradients by x,
    weight and bias are made in the same pass, as if all losses were summed; where they are weighted
    otherwise, backward makes a second pass. Raises IndexError or RuntimeError where a target is no
    class.
    """
    operands = cast(x_ND, weight_VD, bias_V)
    if len(x_ND) <= chunk(weight_VD):
        return negative_log_likelihood(log_softmax(linear(*operands)), targets_N)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands):
        losses_N: Tensor = _Losses.apply(*operands, targets_N)
        return losses_N
    return losses_and_hits(*operands, targets_N)[0]


@torch.no_grad()
def losses_and_hits(
    x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor
) -> tuple[Tensor, Tensor]:
    """The losses of ``linear_cross_entropy``, and (N,) bool: is the target the likeliest class?"""
    x_ND, weight_VD, bias_V = cast(x_ND, weight_VD, bias_V)
    losses, hits = [x_ND.new_zeros(0, dtype=wide(x_ND))], [targets_N.new_zeros(0, dtype=torch.bool)]
    for part in chunks(len(x_ND), weight_VD):
        logits_CV = linear(x_ND[part], weight_VD, bias_V)
        losses.append(negative_log_likelihood(log_softmax(logits_CV), targets_N[part]))
        hits.append(logits_CV.argmax(-1) == targets_N[part])
    return torch.cat(losses), torch.cat(hits)


def cast(
    x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As autocast casts a linear layer; outside the pass, so that autograd casts gradients back."""
    device = x_ND.device.type
    if not torch.is_autocast_enabled(device) or x_ND.dtype == torch.float64:
        return x_ND, weight_VD, bias_V
    dtype = torch.get_autocast_dtype(device)
    return x_ND.to(dtype), weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)


def wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def chunk(weight_VD: Tensor) -> int:
    """Positions at once. With fewer, adding to the weight's gradient would outweigh making it."""
    classes, width = weight_VD.shape
    return max(width, BUDGET // classes)


def chunks(positions: int, weight_VD: Tensor) -> Iterator[slice]:
    size = chunk(weight_VD)
    return (slice(first, first + size) for first in range(0, positions, size))


def linear(x_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    with torch.autocast(x_CD.device.type, enabled=False):
        return F.linear(x_CD, weight_VD, bias_V)


def log_softmax(logits_CV: Tensor) -> Tensor:
    return logits_CV.log_softmax(-1, dtype=wide(logits_CV))


def negative_log_likelihood(log_p_CV: Tensor, targets_C: Tensor) -> Tensor:
    return F.nll_loss(log_p_CV, targets_C, ignore_index=IGNORE, reduction="none")


def losses_and_gradients(
    x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, factor_N: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Losses (N,), and the gradients of Σ factor · loss by x, weight and bias."""
    dtype = wide(x_ND)
    losses_N = x_ND.new_empty(len(x_ND), dtype=dtype)
    by_x_ND = torch.empty_like(x_ND)
    by_weight_VD = torch.zeros_like(weight_VD, dtype=dtype)
    by_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=dtype)
    # Ignored targets and factors act on x, which is narrow, in place of the slopes, which are wide.
    factor_N = factor_N.to(x_ND.dtype).masked_fill(targets_N == IGNORE, 0)
    for part in chunks(len(x_ND), weight_VD):
        x_CD, targets_C, factor_C = x_ND[part], targets_N[part], factor_N[part]
        log_p_CV = log_softmax(linear(x_CD, weight_VD, bias_V))
        losses_N[part] = negative_log_likelihood(log_p_CV, targets_C)
        slope_CV = log_p_CV.exp_()
        slope_CV.scatter_add_(
            1, targets_C.clamp_min(0)[:, None], slope_CV.new_full((len(x_CD), 1), -1)
        )
        slope_CV = slope_CV.to(x_ND.dtype)
        torch.mul(slope_CV @ weight_VD, factor_C[:, None], out=by_x_ND[part])
        factored_CD = x_CD * factor_C[:, None]
        if dtype == x_ND.dtype:
            by_weight_VD.addmm_(slope_CV.t(), factored_CD)
        else:
            by_weight_VD += slope_CV.t() @ factored_CD
        if by_bias_V is not None:
            by_bias_V += factor_C @ slope_CV
    return losses_N, by_x_ND, by_weight_VD, by_bias_V


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor
    ) -> Tensor:
        ones_N = x_ND.new_ones(len(x_ND))
        losses_N, *gradients = losses_and_gradients(x_ND, weight_VD, bias_V, targets_N, ones_N)
        ctx.save_for_backward(x_ND, weight_VD, bias_V, targets_N, *gradients)
        return losses_N

    @staticmethod
    @first_only("take torch.nn.functional.cross_entropy of the logits")
    def backward(ctx: Any, factor_N: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_VD, bias_V, targets_N, *gradients = ctx.saved_tensors
        factor = factor_N[0]
        if factor_N.stride() == (0,) or bool((factor_N == factor).all()):  # of a sum, of a mean
            by_x, by_weight, by_bias = (None if g is None else g * factor for g in gradients)
        else:
            _, by_x, by_weight, by_bias = losses_and_gradients(
                x_ND, weight_VD, bias_V, targets_N, factor_N
            )
        return by_x, by_weight, by_bias, None
