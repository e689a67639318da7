"""The C kernels: built, called on whatever tensors there are, and left out where they cannot be."""

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gateloop.recurrence import gate_loop, gated_linear_recurrence, kernels, linear_scan
from gateloop.recurrence.kernels import compiler, cuda, operators
from tests.recurrence.reference import (
    TOLERANCE,
    Inputs,
    assert_same,
    distance,
    make,
    results,
    step_loop,
)
from tests.recurrence.test_agreement import CASES, run

ROOT = Path(__file__).resolve().parents[2]
LONG = (2, 131, 37, 1, 1)  # several kept states, no whole number of vectors
REALS = list(TOLERANCE)

pytestmark = pytest.mark.skipif(
    not shutil.which("cc") and not os.environ.get("CC"), reason="no C compiler"
)


def test_there_are_kernels_where_there_is_a_compiler() -> None:
    assert kernels.available("cpu", torch.float32) and kernels.available("cpu", torch.float64)
    with kernels.without():
        assert not kernels.available("cpu", torch.float32)
    assert kernels.available("cpu", torch.float32)


def fused(x: Inputs) -> bool:
    turns = x.phase is not None
    return not x.complex_output and kernels.fuses(x.q, x.k, x.v, turns, turns, x.v.dtype)


@pytest.mark.parametrize("real", REALS, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"phase": "none"},
        {"resets": True},
        {"state": False},
        {"amplitude_axes": "H", "phase_axes": "H"},
        {"amplitude_axes": "H"},
        {"phase_axes": "BH"},
        {"amplitude_axes": "LH", "phase_axes": "L"},
        {"amplitude_axes": "", "amplitude": "one", "phase": "none", "qk_axes": "H"},
        {"qk_axes": "BH", "resets": True},
    ],
    ids=str,
)
def test_the_fused_recurrence(options: dict[str, object], real: torch.dtype) -> None:
    x = make(LONG, **options)  # type: ignore[arg-type]
    assert fused(x)
    assert_same(partial(run, mode="scan"), x.to(real), TOLERANCE[real])


@pytest.mark.parametrize("real", REALS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_without_kernels(case: str, real: torch.dtype) -> None:
    with kernels.without():
        assert_same(partial(run, mode="scan"), CASES[case].to(real), TOLERANCE[real])


# more keys and values than a group and a block, no whole number of vectors, several kept states
WIDE = (1, 75, 2, 41, 37)


@pytest.mark.parametrize("real", REALS, ids=str)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (WIDE, {"resets": True}),
        (WIDE, {"phase": "none", "state": False}),
        (WIDE, {"complex_inputs": "qk"}),
        (WIDE, {"complex_inputs": "k", "phase": "none", "resets": True}),
        (WIDE, {"complex_inputs": "q", "amplitude_axes": "HK"}),
        (WIDE, {"amplitude_axes": "BLH", "phase_axes": "HK"}),
        (WIDE, {"amplitude_axes": "H", "phase_axes": "K", "resets": True}),
        (WIDE, {"qk_axes": "HK", "complex_inputs": "qk"}),
        ((3, 33, 1, 64, 1), {}),
        ((3, 64, 2, 1, 20), {}),
        ((9, 5, 2, 8, 8), {"phase": "half turns"}),
    ],
    ids=str,
)
def test_the_fused_outer_product(
    shape: tuple[int, int, int, int, int], options: dict[str, object], real: torch.dtype
) -> None:
    x = make(shape, **options)  # type: ignore[arg-type]
    assert fused(x)
    assert_same(partial(run, mode="scan"), x.to(real), TOLERANCE[real])


def test_gates_are_right_to_two_units_in_the_last_place() -> None:
    """A state of one and no input: what is left after one step is the transition."""
    logit = torch.linspace(-85, 85, 20001)[None, None, :, None]
    angle = torch.linspace(-1000, 1000, 20001)[None, None, :, None]
    nothing, state = torch.zeros(1, 1, 20001, 1), torch.ones(1, 20001, 1, 1)
    for beta in (None, angle):
        _, last = gate_loop(nothing, nothing, nothing, logit, beta, state=state)
        amplitude = torch.sigmoid(logit.double())
        a = amplitude if beta is None else torch.polar(amplitude, beta.double())
        error = ((last[..., 0] - a[0, 0]).abs() / amplitude[0, 0]).max().item()
        assert error < 4 * torch.finfo(torch.float32).eps


