"""Where fixed amplitudes start: uniform over the area of a ring in the complex plane."""

from __future__ import annotations

import torch
from torch import Tensor


def ring_radii(number: int, inner: float, outer: float) -> Tensor:
    """(number,) radii between ``inner`` and ``outer``, as dense as the ring's area is.

    √(u (outer² − inner²) + inner²) for u uniform (arXiv 2303.06349, lemma 3.2).
    """
    return torch.sqrt(torch.rand(number) * (outer**2 - inner**2) + inner**2)
