"""From continuous to discrete time, for diagonal systems x′ = A x + B u with a step Δ."""

from __future__ import annotations

import torch
from torch import Tensor

from gateloop.names import Discretisation


def discretise(
    rule: Discretisation, step: Tensor, real: Tensor, imaginary: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log|Ā| and phase of Ā, both real, and B̄ / B, complex, for eigenvalues A = real + i·imaginary.

    All broadcast against each other; real parts are negative. Exact for small steps.
    """
    return (zoh if rule is Discretisation.zoh else bilinear)(step, real, imaginary)


def zoh(step: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero-order hold: log|Ā| and phase of Ā = e^{ΔA}, and (e^{ΔA} − 1) / A.

    e^{x+iy} − 1 is taken in parts, so that small steps do not cancel it.
    """
    x, y = step * real, step * imaginary
    less_one = torch.complex(
        torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2).square(), torch.exp(x) * torch.sin(y)
    )
    return x, y, less_one / torch.complex(real, imaginary)


def bilinear(step: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The trapezoidal rule: Ā = (1 + ΔA/2) / (1 − ΔA/2), and Δ / (1 − ΔA/2).

    |Ā|² = 1 + 2 Re(ΔA) / |1 − ΔA/2|², whose logarithm stays exact for small steps.
    """
    x, y = step * real, step * imaginary
    below = torch.complex(1 - x / 2, -y / 2)
    less_one = 2 * x / (below.real.square() + below.imag.square())
    least = torch.finfo(less_one.dtype).eps - 1  # no logarithm of zero at ΔA = −2
    log_amplitude = 0.5 * torch.log1p(less_one.clamp_min(least))
    phase = torch.atan2(y, 1 - (x.square() + y.square()) / 4)
    return log_amplitude, phase, step / below