def by_logits(x: Inputs, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return gate_loop(x.q, x.k, x.v, alpha, x.phase, state=x.state, reset=x.reset)


@pytest.mark.parametrize("real", REALS, ids=str)
def test_gates_from_logits_of_minus_30_and_8(real: torch.dtype) -> None:
    x = make(LONG, resets=True)
    alpha = torch.randn(x.k.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    alpha[:, ::3] -= 30
    alpha[:, 1::3] += 8
    given = replace(x, log_amplitude=alpha)

    def expected(x: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        return step_loop(replace(x, log_amplitude=torch.nn.functional.logsigmoid(x.log_amplitude)))

    right = results(expected, given)
    found = results(lambda x: by_logits(x, x.log_amplitude), given.to(real))
    far = {name: distance(found[name], right[name]) for name in right}
    assert all(value <= TOLERANCE[real] for value in far.values()), far


def strided(t: torch.Tensor) -> torch.Tensor:
    """The same numbers, no two of them side by side."""
    spread = t.new_zeros(*t.shape, 3)
    spread[..., 1] = t
    return spread[..., 1]


@pytest.mark.parametrize("shape", [LONG, (2, 40, 3, 5, 7)], ids=str)
def test_any_strides(shape: tuple[int, int, int, int, int]) -> None:
    x = make(shape, resets=True).to(torch.float32)
    y, last = run(x, "scan")
    for change in (strided, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)):
        found_y, found_last = run(x.map(change), "scan")
        assert torch.equal(found_y, y) and torch.equal(found_last, last)
    # channels of one wide projection, as a model has them
    heads, d_key, d_value = x.v.shape[2], x.q.shape[3], x.v.shape[3]
    wide = torch.cat([t.flatten(2) for t in (x.q, x.k, x.v)], 2)
    parts = wide.split([heads * d_key, heads * d_key, heads * d_value], 2)
    q, k, v = (t.unflatten(2, (heads, -1)) for t in parts)
    found_y, found_last = run(replace(x, q=q, k=k, v=v), "scan")
    assert torch.equal(found_y, y) and torch.equal(found_last, last)


def test_a_strided_gradient() -> None:
    x = make(LONG).to(torch.float32).map(lambda t: t.requires_grad_())
    y, _ = run(x, "scan")
    weight = torch.randn(y.shape)
    inputs = list(x.differentiable().values())
    expected = torch.autograd.grad(y, inputs, weight, retain_graph=True)
    found = torch.autograd.grad(y, inputs, strided(weight))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("mode", ["recurrent", "scan", "chunkwise", "attention"])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2)], ids=str)
def test_a_batch_of_nothing(sizes: tuple[int, int], mode: str) -> None:
    x = make((0, 9, 2, *sizes), resets=True).map(lambda t: t.requires_grad_())
    y, last = run(x, mode)
    assert y.shape == x.v.shape and last.shape == (0, 2, *sizes)
    gradients = torch.autograd.grad(y.sum() + last.real.sum(), [x.q, x.v, x.log_amplitude])
    assert [g.shape for g in gradients] == [x.q.shape, x.v.shape, x.log_amplitude.shape]


@pytest.mark.parametrize("shape", [(3, 70, 200, 1, 1), (1, 40, 1, 10, 70)], ids=str)
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, int, int, int, int]) -> None:
    x = make(shape).to(torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(results(partial(run, mode="scan"), x))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in other)


