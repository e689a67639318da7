"""The inputs of a recurrence, the bytes it must move, and a contestant's two calls on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gateloop.benchmark.clock import Run

GATES = 3.0  # mean of the amplitudes' logits: most of them near one, as trained gates are


@dataclass(frozen=True)
class Problem:
    """``inputs``: leaves that want gradients. ``gradient``: of the loss by the result.

    max_headed: q, k, v, alpha, beta (batch, length, channels). linear_scan: a, x (batch, length,
    channels), complex. outer: q, k, alpha, beta (batch, length, heads, d_key), v (…, d_value).
    """

    inputs: tuple[Tensor, ...]
    gradient: Tensor
    saved: int  # bytes that the backward pass reads besides ``gradient``

    @property
    def forward_bytes(self) -> int:
        """Every input read once, the result written once."""
        return sum(map(_bytes, self.inputs)) + _bytes(self.gradient)

    @property
    def backward_bytes(self) -> int:
        """What it needs of the forward pass and the result's gradient read once, and the gradient
        of every input written once."""
        return self.saved + _bytes(self.gradient) + sum(map(_bytes, self.inputs))

    def to(self, real: torch.dtype) -> Problem:
        """The same numbers, in another precision."""

        def moved(t: Tensor) -> Tensor:
            dtype = real.to_complex() if t.is_complex() else real
            return t.detach().to(dtype).requires_grad_(t.requires_grad)

        return Problem(tuple(map(moved, self.inputs)), moved(self.gradient), self.saved)


class Calls(NamedTuple):
    """``forward``: without gradients. ``both``: forward and backward; gives the result and the
    gradient of every input, as torch tensors or as arrays that torch can take."""

    forward: Run
    both: Callable[[], list[Tensor]]


def problem(kind: str, sizes: dict[str, int], device: str, dtype: str = "float32") -> Problem:
    """``dtype`` is that of q, k, v and the result of max_headed; gates are float32 always."""
    made = {"linear_scan": _linear_scan, "outer": _outer}.get(kind, _max_headed)
    return made(sizes, torch.device(device), getattr(torch, dtype))


def _max_headed(sizes: dict[str, int], device: torch.device, dtype: torch.dtype) -> Problem:
    shape = (sizes["batch"], sizes["length"], sizes["channels"])
    q, k, v, gradient = (torch.randn(shape, device=device, dtype=dtype) for _ in range(4))
    alpha, beta = torch.randn(shape, device=device) + GATES, torch.randn(shape, device=device)
    return _problem((q, k, v, alpha, beta), gradient)


def _linear_scan(sizes: dict[str, int], device: torch.device, dtype: torch.dtype) -> Problem:
    shape = (sizes["batch"], sizes["length"], sizes["channels"])
    amplitude = (torch.randn(shape, device=device) + GATES).sigmoid()
    a = torch.polar(amplitude, torch.randn(shape, device=device))
    x, gradient = (torch.randn(shape, device=device, dtype=torch.complex64) for _ in range(2))
    # x itself is not needed for the gradients, the states are: as many bytes
    return _problem((a, x), gradient)


def _outer(sizes: dict[str, int], device: torch.device, dtype: torch.dtype) -> Problem:
    shape = (sizes["batch"], sizes["length"], sizes["heads"])
    q, k, alpha, beta = (torch.randn(*shape, sizes["d_key"], device=device) for _ in range(4))
    v, gradient = (torch.randn(*shape, sizes["d_value"], device=device) for _ in range(2))
    return _problem((q, k, v, alpha + GATES, beta), gradient)


def _problem(inputs: tuple[Tensor, ...], gradient: Tensor) -> Problem:
    leaves = tuple(t.requires_grad_() for t in inputs)
    return Problem(leaves, gradient, saved=sum(map(_bytes, leaves)))


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


def torch_calls(function: Callable[..., Tensor], problem: Problem) -> Calls:
    """Of a function of the problem's inputs that autograd can differentiate."""

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*problem.inputs)

    def both() -> list[Tensor]:
        result = function(*problem.inputs)
        gradients = torch.autograd.grad(
            result, problem.inputs, problem.gradient.to(result.dtype), allow_unused=True
        )
        return [result.detach(), *(g for g in gradients if g is not None)]

    return Calls(forward, both)


def copy(moved: int, device: str) -> Run:
    """Reads and writes so many bytes in all, from one buffer that is there to another."""
    # float32: 4 bytes read, 4 written; not zeros, whose pages may all be one and the same
    source = torch.ones(moved // 8, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)
