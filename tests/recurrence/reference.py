"""What every mode is held against: the recurrence as it is written, in float64, and its cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


@dataclass(frozen=True, eq=False)
class Inputs:
    """Arguments of the operator, in its order. Equal to itself only, so that it can be a key."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_amplitude: Tensor
    phase: Tensor | None
    state: Tensor | None
    reset: Tensor | None = None
    complex_output: bool = False

    def differentiable(self) -> dict[str, Tensor]:
        named = {
            name: getattr(self, name) for name in ("q", "k", "v", "log_amplitude", "phase", "state")
        }
        return {n: t for n, t in named.items() if t is not None and t.dtype != torch.bool}

    def map(self, function) -> Inputs:  # type: ignore[no-untyped-def]
        return replace(self, **{n: function(t) for n, t in self.differentiable().items()})

    @cache  # noqa: B019 (as long as the cases, which live as long as the tests)
    def to(self, real: torch.dtype) -> Inputs:
        return self.map(lambda t: t.detach().to(COMPLEX[real] if t.is_complex() else real))

    def steps(self, start: int, stop: int) -> Inputs:
        def cut(t: Tensor | None) -> Tensor | None:
            return t if t is None or t.shape[1] == 1 else t[:, start:stop]

        names = ("q", "k", "v", "log_amplitude", "phase", "reset")
        return replace(self, **{n: cut(getattr(self, n)) for n in names})


def full_shape(x: Inputs) -> tuple[int, ...]:
    """(batch, length, heads, d_key), to which q, k and the gates are broadcast."""
    return (*x.v.shape[:3], x.k.shape[3])


def step_loop(x: Inputs) -> tuple[Tensor, Tensor]:
    """h_n = a_n ⊙ h_{n-1} + k_nᵀ v_n, y_n = q_n h_n, in complex128 throughout."""
    q, k, v = (t.to(torch.complex128) for t in (x.q, x.k, x.v))
    if x.phase is None:
        rotation = torch.ones((), dtype=torch.complex128)
    elif x.phase.dtype == torch.bool:
        rotation = 1.0 - 2.0 * x.phase.to(torch.complex128)
    else:
        rotation = torch.exp(1j * x.phase.double())
    shape = full_shape(x)
    a = (x.log_amplitude.double().exp() * rotation).expand(shape)
    q, k = q.expand(shape), k.expand(shape)
    if x.state is None:
        h = torch.zeros(shape[0], *shape[2:], v.shape[3], dtype=torch.complex128)
    else:
        h = x.state.to(torch.complex128)
    outputs = []
    for n in range(shape[1]):
        if x.reset is not None:
            h = h * ~x.reset[:, n, None, None, None]
        h = a[:, n, :, :, None] * h + k[:, n, :, :, None] * v[:, n, :, None, :]
        outputs.append((q[:, n, :, None, :] @ h)[:, :, 0])
    y = torch.stack(outputs, 1)
    return (y if x.complex_output else y.real), h


def results(function, x: Inputs) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """y, last state, and the gradient of a fixed random functional of both by every input."""
    x = x.map(lambda t: t.detach().requires_grad_())
    y, last = function(x)
    noise = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for t in (y, last):
        weights = torch.randn(*t.shape, 2, generator=noise, dtype=torch.float64)
        loss = loss + (weights[..., 0] * t.real).sum()
        if t.is_complex():
            loss = loss + (weights[..., 1] * t.imag).sum()
    inputs = x.differentiable()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return {"y": y.detach(), "last": last.detach(), **dict(zip(inputs, gradients, strict=True))}


def distance(found: Tensor, expected: Tensor, terms: Tensor | None = None) -> float:
    """max|found − expected| / max|expected|.

    The gradient of a broadcast gate, q or k is a sum over all it is broadcast to, which may cancel
    to anything; it is measured beside the largest of its ``terms``.
    """
    assert found.shape == expected.shape
    scale = expected.abs().max()
    if terms is not None:
        scale = torch.maximum(scale, terms.abs().max())
    if scale == 0:
        return found.abs().max().item()
    wide = torch.complex128
    return ((found.to(wide) - expected.to(wide)).abs().max() / scale).item()


def assert_same(function, x: Inputs, tolerance: float) -> None:  # type: ignore[no-untyped-def]
    """``function`` computes what the step loop computes, and so do its gradients."""
    expected, terms = _expected(x)
    found = results(function, x)
    assert found.keys() == expected.keys()
    far = {name: distance(found[name], expected[name], terms.get(name)) for name in expected}
    assert all(value <= tolerance for value in far.values()), far


@cache
def _expected(x: Inputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The step loop's results, and the gradients of gates, q and k before they are summed."""
    x = x.to(torch.float64)
    shape = full_shape(x)
    broadcast = {
        name: t
        for name, t in x.differentiable().items()
        if name in ("q", "k", "log_amplitude", "phase") and t.shape != shape
    }
    if not broadcast:
        return results(step_loop, x), {}
    spread = replace(x, **{n: t.expand(shape) for n, t in broadcast.items()})
    terms = results(step_loop, spread)
    return results(step_loop, x), {n: terms[n] for n in broadcast}


def make(
    shape: tuple[int, int, int, int, int],
    *,
    seed: int = 0,
    amplitude: str = "mixed",
    amplitude_axes: str = "BLHK",
    phase: str = "angle",
    phase_axes: str = "BLHK",
    qk_axes: str = "BLHK",
    complex_inputs: str = "",
    state: bool = True,
    resets: bool = False,
    complex_output: bool = False,
) -> Inputs:
    """Random arguments. Axes that are not named in ``*_axes`` have size 1."""
    batch, length, heads, d_key, d_value = shape
    noise = torch.Generator().manual_seed(seed)

    def normal(*size: int, is_complex: bool = False) -> Tensor:
        dtype = torch.complex128 if is_complex else torch.float64
        return torch.randn(*size, generator=noise, dtype=dtype)

    def sizes(axes: str) -> list[int]:
        return [n if a in axes else 1 for a, n in zip("BLHK", shape, strict=False)]

    size = sizes(amplitude_axes)
    alpha = normal(*size)
    kind = torch.rand(size, generator=noise)
    if amplitude == "mixed":  # forgets at once, hardly forgets, and what lies between
        alpha = torch.where(kind < 0.2, alpha - 30, torch.where(kind < 0.6, alpha + 8, alpha))
    log_amplitude = torch.nn.functional.logsigmoid(alpha)
    if amplitude == "one":
        log_amplitude = torch.zeros_like(alpha)
    phases = {
        "none": None,
        "angle": 3 * normal(*sizes(phase_axes)),
        "half turns": normal(*sizes(phase_axes)) > 0,
    }
    is_complex = phase == "angle" or bool(complex_inputs)
    return Inputs(
        normal(*sizes(qk_axes), is_complex="q" in complex_inputs),
        normal(*sizes(qk_axes), is_complex="k" in complex_inputs),
        normal(batch, length, heads, d_value, is_complex="v" in complex_inputs),
        log_amplitude,
        phases[phase],
        normal(batch, heads, d_key, d_value, is_complex=is_complex) if state else None,
        torch.rand(batch, length, generator=noise) < 0.06 if resets else None,
        complex_output,
    )