@pytest.mark.parametrize("channels", [256, 257])  # whole cache lines, and not
@pytest.mark.parametrize("fixed", [(), ("amplitude",), ("amplitude", "phase"), ("no phase",)])
def test_a_sequence_past_the_caches_is_its_parts(fixed: tuple[str, ...], channels: int) -> None:
    """Results of large passes are streamed to memory, those of a quarter of them are not."""
    length, quarter = 16384, 4096
    size = (1, length, channels, 1)
    q, k, v = (torch.randn(size).requires_grad_() for _ in range(3))
    amplitude = torch.randn(1, 1 if "amplitude" in fixed else length, *size[2:]) + 2
    phase = torch.randn(1, 1 if "phase" in fixed else length, *size[2:])
    gates = [amplitude.requires_grad_()]
    if "no phase" not in fixed:
        gates.append(phase.requires_grad_())
    inputs = (q, k, v, *gates)
    reset = torch.rand(1, length) < 0.01
    weight = torch.randn(size)

    def part(steps: slice, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        gate = [g if g.shape[1] == 1 else g[:, steps] for g in gates]
        beta = gate[1] if len(gate) > 1 else None
        qkv = (t[:, steps] for t in (q, k, v))
        return gate_loop(*qkv, gate[0], beta, state=state, reset=reset[:, steps])

    whole, last = part(slice(0, length), None)
    by_whole = torch.autograd.grad((whole * weight).sum(), inputs)
    ys, state = [], None
    for start in range(0, length, quarter):
        y, state = part(slice(start, start + quarter), state)
        ys.append(y)
    by_parts = torch.autograd.grad((torch.cat(ys, 1) * weight).sum(), inputs)
    assert torch.equal(whole, torch.cat(ys, 1)) and torch.equal(last, state)
    for one, other, given in zip(by_whole, by_parts, inputs, strict=True):
        if given.shape[1] == length:
            assert torch.equal(one, other)
        else:  # a sum in another order
            assert distance(one, other) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("channels", [256, 257])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32], ids=str)
@pytest.mark.parametrize("fixed", [False, True])
def test_a_long_bare_scan_is_its_parts(fixed: bool, dtype: torch.dtype, channels: int) -> None:
    """As above: of its two passes in complex numbers both are large, in real ones the second is."""
    length, quarter = 16384, 4096
    a, x, weight = (
        torch.randn(1, n, channels, dtype=dtype) for n in (1 if fixed else length, length, length)
    )
    a = (a / (1 + a.abs())).requires_grad_()
    x.requires_grad_()
    reset = torch.rand(1, length) < 0.01

    def part(steps: slice, state: torch.Tensor | None) -> torch.Tensor:
        of = a if fixed else a[:, steps]
        return linear_scan(of, x[:, steps], state, reset=reset[:, steps])

    whole = part(slice(0, length), None)
    parts: list[torch.Tensor] = []
    for start in range(0, length, quarter):
        parts.append(part(slice(start, start + quarter), parts[-1][:, -1] if parts else None))
    assert torch.equal(whole, torch.cat(parts, 1))
    by_whole = torch.autograd.grad(whole, (a, x), weight)
    by_parts = torch.autograd.grad(torch.cat(parts, 1), (a, x), weight)
    assert torch.equal(by_whole[1], by_parts[1])
    if fixed:  # a sum in another order
        assert distance(by_whole[0], by_parts[0]) < TOLERANCE[torch.float32]
    else:
        assert torch.equal(by_whole[0], by_parts[0])


def test_what_is_not_a_number_stays_in_its_channel() -> None:
    x = make((1, 40, 5, 1, 1)).to(torch.float32)
    gate = x.log_amplitude.clone()
    gate[0, 10, 2] = torch.nan
    y, _ = run(replace(x, log_amplitude=gate), "scan")
    assert y[0, 10:, 2].isnan().all()
    assert y[0, :10].isfinite().all() and y[0, :, [0, 1, 3, 4]].isfinite().all()


def test_a_log_amplitude_without_bounds() -> None:
    x = make((1, 12, 3, 1, 1), amplitude="moderate").to(torch.float32)
    gate = x.log_amplitude.abs()
    gate[0, 3, 0], gate[0, 3, 1] = -torch.inf, 200.0
    given = replace(x, log_amplitude=gate)
    with kernels.without():
        expected, _ = growing(given)
    y, _ = growing(given)
    assert torch.equal(y.isfinite(), expected.isfinite())
    assert not y.isfinite().all()
    assert distance(y[:, :, 0], expected[:, :, 0]) < TOLERANCE[torch.float32]


