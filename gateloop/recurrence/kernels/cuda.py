"""Whether the Triton kernels can be trusted on this GPU: they are run there once, and compared."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from gateloop.recurrence.kernels import operators

TOLERANCE = 1e-4  # relative to the largest; the tests hold them to 1e-5
ROUNDED = 1e-2  # of results in 16 bits
# A program has all keys of a head: of more, 16 values take more shared memory than there is.
MOST_KEYS = 256
BATCH, LENGTH = 2, 150  # chunks enough to be shared out over time

# heads, d_key and d_value; whether a turns; whether a head's keys share |a|; the dtype of q, k, v
PROBLEMS = {
    "gate_loop": (
        (40, 1, 1, True, False, torch.float32),
        (40, 1, 1, True, False, torch.bfloat16),
    ),
    "outer_product": (
        (2, 24, 40, True, False, torch.float32),
        (2, 24, 40, True, True, torch.bfloat16),
        (2, 24, 40, False, True, torch.float32),
    ),
}


@cache
def available(kind: str) -> bool:
    """Whether a kind of kernel gives on this GPU what a step loop gives.

    The kinds are "gate_loop", "outer_product" and "linear_scan". False, said once, where Triton is
    missing or fails; GATELOOP_KERNELS=off leaves them out.
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
    from gateloop.recurrence.kernels import reads_16_bits  # which asks this module

    # whatever the first use stands in
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        if kind == "linear_scan":
            return _linear_scan_disagreement(device)
        low = reads_16_bits(torch.empty(0, device=device))
        problems = (each for each in PROBLEMS[kind] if low or each[-1] == torch.float32)
        wrong = (_disagreement(device, *problem) for problem in problems)
        return next(filter(None, wrong), "")


def _linear_scan_disagreement(device: torch.device) -> str:
    noise = torch.Generator().manual_seed(0)
    a, x, weight = (
        torch.randn(BATCH, LENGTH, 40, generator=noise, dtype=torch.complex64) for _ in range(3)
    )
    a, start = a / (1 + a.abs()), x[:, 0] + x[:, 1]
    h, back = torch.empty_like(x, device=device), weight.to(device, copy=True)
    operators.linear_scan_(a.to(device), x.to(device), start.to(device), None, h, False)
    after = torch.zeros_like(start)
    operators.linear_scan_(a.to(device).conj(), back, after.to(device), None, back, True)
    gradients = operators.linear_scan_backward(
        weight.to(device), a.to(device), h, start.to(device), None
    )
    leaves = [t.to(torch.complex128).requires_grad_() for t in (a, x, start)]
    exact = _states(*leaves)
    mirrored = _states(a.conj().flip(1).to(exact), weight.flip(1).to(exact), after.to(exact))
    return _difference(
        ("h", "h from the end", *(f"h's gradient by {name}" for name in ("a", "x", "start"))),
        (h, back, *gradients),
        (exact, mirrored.flip(1), *torch.autograd.grad(exact, leaves, weight.to(exact))),
    )


def _states(a_BLC: Tensor, x_BLC: Tensor, h_BC: Tensor) -> Tensor:
    states = []
    for n in range(x_BLC.shape[1]):
        h_BC = a_BLC[:, n] * h_BC + x_BLC[:, n]
        states.append(h_BC)
    return torch.stack(states, dim=1)


def _difference(names: Iterable[str], found: Iterable[Tensor], expected: Iterable[Tensor]) -> str:
    """The first that is wrong, in words; "" where none is."""
    for name, ours, exact in zip(names, found, expected, strict=True):
        error = ((ours.cpu() - exact).abs().max() / exact.abs().max()).item()
        if not error < (ROUNDED if ours.dtype == torch.bfloat16 else TOLERANCE):
            return f"{name} is off by {error:.0e} on this GPU"
    return ""


def _disagreement(
    device: torch.device,
    heads: int,
    d_key: int,
    d_value: int,
    turns: bool,
    shared: bool,
    dtype: torch.dtype,
) -> str:
    from gateloop.recurrence.kernels import fused  # which asks this module

    noise = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=noise, dtype=torch.float32)

    keys = (BATCH, LENGTH, heads, d_key)
    q, k, beta = (normal(*keys) for _ in range(3))
    v, weight = (normal(BATCH, LENGTH, heads, d_value) for _ in range(2))
    given = {
        "q": q.to(dtype),
        "k": k.to(dtype),
        "v": v.to(dtype),
        "alpha": normal(*keys[:3], 1 if shared else d_key),
    }
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
        return [t.detach() for t in (y, *gradients)]

    weight = weight.to(dtype)
    found = results({name: t.to(device) for name, t in given.items()}, kernel)
    wide = {n: t.to(torch.complex128) if t.is_complex() else t.double() for n, t in given.items()}
    names = ("y", *(f"its gradient by {name}" for name in given))
    return _difference(names, found, results(wide, step_loop))


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
