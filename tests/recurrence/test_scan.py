"""What makes a scan a scan: an associative operator, and no loop over time."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gateloop.recurrence import kernels
from gateloop.recurrence.scan import combine
from tests.recurrence.reference import make
from tests.recurrence.test_agreement import run

part = st.floats(-2, 2, allow_nan=False)
number = st.builds(complex, part, part)
step = st.tuples(
    st.lists(number, min_size=3, max_size=3), st.lists(number, min_size=3, max_size=3)
).map(lambda pair: tuple(torch.tensor(p, dtype=torch.complex128) for p in pair))


@given(step, step, step)
@settings(max_examples=200, deadline=None)
def test_the_operator_is_associative(one: Any, two: Any, three: Any) -> None:
    left = combine(combine(one, two), three)
    right = combine(one, combine(two, three))
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@given(step, step)
@settings(max_examples=100, deadline=None)
def test_the_operator_is_two_steps_in_one(one: Any, two: Any) -> None:
    h = torch.tensor([1.0, -2.0, 0.5j], dtype=torch.complex128)
    (a1, x1), (a2, x2) = one, two
    a, x = combine(one, two)
    torch.testing.assert_close(a * h + x, a2 * (a1 * h + x1) + x2, rtol=1e-12, atol=1e-12)


class Count(TorchDispatchMode):
    """Counts the tensor operations that are executed, views aside."""

    VIEWS = ("unbind", "select", "slice", "view", "expand", "squeeze", "alias", "detach")

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operations += not any(view in str(func) for view in self.VIEWS)
        return func(*args, **(kwargs or {}))


def operations(mode: str, length: int, **options: Any) -> int:
    """Operations of forward and backward together."""
    x = make((1, length, 2, 1, 1), **options).map(lambda t: t.requires_grad_())
    with Count() as count, kernels.without():
        y, last = run(x, mode)
        (y.sum() + last.real.sum()).backward()
    return count.operations


@pytest.mark.parametrize("options", [{}, {"resets": True}, {"amplitude_axes": "H"}], ids=str)
def test_no_loop_over_time(options: dict[str, Any]) -> None:
    # one more level of blocks for sixteen times the length
    short, long = operations("scan", 256, **options), operations("scan", 4096, **options)
    longer = operations("scan", 65536, **options)
    assert long < 2 * short
    assert longer - long <= 1.2 * (long - short)
    assert operations("recurrent", 1024) > 3 * operations("recurrent", 256)  # the count counts


def test_fewer_operations_than_a_step_loop() -> None:
    for length in (128, 1024):
        assert operations("scan", length) < operations("recurrent", length) / 3
