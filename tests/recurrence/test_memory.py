"""What no mode may build: fixed transitions written out, and all of attention's weights at once."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gateloop.recurrence.attention as attention_module
from gateloop.recurrence import MODES, kernels
from tests.recurrence.reference import TOLERANCE, Inputs, distance, make, step_loop
from tests.recurrence.test_agreement import run


class Shapes(TorchDispatchMode):
    """The shapes of what the named operations give back."""

    def __init__(self, *operations: str) -> None:
        super().__init__()
        self.operations = operations
        self.seen: list[torch.Size] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if isinstance(result, torch.Tensor) and (not self.operations or name in self.operations):
            self.seen.append(result.shape)
        return result


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_fixed_transitions_are_never_written_out(mode: str, resets: bool) -> None:
    batch, length = 3, 331
    x = make((batch, length, 2, 4, 5), amplitude_axes="HK", phase_axes="HK", resets=resets)
    with Shapes("exp", "cos", "sin") as shapes, torch.no_grad(), kernels.without():
        run(x, mode)
    assert shapes.seen
    for shape in shapes.seen:
        assert shape[0] == 1, shape
        if mode != "attention":
            assert length not in shape and (len(shape) < 5 or shape[2] == 1), shape


def test_attention_holds_a_bounded_number_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "BUDGET", 4096)
    x = make((2, 200, 6, 1, 1), resets=True)
    with Shapes() as shapes:
        y, _ = run(x, "attention")
    assert max(shape.numel() for shape in shapes.seen) <= 4096
    assert distance(y, step_loop(x)[0]) < 1e-10


@pytest.mark.parametrize("logit", [-30.0, 12.0])
def test_attention_is_finite_at_length_4096(logit: float) -> None:
    x = long_sequence(logit)
    x = x.map(lambda t: t.requires_grad_())
    y, last = run(x, "attention")
    gradients = torch.autograd.grad(y.sum(), list(x.differentiable().values()))
    assert all(t.isfinite().all() for t in (y, last, *gradients))
    expected, expected_last = step_loop(x.to(torch.float64))
    assert distance(y, expected) < TOLERANCE[torch.float32]
    assert distance(last, expected_last) < TOLERANCE[torch.float32]


def long_sequence(logit: float) -> Inputs:
    """A third of the gates at the logit given, one at its opposite, the others between."""
    x = make((1, 4096, 1, 1, 1), amplitude="moderate")
    alpha = torch.randn(x.log_amplitude.shape, generator=torch.Generator().manual_seed(1))
    alpha[:, ::3] += logit
    alpha[:, 1::1000] -= logit
    fields: dict[str, Any] = {"log_amplitude": torch.nn.functional.logsigmoid(alpha.double())}
    return Inputs(**{**vars(x), **fields}).to(torch.float32)
