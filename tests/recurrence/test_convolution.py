"""Mode ``convolution``: fixed transitions, constant q and k, one kernel by FFT."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from gateloop.recurrence import FIXED_MODES, MODES, gated_linear_recurrence
from tests.recurrence.reference import TOLERANCE, Inputs, assert_same, distance, make, results
from tests.recurrence.test_agreement import run
from tests.recurrence.test_memory import Shapes

convolve = partial(run, mode="convolution")


def constant(shape: tuple[int, int, int, int, int], **options: Any) -> Inputs:
    axes = {"amplitude_axes": "HK", "phase_axes": "HK", "qk_axes": "HK"}
    return make(shape, **{**axes, **options})


CASES = {
    "one step": constant((3, 1, 2, 3, 2)),
    "two steps": constant((2, 2, 2, 3, 2)),
    "three steps": constant((1, 3, 2, 1, 1)),
    "whole blocks": constant((2, 64, 2, 3, 2)),
    "blocks and a step": constant((2, 65, 2, 3, 2)),
    "prime length": constant((1, 127, 2, 4, 1)),
    "no state": constant((2, 83, 2, 5, 3), state=False),
    "max-headed": constant((2, 77, 5, 1, 1)),
    "S4D": constant((2, 70, 4, 6, 1), complex_inputs="qk"),
    "LRU": constant((2, 70, 6, 1, 1), complex_inputs="v", complex_output=True),
    "real": constant((2, 77, 3, 4, 2), phase="none"),
    "real, no state": constant((2, 77, 3, 4, 2), phase="none", state=False),
    "signed": constant((2, 77, 3, 4, 2), phase="half turns"),
    "signed, odd blocks": constant((2, 47, 3, 4, 2), phase="half turns", state=False),
    "gates by head": constant((2, 50, 3, 4, 2), amplitude_axes="H", phase_axes="H"),
    "one gate": constant((2, 50, 3, 4, 2), amplitude_axes="", phase_axes=""),
    "sums": constant((2, 50, 3, 2, 2), amplitude="one", amplitude_axes="", phase="none"),
    "complex q": constant((2, 50, 3, 2, 2), complex_inputs="q", phase="none"),
    "complex k": constant((2, 50, 3, 2, 2), complex_inputs="k", phase="none"),
    "complex v": constant((2, 50, 3, 2, 2), complex_inputs="v"),
    "complex v, no phase": constant((2, 50, 3, 2, 2), complex_inputs="v", phase="none"),
    "complex state alone": replace(
        constant((2, 50, 3, 2, 2), phase="none"), state=constant((2, 50, 3, 2, 2)).state
    ),
    "complex read-out": constant((2, 50, 3, 2, 2), complex_output=True),
    "everything complex": constant((2, 50, 3, 2, 2), complex_inputs="qkv", complex_output=True),
    "real, complex read-out": constant((2, 50, 3, 2, 2), phase="none", complex_output=True),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_computes_the_recurrence(case: str, dtype: torch.dtype) -> None:
    assert_same(convolve, CASES[case].to(dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    batch, length, heads, d_key, d_value = (
        int(torch.randint(1, most, (), generator=draw)) for most in (4, 150, 4, 6, 4)
    )
    phase = ("angle", "none", "half turns")[seed % 3]
    x = constant((batch, length, heads, d_key, d_value), seed=seed, phase=phase)
    for dtype, tolerance in TOLERANCE.items():
        assert_same(convolve, x.to(dtype), tolerance)


def test_it_is_the_toeplitz_matrix_of_the_kernel() -> None:
    """The equation itself: κ_l = Σ q a^l k by repeated multiplication, y = T(κ) v."""
    x = constant((1, 40, 2, 3, 1), state=False)
    assert x.phase is not None
    a = torch.exp(x.log_amplitude + 1j * x.phase)[0, 0]
    power, kernel = torch.ones_like(a), []
    for _ in range(40):
        kernel.append((x.q[0, 0] * power * x.k[0, 0]).sum(-1).real)
        power = power * a
    kernel_HL = torch.stack(kernel, -1)
    expected = torch.zeros_like(x.v)
    for n in range(40):
        for m in range(n + 1):
            expected[:, n] += kernel_HL[:, n - m, None] * x.v[:, m]
    assert distance(convolve(x)[0], expected) < 1e-12


@pytest.mark.parametrize("options", [{}, {"phase": "half turns"}, {"complex_inputs": "qkv"}])
def test_gradients_by_finite_differences(options: dict[str, Any]) -> None:
    x = constant((2, 9, 2, 2, 2), amplitude="moderate", **options)
    names = list(x.differentiable())

    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return convolve(replace(x, **dict(zip(names, tensors, strict=True))))

    tensors = [t.detach().requires_grad_() for t in x.differentiable().values()]
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize(("amplitude", "complex_v"), [("mixed", True), ("one", False)])
def test_float32_at_length_16384(amplitude: str, complex_v: bool) -> None:
    """Against the step loop of mode ``recurrent`` in float64; phases of many turns a step too."""
    x = constant(
        (1, 16384, 2, 3, 1),
        amplitude=amplitude,
        complex_inputs="v" if complex_v else "",
        complex_output=complex_v,
    )
    assert x.phase is not None
    x = replace(x, phase=x.phase * torch.tensor([1.0, 1e-3, 40.0], dtype=torch.float64))
    x = x.to(torch.float32)
    expected = results(partial(run, mode="recurrent"), x.to(torch.float64))
    found = results(convolve, x)
    far = {name: distance(found[name], expected[name]) for name in expected}
    assert max(far.values()) < 1e-5, far


@pytest.mark.parametrize("case", ["S4D", "signed"])
@pytest.mark.parametrize("mode", FIXED_MODES)
def test_a_state_handed_over_changes_nothing(mode: str, case: str) -> None:
    """Convolution to any mode and back."""
    x = CASES[case]
    length = x.v.shape[1]
    for cut in (1, 64):

        def in_two(x: Inputs, cut: int = cut) -> tuple[torch.Tensor, torch.Tensor]:
            y1, between = convolve(x.steps(0, cut))
            y2, last = run(replace(x.steps(cut, length), state=between), mode)
            return torch.cat([y1, y2], 1), last

        assert_same(in_two, x, TOLERANCE[torch.float64])


@pytest.mark.parametrize("case", ["S4D", "LRU", "signed"])
def test_no_step_reads_a_later_one_beyond_rounding(case: str) -> None:
    x = CASES[case].map(lambda t: t.detach().requires_grad_())
    y, _ = convolve(x)
    for step in (0, 7, 8, 30, 63):
        (gradient,) = torch.autograd.grad(y[:, step].abs().sum(), x.v, retain_graph=True)
        size = gradient.abs().max()
        assert gradient[:, step + 1 :].abs().max() < 1e-14 * size
        assert gradient[:, step].abs().max() > 1e-3 * size


def test_a_zero_state_is_none() -> None:
    x = CASES["S4D"]
    assert x.state is not None
    with_zeros = convolve(replace(x, state=torch.zeros_like(x.state)))
    for zeros, none in zip(with_zeros, convolve(replace(x, state=None)), strict=True):
        assert distance(zeros, none) < 1e-15


def test_dtypes() -> None:
    for case, y_dtype, state_dtype in (
        ("S4D", torch.float32, torch.complex64),
        ("LRU", torch.complex64, torch.complex64),
        ("real, no state", torch.float32, torch.float32),
        ("signed, odd blocks", torch.float32, torch.float32),
        ("complex v, no phase", torch.float32, torch.complex64),
    ):
        y, last = convolve(CASES[case].to(torch.float32))
        assert (y.dtype, last.dtype) == (y_dtype, state_dtype), case
    x = CASES["real"].to(torch.float32)
    expected, expected_last = convolve(replace(x, v=x.v.bfloat16().float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = convolve(replace(x, v=x.v.bfloat16()))
    assert y.dtype == torch.bfloat16 and last.dtype == torch.float32
    assert torch.equal(y, expected.bfloat16()) and torch.equal(last, expected_last)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resets": True}, "reset is given"),
        ({"amplitude_axes": "LHK"}, r"log_amplitude has shape \(1, 9, 2, 3\)"),
        ({"amplitude_axes": "BHK"}, r"log_amplitude has shape \(2, 1, 2, 3\)"),
        ({"phase_axes": "L"}, r"phase has shape \(1, 9, 1, 1\)"),
        ({"phase_axes": "L", "phase": "half turns"}, r"phase has shape \(1, 9, 1, 1\)"),
        ({"qk_axes": "LHK"}, r"q has shape \(1, 9, 2, 3\)"),
        ({"qk_axes": "BHK"}, r"q has shape \(2, 1, 2, 3\)"),
    ],
)
def test_what_it_refuses(change: dict[str, Any], named: str) -> None:
    x = constant((2, 9, 2, 3, 1), **change)
    with pytest.raises(
        ValueError, match=f"'convolution' and {named}; one kernel .* attention, auto"
    ):
        convolve(x)
    for mode in MODES:
        run(x, mode)


def test_k_is_refused_where_q_is_constant() -> None:
    x = constant((2, 9, 2, 3, 1))
    k = x.k.expand(2, 9, 2, 3)
    with pytest.raises(ValueError, match=r"and k has shape \(2, 9, 2, 3\); one kernel"):
        gated_linear_recurrence(x.q, k, x.v, x.log_amplitude, x.phase, mode="convolution")


def test_no_power_is_written_out_by_step() -> None:
    batch, length, heads, d_key = 1, 1024, 2, 32
    x = constant((batch, length, heads, d_key, 1)).map(lambda t: t.requires_grad_())
    with Shapes() as shapes:
        y, last = convolve(x)
        (y.sum() + last.real.sum()).backward()
    # the padded FFT and √l blocks of states, well under the length · heads · d_key of a scan
    assert max(shape.numel() for shape in shapes.seen) <= 4 * batch * heads * length


def test_the_result_can_be_changed_in_place() -> None:
    x = constant((2, 20, 3, 2, 4), state=False).map(lambda t: t.requires_grad_())
    y, _ = convolve(x)
    y += 1
    y.sum().backward()
