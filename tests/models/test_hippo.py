"""HiPPO-LegS against what defines it, and its normal part's spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial import Legendre
from numpy.polynomial.legendre import leggauss

from gateloop.models.hippo import legs, low_rank, normal_part, nplr

ORDERS = (2, 4, 16, 64)


@pytest.mark.parametrize("power", [0, 1, 3, 7])
@pytest.mark.parametrize("order", ORDERS)
def test_a_and_b_follow_the_scaled_legendre_coefficients(order: int, power: int) -> None:
    """c_n(t) = √(2n+1)/t ∫₀ᵗ f(s) P_n(2s/t − 1) ds obeys c′ = (A c + B f) / t.

    Of f(s) = s^m, c(t) = t^m c(1), so that m c = A c + B at t = 1.
    """
    nodes, weights = leggauss(order + power)
    s = (nodes + 1) / 2
    c = np.array(
        [
            np.sqrt(2 * n + 1) * (weights / 2 * s**power * Legendre.basis(n)(nodes)).sum()
            for n in range(order)
        ]
    )
    a, b = legs(order)
    np.testing.assert_allclose(power * c, a @ c + b, atol=1e-12 * order**2)


@pytest.mark.parametrize("order", ORDERS)
def test_entry_by_entry(order: int) -> None:
    a, b = legs(order)
    for n in range(order):
        assert b[n] == pytest.approx((2 * n + 1) ** 0.5, rel=1e-15)
        for k in range(order):
            expected = -(n + 1) if n == k else -((2 * n + 1) ** 0.5) * (2 * k + 1) ** 0.5
            assert a[n, k] == pytest.approx(0 if k > n else expected, rel=1e-14)


@pytest.mark.parametrize("order", ORDERS)
def test_the_normal_part_is_normal(order: int) -> None:
    normal, p = normal_part(order), low_rank(order)
    np.testing.assert_allclose(normal - np.outer(p, p), legs(order)[0], atol=1e-13 * order)
    np.testing.assert_allclose(normal + normal.T, -np.eye(order), atol=1e-13 * order)


@pytest.mark.parametrize("order", ORDERS)
def test_the_kept_half_is_the_whole(order: int) -> None:
    """A = V Λ V* − P Pᵀ, with the conjugates put back."""
    half = nplr(order)
    assert all(part.shape[-1] == order // 2 for part in half)
    v = np.concatenate([half.v, half.v.conj()], 1)
    eigenvalues, p, b = (np.concatenate([x, x.conj()]) for x in half[:3])
    a, given_b = legs(order)
    tolerance = {"rtol": 0, "atol": 1e-13 * order**2}
    np.testing.assert_allclose(v.conj().T @ v, np.eye(order), **tolerance)
    np.testing.assert_allclose(
        v @ np.diag(eigenvalues) @ v.conj().T, normal_part(order), **tolerance
    )
    rotated = np.diag(eigenvalues) - np.outer(p, p.conj())
    np.testing.assert_allclose(v @ rotated @ v.conj().T, a, **tolerance)
    np.testing.assert_allclose(v @ b, given_b, **tolerance)


@pytest.mark.parametrize("order", ORDERS)
def test_order_sign_and_phase(order: int) -> None:
    half = nplr(order)
    assert (half.eigenvalues.real == -0.5).all()
    assert (half.eigenvalues.imag < 0).all() and (np.diff(half.eigenvalues.imag) > 0).all()
    assert (half.v[0].real > 0).all() and np.abs(half.v[0].imag).max() < 1e-15
    general = np.sort(np.linalg.eigvals(normal_part(order)).imag)  # by another algorithm
    np.testing.assert_allclose(half.eigenvalues.imag, general[: order // 2], rtol=1e-10)


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        half = nplr(8)
        assert torch.tensor(half.eigenvalues).device.type == "meta"
    assert np.isfinite(half.eigenvalues).all()


@pytest.mark.parametrize("order", [0, 1, 7])
def test_an_odd_order_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order is {order}; it must be even"):
        nplr(order)
