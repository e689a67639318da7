"""No step reads a later one, nor one before a reset: by the gradient, which is exactly zero."""

from dataclasses import replace

import pytest
import torch

from gateloop.recurrence import MODES
from tests.recurrence.reference import Inputs, make
from tests.recurrence.test_agreement import run

SHAPES = [(1, 90, 2, 1, 1), (1, 90, 1, 3, 2)]
STEPS = (0, 15, 16, 17, 63, 64, 70, 88)


def gradients(x: Inputs, mode: str, step: int) -> dict[str, torch.Tensor]:
    x = x.map(lambda t: t.detach().requires_grad_())
    inputs = x.differentiable()
    y, _ = run(x, mode)
    found = torch.autograd.grad(y[:, step].sum(), list(inputs.values()))
    return dict(zip(inputs, found, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_step_reads_a_later_one(shape: tuple[int, int, int, int, int], mode: str) -> None:
    x = make(shape)
    for step in STEPS:
        found = gradients(x, mode, step)
        found.pop("state")
        for name, gradient in found.items():
            assert not gradient[:, step + 1 :].any(), (name, step)
        assert found["k"][:, step].any() and found["v"][:, step].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_step_reads_across_a_reset(shape: tuple[int, int, int, int, int], mode: str) -> None:
    x = make(shape, amplitude="moderate")
    reset = torch.zeros(shape[:2], dtype=torch.bool)
    reset[:, 40] = True
    for step in (40, 41, 63, 64, 89):
        found = gradients(replace(x, reset=reset), mode, step)
        assert not found.pop("state").any()
        for name, gradient in found.items():
            before = gradient[:, :40].abs().max()
            if name in ("k", "v", "q"):
                assert before == 0, (name, step)
            else:  # sums of differences: equal terms of either sign, added in another order
                assert before <= 1e-13 and gradient[:, 40].abs().max() <= 1e-13, (name, step)
    assert gradients(replace(x, reset=reset), mode, 39)["state"].any()