def growing(x: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return gated_linear_recurrence(
        x.q, x.k, x.v, x.log_amplitude, x.phase, state=x.state, growth=True
    )


@pytest.mark.parametrize("phase", [1e3, 1e5, 1e9])
def test_a_large_phase_is_a_phase(phase: float) -> None:
    """Its amplitude stays one, whatever is left of the angle in float32."""
    x = make((1, 500, 3, 1, 1), amplitude="one").to(torch.float32)
    assert x.phase is not None
    x = replace(x, phase=x.phase * phase, k=x.k * 0)
    _, last = run(x, "scan")
    assert x.state is not None
    torch.testing.assert_close(last.abs(), x.state.abs(), rtol=1e-4, atol=0)
    if phase <= 1e5:
        assert distance(last, step_loop(x.to(torch.float64))[1]) < 1e-4


def test_less_than_a_byte_per_number_is_kept_for_the_backward_pass() -> None:
    x = make((2, 512, 64, 1, 1), state=False).to(torch.float32)
    x = x.map(lambda t: t.requires_grad_())
    given = {t.untyped_storage().data_ptr() for t in x.differentiable().values()}
    kept = 0

    def keep(t: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        if t.untyped_storage().data_ptr() not in given:
            kept += t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        gate_loop(x.q, x.k, x.v, x.log_amplitude, x.phase)
    assert 0 < kept < x.v.numel()


def test_ten_thousand_calls_leak_nothing() -> None:
    x, outer = (
        make(shape).to(torch.float32).map(lambda t: t.requires_grad_())
        for shape in ((1, 64, 64, 1, 1), (1, 8, 2, 32, 16))
    )

    def calls(number: int) -> int:
        for n in range(number):
            given = outer if n % 2 else x
            y, last = run(given, "scan")
            torch.autograd.grad(y.sum() + last.real.sum(), [given.q, given.log_amplitude])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

    before = calls(500)
    # A single lost result, 16 KiB, would be 160 MiB.
    assert calls(10_000) - before < 16 * 1024


class Kept(TorchDispatchMode):
    """The numbers of state that the recurrences called inside have kept."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (operators.gate_loop, operators.outer_product):
            self.numbers += result[2].numel()
        return result


@pytest.mark.parametrize("shape", [LONG, WIDE], ids=["channels", "heads"])
def test_a_state_is_kept_only_where_a_gradient_is_asked_for(shape: tuple[int, ...]) -> None:
    x = make(shape).to(torch.float32)
    leaf = replace(x, v=x.v.clone().requires_grad_())
    with Kept() as asked:
        expected = run(leaf, mode="scan")
    with Kept() as unasked:
        found = run(x, mode="scan")
        with torch.no_grad():
            run(leaf, mode="scan")
    assert unasked.numbers == 0 < asked.numbers
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("phase", ["angle", "none"])
def test_torch_knows_the_operators(phase: str) -> None:
    x = make((2, 20, 3, 1, 1), phase=phase).to(torch.float32)
    q, k, v, amplitude = (t.requires_grad_() for t in (x.q, x.k, x.v, x.log_amplitude))
    angle = None if x.phase is None else x.phase.requires_grad_()
    state = torch.randn(2, 3, 1, 1, 1 if angle is None else 2, requires_grad=True)
    given = (q, k, v, amplitude, angle, state, None, True, False, False)
    torch.library.opcheck(operators.gate_loop, given)
    unasked = [t.detach() if isinstance(t, torch.Tensor) else t for t in given[:-1]]
    torch.library.opcheck(operators.gate_loop, (*unasked, True))
    outer = [t.expand(*t.shape[:3], 2).clone().requires_grad_() for t in (q, k, v, amplitude)]
    phases = None if angle is None else outer[3].detach().clone().requires_grad_()
    states = torch.randn(2, 3, 2, 2, 1 if angle is None else 2, requires_grad=True)
    torch.library.opcheck(
        operators.outer_product, (*outer, phases, states, None, False, False, False)
    )
    a, x, start = torch.rand(2, 20, 3), torch.randn(2, 20, 3), torch.zeros(2, 3)
    torch.library.opcheck(operators.linear_scan_, (a, x, start, None, torch.empty_like(x), False))
    torch.library.opcheck(operators.linear_scan_, (a, x, start, None, x, True))


def test_in_a_compiled_function() -> None:
    x = make(LONG).to(torch.float32)

    def loss(q: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        return gate_loop(2 * q, x.k, x.v, alpha, x.phase)[0].square().mean()

    gradients = []
    for function in (loss, torch.compile(loss)):
        q, alpha = (t.detach().clone().requires_grad_() for t in (x.q, x.log_amplitude))
        gradients.append(torch.autograd.grad(function(q, alpha), [q, alpha]))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "operator", "argument"),
    [
        ("gate_loop", "gate_loop", 3),
        ("outer_product", "outer_product", 3),
        ("linear_scan", "linear_scan_", 0),
        ("linear_scan", "linear_scan_backward", 1),
    ],
)
def test_a_device_whose_kernels_are_wrong_is_found_out(
    kind: str, operator: str, argument: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():  # the first use may be in a validation
        assert cuda.disagreement(kind, torch.device("cpu")) == ""
    right = getattr(operators, operator)

    def wrong(*given):  # type: ignore[no-untyped-def]
        return right(*given[:argument], 1.001 * given[argument], *given[argument + 1 :])

    monkeypatch.setattr(operators, operator, wrong)
    assert "is off by" in cuda.disagreement(kind, torch.device("cpu"))


def scanned(a: torch.Tensor, x: torch.Tensor, start: torch.Tensor, reset: torch.Tensor | None):  # type: ignore[no-untyped-def]
    """The same, a step at a time."""
    h, states = start, []
    for n in range(x.shape[1]):
        if reset is not None:
            h = h * ~reset[:, n, None]
        h = a[:, n if a.shape[1] > 1 else 0] * h + x[:, n]
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.parametrize("plain", [False, True], ids=["kernel", "PyTorch"])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    ("axes", "length"), [((2, 70), 70), ((2, 1), 70), ((1, 70), 70), ((1, 1), 70), ((2, 1), 1)]
)
@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64, torch.complex64], ids=str)
def test_linear_scan(
    dtype: torch.dtype, axes: tuple[int, int], length: int, resets: bool, plain: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    a, x, start = (
        torch.randn(*shape, 5, generator=draw, dtype=wide) for shape in (axes, (2, length), (2,))
    )
    a = a / (1 + a.abs())
    reset = torch.rand(2, length, generator=draw) < 0.1 if resets else None
    weight = torch.randn(2, length, 5, generator=draw, dtype=wide)

    def all_of(function, *given: torch.Tensor):  # type: ignore[no-untyped-def]
        given = tuple(t.clone().requires_grad_() for t in given)
        h = function(*given)
        return h, *torch.autograd.grad(h, given, weight.to(h.dtype))

    expected = all_of(lambda *given: scanned(*given, reset), a, x, start)
    narrow = [t.to(dtype) for t in (a, x, start)]
    call = partial(linear_scan, reset=reset)
    if plain:
        with kernels.without():
            found = all_of(call, *narrow)
    else:
        found = all_of(call, *narrow)
    tolerance = 1e-5 if dtype == torch.complex64 else 1e-10
    assert all(distance(f, e) < tolerance for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(2, 5)}, r"x is torch.float32 of shape \(2, 5\)"),
        ({"x": torch.zeros(2, 5, 0)}, "at least one channel"),
        ({"a": torch.zeros(2, 4, 3)}, "a is torch.float32 of shape"),
        ({"a": torch.zeros(2, 5, 3, dtype=torch.complex64)}, "a is torch.complex64"),
        ({"state": torch.zeros(3, 2)}, r"\(batch, channels\), here \(2, 3\)"),
        ({"reset": torch.zeros(2, 5)}, "reset is torch.float32"),
    ],
    ids=str,
)
def test_linear_scan_says_what_is_wrong(change: dict[str, torch.Tensor], said: str) -> None:
    given = {"a": torch.zeros(2, 5, 3), "x": torch.zeros(2, 5, 3), **change}
    named = {name: t for name, t in given.items() if name not in ("a", "x")}
    with pytest.raises(ValueError, match=said):
        linear_scan(given["a"], given["x"], named.get("state"), reset=named.get("reset"))


@pytest.mark.parametrize("shape", [(2, 70, 3, 1, 1), (2, 70, 3, 4, 5)], ids=str)
def test_what_is_kept_may_come_back_to_any_address(shape: tuple[int, int, int, int, int]) -> None:
    """As from a hook of torch's that has stored it elsewhere; a vector read there would crash."""

    def moved(t: torch.Tensor) -> torch.Tensor:
        room = t.new_empty(t.numel() + 1)[1:].view(t.shape)
        return room.copy_(t)

    x = make(shape)
    with torch.autograd.graph.saved_tensors_hooks(moved, lambda t: t):
        assert_same(partial(run, mode="scan"), x, 1e-10)


@pytest.mark.parametrize("real", REALS, ids=str)
@pytest.mark.parametrize("keys", [1, 4])
def test_the_gradient_of_logits_that_forget_all(keys: int, real: torch.dtype) -> None:
    q, k, v, alpha, beta = torch.randn(5, 1, 6, 2, keys, dtype=real).unbind()
    alpha[:, 2], alpha[:, 4] = -800, -torch.inf
    (found,) = torch.autograd.grad(
        gate_loop(q, k, v, alpha.requires_grad_(), beta, mode="scan")[0].sum(), alpha
    )
    assert found[:, [2, 4]].abs().max() < 1e-30
    assert found[:, [1, 3, 5]].all() and found.isfinite().all()


def test_threads_change_no_bit_of_a_scan_with_shared_transitions() -> None:
    noise = torch.Generator().manual_seed(0)
    a = torch.randn(1, 40, 7, generator=noise, dtype=torch.complex64) / 4
    x = torch.randn(1, 40, 7 * 13, generator=noise, dtype=torch.complex64)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            out = torch.empty_like(x)
            operators.linear_scan_(a, x, x[:, 0], None, out, False)
            found.append(out)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(out, found[0]) for out in found)


PROGRAM = """
import torch
from gateloop.recurrence import gate_loop
torch.manual_seed(0)
q, k, v, alpha, beta = torch.randn(5, 1, 50, 4, 1)
print(gate_loop(q, k, v, alpha, beta)[0].sum().item())
"""


def start(folder: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
    """With a cache of its own in ``folder``, or with that of the tests, where all is built."""
    cache = {} if folder is None else {"GATELOOP_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **cache, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(process: "subprocess.Popen[str]") -> tuple[float, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return float(out), err


def test_several_processes_build_at_once(tmp_path: Path) -> None:
    values = [said_by(process) for process in [start(tmp_path) for _ in range(2)]]
    assert len({value for value, _ in values}) == 1 and not any(err for _, err in values)
    (folder,) = (tmp_path / "kernels").iterdir()
    (library,) = folder.glob("*.so")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["build.log", library.name])
    built = library.stat().st_mtime_ns
    said_by(start(tmp_path))
    assert library.stat().st_mtime_ns == built


def test_a_damaged_library_is_built_again(tmp_path: Path) -> None:
    value, _ = said_by(start(tmp_path))
    (library,) = tmp_path.glob("kernels/*/*.so")
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    assert said_by(start(tmp_path)) == (value, "")
    assert library.read_bytes() == whole


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"CC": "no-such-compiler"},
            "gateloop: no C kernels (no-such-compiler of $CC is not there)",
        ),
        ({"CC": "false"}, "false fails, see "),
        ({"CC": "cc '"}, "$CC is no command: No closing quotation"),
        ({"CC": "bash -c 'printf \"\\\\377\" >&2; exit 1'"}, "bash fails, see "),
        ({"GATELOOP_KERNELS": "off"}, ""),
    ],
    ids=str,
)
def test_without_a_compiler_it_says_so_once_and_goes_on(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    expected, _ = said_by(start())
    value, err = said_by(start(tmp_path, **environment))
    assert abs(value - expected) < 1e-4
    assert said in err and len(err.splitlines()) == (1 if said else 0)


def test_where_nothing_can_be_kept_it_builds_for_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    _, err = said_by(start(tmp_path / "file", TMPDIR=str(temporary)))
    assert err == "" and not list(temporary.iterdir())


def test_without_a_home_it_builds_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiler, "cache_folder", homeless)
    assert compiler.loaded("float").gate_loop_forward


def test_a_changed_source_is_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiler.find_compiler()
    before = compiler.key(found, "float")
    assert compiler.key(found, "double") != before
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DOTHER"))
    assert compiler.key(found, "float") != before
