"""HiPPO-LegS: the state matrix that S4, S4D and S5 start from, and its spectrum.

Everything is numpy in float64, whatever torch's default device and dtype are; a model turns it
into parameters with ``torch.tensor(array, dtype=...)``, which also works on the meta device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


def legs(order: int) -> tuple[Real, Real]:
    """A (order, order) and B (order,) of HiPPO-LegS (arXiv 2008.07669, theorem 2).

    A_nk = −√(2n+1) √(2k+1) below the diagonal, −(n+1) on it, 0 above; B_n = √(2n+1).
    """
    n = np.arange(order, dtype=np.float64)
    b = np.sqrt(2 * n + 1)
    a = -np.tril(np.outer(b, b), -1) - np.diag(n + 1)
    return a, b


def low_rank(order: int) -> Real:
    """P (order,) with A + P Pᵀ normal: P_n = √(n + 1/2) (arXiv 2111.00396, theorem 1)."""
    return np.sqrt(np.arange(order, dtype=np.float64) + 0.5)


def normal_part(order: int) -> Real:
    """A + P Pᵀ = −I/2 + S (order, order), S skew-symmetric: HiPPO-N, where S5 starts."""
    a, _ = legs(order)
    p = low_rank(order)
    return a + np.outer(p, p)


class NPLR(NamedTuple):
    """A = V Λ V* − P Pᵀ in the eigenvectors' coordinates, one of each conjugate pair kept.

    With N the order: ``eigenvalues``, ``p`` = V* P and ``b`` = V* B are complex (N/2,), ``v``
    complex (N, N/2) with orthonormal columns, so that what is kept of V⁻¹ is ``v.conj().T``.
    The other half of each is its conjugate.
    """

    eigenvalues: Complex
    p: Complex
    b: Complex
    v: Complex


def nplr(order: int) -> NPLR:
    """The normal part's spectrum with negative imaginary part, ascending by it.

    Re Λ is −1/2 throughout. An eigenvector's phase is free; here its first entry is real and
    positive. ``b`` is as it is; S4's code also clips its imaginary part to [−2, 2].

    Args:
        order: N, even, so that no eigenvalue is real and all come in pairs.

    Raises:
        ValueError: for an odd order.
    """
    if order < 2 or order % 2:
        raise ValueError(f"order is {order}; it must be even and at least 2")
    _, b = legs(order)
    normal = normal_part(order)
    skew = (normal - normal.T) / 2
    imaginary, v = np.linalg.eigh(-1j * skew)  # ascending
    imaginary, v = imaginary[: order // 2], v[:, : order // 2]
    v = v * (np.abs(v[0]) / v[0])
    eigenvalues = -0.5 + 1j * imaginary
    return NPLR(eigenvalues, v.conj().T @ low_rank(order), v.conj().T @ b, v)
