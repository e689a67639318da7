"""A real vector into complex states, and complex states into a real vector, by real products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def complex_product(weight_SD: Tensor, x_BLD: Tensor) -> Tensor:
    """``weight`` (states, d) complex times ``x`` (batch, length, d) real: complex, (…, states).

    One real product of twice the rows. Under autocast it runs in bfloat16, but the result is
    complex64, since there are no narrower complex numbers.
    """
    rows = torch.view_as_real(weight_SD).movedim(-1, 1).flatten(0, 1)
    parts = F.linear(x_BLD, rows)
    if parts.dtype != torch.float64:
        parts = parts.float()
    return torch.view_as_complex(parts.unflatten(-1, (-1, 2)))


def real_of_product(weight_DS: Tensor, h_BLS: Tensor) -> Tensor:
    """Re(weight h): ``weight`` (d, states) and ``h`` (batch, length, states), both complex."""
    columns = torch.view_as_real(weight_DS.conj().resolve_conj()).flatten(1)
    return F.linear(torch.view_as_real(h_BLS).flatten(-2), columns)
