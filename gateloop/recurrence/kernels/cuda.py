"""Whether the Triton kernels can be trusted on this GPU: they are run there once, and compared."""

from __future__ import annotations

import os
import sys
from functools import cache

import torch
from torch import Tensor

TOLERANCE = 1e-4  # relative to the largest; the tests hold them to 1e-5
BATCH, LENGTH = 2, 150  # chunks enough to be shared out over time

# heads, d_key and d_value; whether a turns; whether a head's keys share |a|
PROBLEMS = {
    "gate_loop": ((40, 1, 1, True, False),),
    "outer_product": ((2, 24, 40, True, False), (2, 24, 40, True, True), (2, 24, 40, False, True)),
}


@cache
def available(kind: str) -> bool:
    """Whether a kind of kernel, "gate_loop" or "outer_product", gives here what a step loop gives.

    False, said once, where Triton is missing or fails; GATELOOP_KERNELS=off leaves them out.
    """
    if os.environ.get("GATELOOP_KERNELS") == "off" or not torch.cuda.is_available():
        return False
    try:
        why = disagreement(kind, torch.device("cuda"))
    except Exception as error:  # whatever a compiler or a driver may say
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if why:
        print(
            f"gateloop: no Triton kernel for {kind} ({why}); the recurrence runs in PyTorch, "
            "which is slower",
            file=sys.stderr,
        )
    return not why


def disagreement(kind: str, device: torch.device) -> str:
    """What the operator gets wrong on small problems, forward or backward; "" for nothing."""
    return next(filter(None, (_disagreement(device, *problem) for problem in PROBLEMS[kind])), "")


def _disagreement(
    device: torch.device, heads: int, d_key: int, d_value: int, turns: bool, shared: bool
) -> str:
    from gateloop.recurrence.kernels import fused  # which asks this module

    noise = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=noise)

    keys = (BATCH, LENGTH, heads, d_key)
    q, k, beta = (normal(*keys) for _ in range(3))
    v, weight = (normal(BATCH, LENGTH, heads, d_value) for _ in range(2))
    given = {"q": q, "k": k, "v": v, "alpha": normal(*keys[:3], 1 if shared else d_key)}
    state = normal(BATCH, heads, d_key, d_value)
    if turns:
        given["beta"], state = beta, torch.complex(state, normal(*state.shape))
    given["state"] = state

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, state: Tensor, beta: Tensor | None = None
    ) -> Tensor:
        return fused(
            q, k, v, alpha, beta, state, None, is_complex=turns, logits=True, growth=False
        )[0]

    def results(given: dict[str, Tensor], run) -> list[Tensor]:  # type: ignore[no-untyped-def]
        given = {name: t.requires_grad_() for name, t in given.items()}
        y = run(**given)
        gradients = torch.autograd.grad(y, list(given.values()), weight.to(y))
        return [t.detach().cpu() for t in (y, *gradients)]

    found = results({name: t.to(device) for name, t in given.items()}, kernel)
    wide = {n: t.to(torch.complex128) if t.is_complex() else t.double() for n, t in given.items()}
    names = ("y", *(f"its gradient by {name}" for name in given))
    for name, ours, exact in zip(names, found, results(wide, step_loop), strict=True):
        error = ((ours - exact).abs().max() / exact.abs().max()).item()
        if not error < TOLERANCE:
            return f"{name} is off by {error:.0e} on this GPU"
    return ""


def step_loop(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, state: Tensor, beta: Tensor | None = None
) -> Tensor:
    """The recurrence as it is written."""
    size = torch.sigmoid(alpha)
    a_BLHK = size if beta is None else torch.polar(size.expand_as(beta), beta)
    outputs = []
    for n in range(v.shape[1]):
        state = a_BLHK[:, n, :, :, None] * state + k[:, n, :, :, None] * v[:, n, :, None]
        outputs.append((q[:, n, :, :, None] * state.real).sum(2))
    return torch.stack(outputs, dim=1)
