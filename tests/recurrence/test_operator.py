"""What the operator takes, what it gives back, and what it says no to."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import gateloop.recurrence.operator as operator
from gateloop.recurrence import FIXED_MODES, MODES, gate_loop, gated_linear_recurrence, kernels
from gateloop.recurrence.chunkwise import CHUNK
from tests.recurrence.reference import Inputs, assert_same, distance, make, results, step_loop
from tests.recurrence.test_agreement import run

B, L, H, K, V = 2, 6, 3, 4, 5
CONSTANT = {"amplitude_axes": "HK", "phase_axes": "HK", "qk_axes": "HK"}


def arguments() -> dict[str, Any]:
    x = make((B, L, H, K, V)).to(torch.float32)
    return {
        "q": x.q,
        "k": x.k,
        "v": x.v,
        "log_amplitude": x.log_amplitude,
        "phase": x.phase,
        "state": x.state,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(B, L, H)}, r"q has shape \(2, 6, 3\); it must be \(batch, length"),
        (
            {"k": torch.zeros(B, L, H, K + 1)},
            r"k has shape \(2, 6, 3, 5\); .* here \(2, 6, 3, 4\), where",
        ),
        ({"v": torch.zeros(B, L + 1, H, V)}, r"q has shape \(2, 6, 3, 4\); with v \(2, 7, 3, 5\)"),
        ({"v": torch.zeros(B, L, H)}, r"v has shape \(2, 6, 3\); it must be \(batch, length"),
        ({"v": torch.zeros(B, 1, H, V)}, r"q has shape \(2, 6, 3, 4\); with v \(2, 1, 3, 5\)"),
        ({"q": torch.zeros(B, L, 1, K)}, r"q has shape \(2, 6, 1, 4\)"),
        ({"v": torch.zeros(B, L, H, 0)}, "no axis of size 0"),
        ({"v": torch.zeros(B, L, H, V, dtype=torch.int64)}, "v is torch.int64"),
        (
            {"log_amplitude": torch.zeros(B, L, H, 2)},
            "log_amplitude has shape .* must be 1 or that of",
        ),
        ({"log_amplitude": torch.zeros(H, K)}, "log_amplitude has shape"),
        ({"log_amplitude": torch.zeros(1, 1, 1, 1).bfloat16()}, "gates must be float32 or float64"),
        ({"phase": torch.zeros(1, 1, 1, 1).half()}, "phase is torch.float16; gates must be"),
        ({"phase": torch.zeros(1, 1, 1, 3)}, "phase has shape"),
        ({"state": torch.zeros(B, H, V, K)}, r"state has shape .* here \(2, 3, 4, 5\)"),
        ({"state": torch.zeros(B, H, K, V).bfloat16()}, "state is torch.bfloat16"),
        ({"reset": torch.zeros(B, L)}, "reset is torch.float32"),
        ({"reset": torch.zeros(B, L + 1, dtype=torch.bool)}, r"here \(2, 6\)"),
        ({"mode": "scann"}, "attention, convolution, auto; did you mean scan"),
        ({"mode": "conv"}, "mode is 'conv'; it must be one of"),
        ({"chunk": 0}, "chunk is 0; it must be a whole number of at least 1"),
    ],
)
def test_what_it_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated_linear_recurrence(**{**arguments(), **change})


def test_an_empty_sequence_is_refused() -> None:
    empty = make((B, 0, H, K, V))
    with pytest.raises(ValueError, match="length 0"):
        run(empty, "scan")


def test_gates_in_bfloat16_are_refused_by_gate_loop_too() -> None:
    q = torch.zeros(1, 3, 2, 1)
    with pytest.raises(ValueError, match=r"alpha is torch.bfloat16; gates must be"):
        gate_loop(q, q, q, q.bfloat16(), None)


@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_gate_loop_is_the_recurrence_with_the_papers_gates(mode: str) -> None:
    x = make((B, L, H, K, V), amplitude="moderate")
    alpha = torch.randn_like(x.log_amplitude)
    y, last = gate_loop(x.q, x.k, x.v, alpha, x.phase, mode=mode, state=x.state)
    x = make((B, L, H, K, V), amplitude="moderate")
    by_hand = type(x)(x.q, x.k, x.v, alpha.sigmoid().log(), x.phase, x.state)
    expected, expected_last = step_loop(by_hand)
    assert distance(y, expected) < 1e-10 and distance(last, expected_last) < 1e-10


@pytest.mark.parametrize("mode", MODES)
def test_dtypes(mode: str) -> None:
    real = make((B, L, H, K, V), phase="none", state=False).to(torch.float32)
    y, last = run(real, mode)
    assert (y.dtype, last.dtype) == (torch.float32, torch.float32)
    signed = make((B, L, H, K, V), phase="half turns", state=False).to(torch.float32)
    assert run(signed, mode)[1].dtype == torch.float32
    turning = make((B, L, H, K, V), state=False).to(torch.float32)
    y, last = run(turning, mode)
    assert (y.dtype, last.dtype) == (torch.float32, torch.complex64)
    turning = make((B, L, H, K, V), state=False, complex_output=True)
    y, last = run(turning, mode)
    assert (y.dtype, last.dtype) == (torch.complex128, torch.complex128)


@pytest.mark.parametrize("mode", MODES)
def test_no_amplitude_at_all(mode: str) -> None:
    """exp(−exp(30)) and log 0: the state is forgotten, and no gradient is NaN."""
    x = make((1, 40, 2, 1, 1) if mode == "scan" else (1, 40, 2, 3, 2), state=True)
    log_amplitude = x.log_amplitude.clone()
    log_amplitude[:, ::3] = -torch.inf
    log_amplitude[:, 1::7] = -1e13
    x = type(x)(x.q, x.k, x.v, log_amplitude, x.phase, x.state).to(torch.float32)
    x = x.map(lambda t: t.requires_grad_())
    y, last = run(x, mode)
    assert distance(y, step_loop(x)[0]) < 1e-5
    gradients = torch.autograd.grad(y.sum() + last.real.sum(), list(x.differentiable().values()))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("mode", MODES)
def test_an_amplitude_above_one_counts_as_one(mode: str) -> None:
    x = make((1, 20, 2, 1, 1), amplitude="one")
    above = type(x)(x.q, x.k, x.v, x.log_amplitude + 0.5, x.phase, x.state)
    assert torch.equal(run(above, mode)[0], run(x, mode)[0])


@pytest.mark.parametrize("mode", MODES)
def test_under_growth_an_amplitude_above_one_counts_as_it_is(mode: str) -> None:
    x = make((1, 300, 2, 1, 1), amplitude="one", state=True)
    x = type(x)(x.q, x.k, x.v, x.log_amplitude + 0.05, x.phase, x.state)
    y, last = gated_linear_recurrence(
        x.q, x.k, x.v, x.log_amplitude, x.phase, mode=mode, state=x.state, growth=True
    )
    expected, expected_last = step_loop(x)
    assert expected_last.abs().max() > 1e4
    assert distance(y, expected) < 1e-10 and distance(last, expected_last) < 1e-10


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((1, 1, 4, 1, 1), {}, "recurrent"),
        ((1, 1, 2, 4, 4), CONSTANT, "recurrent"),
        ((1, 9, 4, 1, 1), {}, "scan"),
        ((1, 9, 2, 12, 15), {}, "scan"),
        ((1, 9, 2, 12, 16), {}, "chunkwise"),
        ((1, 64, 3, 2, 1), CONSTANT, "convolution"),
        ((1, 64, 2, 16, 16), CONSTANT, "convolution"),
        ((1, 63, 3, 2, 1), CONSTANT, "scan"),
        ((1, 64, 3, 1, 1), CONSTANT, "scan"),
        ((1, 64, 3, 2, 1), {**CONSTANT, "resets": True}, "scan"),
        ((2, 64, 3, 2, 1), {**CONSTANT, "qk_axes": "BHK"}, "scan"),
        ((2, 64, 3, 2, 1), {**CONSTANT, "qk_axes": "LHK"}, "scan"),
        ((1, 64, 3, 2, 1), {**CONSTANT, "amplitude_axes": "LHK"}, "scan"),
        ((1, 64, 3, 2, 1), {**CONSTANT, "phase_axes": "LHK"}, "scan"),
    ],
)
def test_auto(
    shape: tuple[int, int, int, int, int],
    options: dict[str, Any],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    for name in FIXED_MODES:
        run_mode = getattr(operator, name)

        def spy(*args: Any, name: str = name, run_mode: Any = run_mode, **kwargs: Any) -> Any:
            taken.append(name)
            return run_mode(*args, **kwargs)

        monkeypatch.setattr(operator, name, spy)
    with kernels.without():  # which take the place of scan, or of a part of it
        run(make(shape, **options), "auto")
    assert taken == [expected]


def test_inputs_are_left_as_they_are() -> None:
    x = make((B, L, H, 1, 1), phase="half turns", resets=True)
    before = {name: t.clone() for name, t in x.differentiable().items()}
    for mode in MODES:
        run(x, mode)
    assert all(torch.equal(before[name], t) for name, t in x.differentiable().items())


@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "PyTorch"])
@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize("kind", ["", "v"], ids=["real v", "complex v"])
def test_signs_of_a_recurrence_without_q_and_k(kind: str, mode: str, plain: bool) -> None:
    """The states of h_n = ±|a_n| h_{n-1} + v_n, where there is no q to carry the signs."""
    x = make((B, 40, H, 1, 1), phase="half turns", complex_inputs=kind)
    ones = torch.ones(1, 1, 1, 1, dtype=x.v.real.dtype)
    x = replace(x, q=ones, k=ones, complex_output=bool(kind))

    def states(x: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        y, last = gated_linear_recurrence(
            None, None, x.v, x.log_amplitude, x.phase, mode=mode, state=x.state,
            complex_output=x.complex_output,
        )  # fmt: skip
        return y + 0 * x.q, last + 0 * x.k.sum()

    with kernels.without() if plain else nullcontext():
        found = results(states, x)
    expected = results(step_loop, x)
    for name in found.keys() - {"q", "k"}:
        assert distance(found[name], expected[name]) < 1e-10, name


@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "PyTorch"])
@pytest.mark.parametrize("keys", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_reset_forgets_what_is_not_finite(mode: str, keys: int, plain: bool) -> None:
    """A state that overflows is gone with the reset; by ``chunkwise`` with the reset's chunk."""
    length, overflowing, reset_at = 700, 300, 500
    clean = -(-reset_at // CHUNK) * CHUNK if mode == "chunkwise" else reset_at
    x = make((1, length, 2, keys, keys), amplitude="moderate", state=False)
    log_amplitude = x.log_amplitude.clone()
    log_amplitude[:, :overflowing] = 5
    reset = torch.zeros(1, length, dtype=torch.bool)
    reset[:, reset_at] = True
    x = replace(x, log_amplitude=log_amplitude, reset=reset).to(torch.float32)
    x = x.map(lambda t: t.requires_grad_())
    with kernels.without() if plain else nullcontext():
        y, last = gated_linear_recurrence(
            x.q, x.k, x.v, x.log_amplitude, x.phase, reset=reset, mode=mode, growth=True
        )
        assert not y[:, overflowing:reset_at].isfinite().any()
        expected, expected_last = step_loop(x.steps(reset_at, length))
        assert distance(y[:, clean:], expected[:, clean - reset_at :]) < 1e-5
        assert distance(last, expected_last) < 1e-5
        if mode in ("recurrent", "scan"):
            gradients = torch.autograd.grad(y[:, clean:].sum(), (x.v, x.log_amplitude))
            assert all(by[:, clean:].isfinite().all() for by in gradients)


@pytest.mark.parametrize("axes", ["BLHK", "BLH"])
def test_chunkwise_leaves_what_is_not_finite_in_its_chunk(axes: str) -> None:
    """Of inputs before a reset; the chunks after it read nothing of them."""
    reset = torch.zeros(1, 3 * CHUNK, dtype=torch.bool)
    reset[:, CHUNK + 20] = True
    x = replace(make((1, 3 * CHUNK, 1, 3, 2), amplitude_axes=axes), reset=reset)
    x.v[:, 3] = x.k[:, CHUNK + 5] = x.v[:, CHUNK + 7] = torch.nan
    y, last = gated_linear_recurrence(
        x.q, x.k, x.v, x.log_amplitude, x.phase, state=x.state, reset=reset, mode="chunkwise"
    )
    assert y[:, :CHUNK].isnan().any()
    assert y[:, 2 * CHUNK :].isfinite().all() and last.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_shapes_without_numbers(mode: str) -> None:
    x = make((2, 9, 2, 3, 4)).map(lambda t: t.to("meta"))
    y, last = gated_linear_recurrence(
        x.q, x.k, x.v, x.log_amplitude, x.phase, state=x.state, mode=mode
    )
    assert (y.shape, last.shape) == ((2, 9, 2, 4), (2, 2, 3, 4))


def test_a_conjugated_state() -> None:
    x = make((B, L, H, 1, 1), state=True)
    assert x.state is not None
    expected, _ = step_loop(replace(x, state=x.state.conj().resolve_conj()))
    for mode in MODES:
        assert distance(run(replace(x, state=x.state.conj()), mode)[0], expected) < 1e-10


@pytest.mark.parametrize("plain", [False, True], ids=["kernels", "PyTorch"])
@pytest.mark.parametrize("mode", FIXED_MODES)
def test_a_second_derivative_is_right_or_refused(mode: str, plain: bool) -> None:
    x = make((1, 5, 2, 1, 1), amplitude_axes="H", phase_axes="H", qk_axes="H")
    x = x.map(lambda t: t.detach().requires_grad_())
    names = list(x.differentiable())
    inputs = list(x.differentiable().values())

    def y(*given: torch.Tensor) -> torch.Tensor:
        return run(replace(x, **dict(zip(names, given, strict=True))), mode)[0]

    def twice() -> None:
        first = torch.autograd.grad(y(*inputs).sum(), inputs[2:], create_graph=True)
        torch.autograd.grad(torch.stack([g.abs().sum() for g in first]).sum(), inputs[0])

    with kernels.without() if plain else nullcontext():
        if mode not in ("scan", "convolution"):
            assert torch.autograd.gradgradcheck(y, inputs)
        else:
            with pytest.raises(RuntimeError, match=r"first derivative only|no autograd"):
                twice()


@pytest.mark.parametrize("size", [(1, 5, 2, 1, 1), (1, 5, 2, 1, 4), (1, 5, 2, 3, 5)], ids=str)
def test_a_second_derivative_by_a_kernel_is_refused_though_there_is_another_way(
    size: tuple[int, ...],
) -> None:
    """Else the other way's part would be taken for the whole."""
    x = make(size, state=False).map(lambda t: t.detach().requires_grad_())
    y, _ = run(x, "scan")
    with pytest.raises(RuntimeError, match="first derivative only"):
        torch.autograd.grad(y.sum() + (x.v * x.v).sum(), x.v, create_graph=True)


@pytest.mark.parametrize("size", [(1, 5, 2, 1, 1), (1, 5, 2, 3, 5)], ids=str)
def test_a_derivative_forward_through_a_kernel_is_refused(size: tuple[int, ...]) -> None:
    """No tensor requires a gradient there: else it would be silently none."""
    x = make(size, state=False)
    with forward_ad.dual_level():
        v = forward_ad.make_dual(x.v, torch.ones_like(x.v))
        with pytest.raises(NotImplementedError, match="forward mode AD"):
            run(replace(x, v=v), "scan")
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.func.jvp(lambda v: run(replace(x, v=v), "scan")[0], (x.v,), (torch.ones_like(x.v),))


@pytest.mark.parametrize("mode", ["recurrent", "scan", "chunkwise"])
def test_thousands_of_steps_remembered_whole(mode: str) -> None:
    """With |a| = 1 an error in the size of e^{i·phase} is multiplied by the length."""
    x = make((1, 4096, 4, 1, 1), amplitude="one", amplitude_axes="", state=False)
    assert_same(lambda given: run(given, mode), x.to(torch.float32), 1e-5)
