"""Whether the Triton kernels can be trusted on this GPU: they are run there once, and compared."""

from __future__ import annotations

import os
import sys
from functools import cache

import torch
from torch import Tensor

from gateloop.recurrence.kernels import operators

TOLERANCE = 1e-4  # relative to the largest; the tests hold them to 1e-5


@cache
def available() -> bool:
    """Whether the element-wise kernels give on this GPU what a step loop gives.

    False, said once, where Triton is missing or fails; GATELOOP_KERNELS=off leaves them out.
    """
    if os.environ.get("GATELOOP_KERNELS") == "off" or not torch.cuda.is_available():
        return False
    try:
        why = disagreement(torch.device("cuda"))
    except Exception as error:  # whatever a compiler or a driver may say
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if why:
        print(
            f"gateloop: no Triton kernels ({why}); the recurrence runs in PyTorch, which is slower",
            file=sys.stderr,
        )
    return not why


def disagreement(device: torch.device) -> str:
    """What the operator gets wrong on a small problem, forward or backward; "" for nothing."""
    noise = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 70, 40, generator=noise) for _ in range(5)]
    state = torch.randn(2, 2, 40, generator=noise)
    weight = torch.randn(2, 70, 40, generator=noise)

    def results(given: list[Tensor], of: torch.device, loop: bool) -> list[Tensor]:
        tensors = [t.to(of).requires_grad_() for t in given]
        q, k, v, alpha, beta, before = tensors
        if loop:
            y = step_loop(*tensors)
        else:
            y = operators.gate_loop(q, k, v, alpha, beta, before, None, True, False)[0]
        return [y.detach(), *torch.autograd.grad(y, tensors, weight.to(y))]

    found = results([*inputs, state], device, loop=False)
    wide = [t.double() for t in (*inputs, state)]
    for name, ours, exact in zip(
        ("y", *(f"its gradient by {name}" for name in ("q", "k", "v", "alpha", "beta", "state"))),
        found,
        results(wide, torch.device("cpu"), loop=True),
        strict=True,
    ):
        error = ((ours.cpu() - exact).abs().max() / exact.abs().max()).item()
        if not error < TOLERANCE:
            return f"{name} is off by {error:.0e} on this GPU"
    return ""


def step_loop(
    q_BLC: Tensor, k_BLC: Tensor, v_BLC: Tensor, alpha: Tensor, beta: Tensor, state_BPC: Tensor
) -> Tensor:
    a_BLC = torch.polar(torch.sigmoid(alpha), beta)
    h_BC = torch.complex(*state_BPC.unbind(1))
    outputs = []
    for n in range(v_BLC.shape[1]):
        h_BC = a_BLC[:, n] * h_BC + k_BLC[:, n] * v_BLC[:, n]
        outputs.append(q_BLC[:, n] * h_BC.real)
    return torch.stack(outputs, dim=1)
