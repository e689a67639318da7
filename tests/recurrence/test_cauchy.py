"""Sums over pairs of poles in C: against their definition, with gradients by differences."""

import os
import shutil

import pytest
import torch
from torch import Tensor

from gateloop.recurrence.kernels import cauchy

pytestmark = pytest.mark.skipif(
    not shutil.which("cc") and not os.environ.get("CC"), reason="no C compiler"
)


def inputs(channels: int, rows: int, modes: int, nodes: int) -> tuple[Tensor, ...]:
    """x, y, a, b, z; poles to the left of the axis, nodes to its right."""
    noise = torch.Generator().manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(size, generator=noise, dtype=dtype)

    z_F = torch.complex(normal(nodes).exp(), 3 * normal(nodes))
    return (
        normal(channels, rows, modes),
        normal(channels, rows, nodes, dtype=torch.complex128),
        -normal(channels, modes).exp(),
        3 * normal(channels, modes),
        z_F,
    )


def resolvent(a_DM: Tensor, b_DM: Tensor, z_F: Tensor) -> Tensor:
    mu_DM1 = torch.complex(a_DM, b_DM)[..., None]
    return 1 / ((z_F - mu_DM1) * (z_F - mu_DM1.conj()))


# fewer and more than a vector of nodes, a group of rows, and whole ones
SIZES = [(1, 1, 1, 1), (3, 5, 4, 7), (2, 8, 3, 16), (2, 19, 5, 33)]


@pytest.mark.parametrize("sizes", SIZES)
def test_the_definition(sizes: tuple[int, int, int, int]) -> None:
    x, y, a, b, z = inputs(*sizes)
    r_DMF = resolvent(a, b, z)
    expanded = torch.einsum("drm,dmf->drf", x.to(y.dtype), r_DMF)
    reduced = torch.einsum("drf,dmf->drm", y, r_DMF).real
    torch.testing.assert_close(cauchy.expand(x, a, b, z), expanded, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cauchy.reduce(y, a, b, z), reduced, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_gradients(sizes: tuple[int, int, int, int]) -> None:
    x, y, a, b, z = inputs(*sizes)
    for t in (x, y, a, b):
        t.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: cauchy.expand(*given, z), (x, a, b))
    assert torch.autograd.gradcheck(lambda *given: cauchy.reduce(*given, z), (y, a, b))


def test_close_to_a_pole() -> None:
    """A node a billionth from a pole of size one loses no digit beyond z − μ itself."""
    little = 2.0**-30
    z = torch.tensor([complex(little, 1 + little)], dtype=torch.complex128)
    a, b = -torch.tensor([[little]]).double(), torch.tensor([[1.0]]).double()
    near = 1 / complex(2 * little, little) / complex(2 * little, 2 + little)
    found = cauchy.expand(torch.ones(1, 1, 1).double(), a, b, z).item()
    assert abs(found - near) <= 4 * torch.finfo(torch.float64).eps * abs(near)


def test_strides_threads_and_conjugates() -> None:
    x, y, a, b, z = inputs(6, 8, 10, 33)
    strided = [torch.stack([t, t], -1)[..., 0] for t in (x, a, b, z)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        once = cauchy.expand(x, a, b, z), cauchy.reduce(y.conj(), a, b, z)
        torch.set_num_threads(2)
        again = cauchy.expand(*strided), cauchy.reduce(y.conj().resolve_conj(), *strided[1:])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(again[0], once[0]) and torch.equal(again[1], once[1])


def test_torch_knows_the_operators() -> None:
    x, y, a, b, z = inputs(3, 5, 4, 7)
    for t in (x, y, a, b):
        t.requires_grad_()
    torch.library.opcheck(cauchy.expand, (x, a, b, z))
    torch.library.opcheck(cauchy.reduce, (y, a, b, z))
    torch.library.opcheck(cauchy.gradients, (x.detach(), y.detach(), a.detach(), b.detach(), z))
