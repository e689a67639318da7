"""Attention's cache: equal to putting one after the other, without copying what stands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gateloop.models.cache import STEPS, append
from gateloop.models.transformer import Attention

BATCH, WIDTH = 2, 3


def steps(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, number, WIDTH, generator=generator)


@torch.no_grad()
def grown(pieces: list[Tensor]) -> Tensor:
    cached = pieces[0][:, :0]
    for piece in pieces:
        cached = append(cached, piece)
    return cached


@pytest.mark.parametrize("sizes", [[1] * 300, [5, 1, 0, 200, 1, 1, 700, 3], [0, 0, 2, 1]], ids=str)
def test_it_is_all_that_was_appended(sizes: list[int]) -> None:
    pieces = [steps(size, seed) for seed, size in enumerate(sizes)]
    assert torch.equal(grown(pieces), torch.cat(pieces, dim=1))


def test_what_stands_is_not_copied() -> None:
    places = set()
    with torch.no_grad():
        cached = append(steps(0), steps(1000))
        for _ in range(STEPS + 1):
            cached = append(cached, steps(1))
            places.add(cached.data_ptr())
    assert len(places) == 1


@torch.no_grad()
def test_two_continuations_do_not_meet() -> None:
    shared = grown([steps(4), steps(1, 1)])
    first = append(shared, steps(1, 2))
    second = append(shared, steps(1, 3))
    assert torch.equal(first, torch.cat([shared, steps(1, 2)], dim=1))
    assert torch.equal(second, torch.cat([shared, steps(1, 3)], dim=1))
    longer = append(first, steps(2, 4))
    assert torch.equal(longer, torch.cat([shared, steps(1, 2), steps(2, 4)], dim=1))
    assert torch.equal(second[:, -1:], steps(1, 3))


@pytest.mark.parametrize(
    "change", [lambda t: t[:, :4], lambda t: t[:1], lambda t: t.clone(), lambda t: t.detach()]
)
@torch.no_grad()
def test_a_part_or_copy_of_a_cache_leaves_it_alone(change) -> None:
    whole = grown([steps(4), steps(2, 1)])
    right = whole.clone()
    part = change(whole)
    new = steps(3, 2)[: len(part)]
    assert torch.equal(append(part, new), torch.cat([part, new], dim=1))
    assert torch.equal(append(whole, steps(1, 3))[:, :6], right)
    assert torch.equal(whole, right)


def test_with_gradients_nothing_is_written_in_place() -> None:
    cached = grown([steps(2), steps(1, 1)])
    first, second = steps(1, 2).requires_grad_(), steps(1, 3).requires_grad_()
    both = append(append(cached, first), second)
    assert torch.equal(both, torch.cat([cached, first, second], dim=1))
    both[:, -2:].square().sum().backward()
    assert torch.equal(first.grad, 2 * first) and torch.equal(second.grad, 2 * second)


@torch.no_grad()
def test_what_does_not_fit_is_treated_as_by_cat() -> None:
    cached = grown([steps(2), steps(1, 1)])
    assert append(cached, steps(1).double()).dtype == torch.float64
    with pytest.raises(RuntimeError, match="size"):
        append(cached, steps(1)[:1])


@pytest.mark.parametrize("position", ["rope", "data_controlled", "learned"])
def test_attention_continues_one_state_twice(position: str) -> None:
    torch.manual_seed(0)
    mixer = Attention(16, heads=2, position=position).double()
    x_BLD, other_BLD = torch.randn(2, 3, 9, 16, dtype=torch.float64)

    def decoded(x_BLD: Tensor, state: object, start: int) -> tuple[list[Tensor], object]:
        ys = []
        for step in range(start, x_BLD.shape[1]):
            y_B1D, state = mixer(x_BLD[:, step : step + 1], state)
            ys.append(y_B1D)
        return ys, state

    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            common, state = decoded(x_BLD[:, :5], None, 0)
            one, _ = decoded(x_BLD, state, 5)
            two, _ = decoded(torch.cat([x_BLD[:, :5], other_BLD[:, 5:]], dim=1), state, 5)
            again, _ = decoded(x_BLD, state, 5)
            right, _ = mixer(x_BLD)
            right_two, _ = mixer(torch.cat([x_BLD[:, :5], other_BLD[:, 5:]], dim=1))
        assert torch.allclose(torch.cat(common + one, dim=1), right, atol=1e-12)
        assert torch.allclose(torch.cat(common + two, dim=1), right_two, atol=1e-12)
        assert torch.equal(torch.cat(one, dim=1), torch.cat(again, dim=1))
