"""The Triton kernels against a float64 step loop: interpreted on the CPU, compiled where CUDA is.

The interpreter runs a kernel's operations one by one with NumPy: what is computed is held to
account without a GPU, how fast it is is not.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

CUDA = torch.cuda.is_available()
if not CUDA:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton was imported before it was told to interpret", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"  # triton reads it where a kernel is defined
triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from gateloop.recurrence import gated_linear_recurrence, kernels  # noqa: E402
from gateloop.recurrence.kernels import cpu, cuda, operators  # noqa: E402
from gateloop.recurrence.kernels import triton_chunkwise as chunkwise  # noqa: E402
from gateloop.recurrence.kernels import triton_elementwise as elementwise  # noqa: E402
from gateloop.recurrence.kernels import triton_linear_scan as linear_scan  # noqa: E402
from gateloop.recurrence.kernels.triton_math import exp, sin_cos  # noqa: E402
from tests.recurrence.reference import Inputs, assert_same, distance, make, step_loop  # noqa: E402

TOLERANCE = 1e-5
CHUNK = 4
COMPILED = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not CUDA, reason="needs CUDA")]
)
INTERPRETED = pytest.param("cpu", marks=pytest.mark.skipif(CUDA, reason="compiled instead"))


@triton.jit
def _functions(x, out, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    sin, cos = sin_cos(tl.load(x + i))
    tl.store(out + i, exp(tl.load(x + i)))
    tl.store(out + SIZE + i, sin)
    tl.store(out + 2 * SIZE + i, cos)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 80.0, 1e5])
def test_elementary_functions(scale: float, device: str) -> None:
    size = 4096
    x = (torch.linspace(-scale, scale, size) + torch.rand(size) * scale / size).to(device)
    out = torch.empty(3, size, device=device)
    _functions[(1,)](x, out, size)
    powers = x.double().clamp(-87, 88).exp()
    expected = torch.stack([powers, x.double().sin(), x.double().cos()])
    expected[0] /= powers
    out = out.double()
    out[0] /= powers
    assert (out - expected).abs().max() < 1.5e-7


@dataclass(frozen=True)
class Elementwise:
    """Arguments of the element-wise operator, in its order."""

    q: Tensor
    k: Tensor
    v: Tensor
    amplitude: Tensor
    phase: Tensor | None
    state: Tensor
    reset: Tensor | None
    logits: bool = True
    growth: bool = False

    def to(self, device: str) -> Elementwise:
        moved = {n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)}
        return replace(self, **moved)


def elementwise_case(
    batch: int,
    length: int,
    channels: int,
    *,
    logits: bool = True,
    amplitude_axes: str = "BL",
    phase_axes: str | None = "BL",
    phase_scale: float = 3.0,
    resets: bool = False,
) -> Elementwise:
    """Random arguments, gate logits mixing −30 and +8. Axes not named have size 1."""
    noise = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=noise)

    def gate_size(axes: str) -> tuple[int, int, int]:
        return (batch if "B" in axes else 1, length if "L" in axes else 1, channels)

    alpha = mixed(normal(*gate_size(amplitude_axes)), noise)
    parts = 1 if phase_axes is None else 2
    return Elementwise(
        *(normal(batch, length, channels) for _ in range(3)),
        alpha if logits else logsigmoid(alpha),
        None if phase_axes is None else phase_scale * normal(*gate_size(phase_axes)),
        normal(batch, channels, parts),
        torch.rand(batch, length, generator=noise) < 0.15 if resets else None,
        logits,
    )


def mixed(alpha: Tensor, noise: torch.Generator) -> Tensor:
    kind = torch.rand(alpha.shape, generator=noise)
    return torch.where(kind < 0.2, alpha - 30, torch.where(kind < 0.6, alpha + 8, alpha))


def elementwise_steps(
    q: Tensor, k: Tensor, v: Tensor, log_amplitude: Tensor, phase: Tensor, state: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The recurrence as it is written, every argument expanded to (batch, length, channels)."""
    a = log_amplitude.exp() * torch.exp(1j * phase)
    h = torch.complex(state[..., 0], state[..., 1] if state.shape[2] == 2 else 0 * state[..., 0])
    outputs = []
    for n in range(v.shape[1]):
        if reset is not None:
            h = h * ~reset[:, n, None]
        h = a[:, n] * h + k[:, n] * v[:, n]
        outputs.append(q[:, n] * h.real)
    return torch.stack(outputs, 1), torch.stack([h.real, h.imag], -1)[..., : state.shape[2]]


def check_elementwise(x: Elementwise, device: str, segments: int | None, **options: int) -> None:
    """y, the last state and every gradient, a broadcast gate's beside the terms of its sum."""
    x = x.to(device)
    size = x.v.shape
    gates = [x.amplitude, torch.zeros_like(x.amplitude) if x.phase is None else x.phase]
    leaves = [t.double().expand(size).detach().requires_grad_() for t in (x.q, x.k, x.v, *gates)]
    leaves.append(x.state.double().requires_grad_())
    q, k, v, amplitude, phase, state = leaves
    log_amplitude = logsigmoid(amplitude) if x.logits else amplitude
    expected = elementwise_steps(q, k, v, log_amplitude, phase, state, x.reset)
    noise = torch.Generator().manual_seed(7)
    grad_y, grad_last = (torch.randn(t.shape, generator=noise).to(device) for t in expected)
    grad_y = grad_y.to(x.v.dtype)
    terms = list(torch.autograd.grad(expected, leaves, (grad_y.double(), grad_last.double())))

    arguments = (x.q, x.k, x.v, x.amplitude, x.phase)
    y, last, checkpoints = elementwise.forward(
        *arguments, x.state, x.reset, x.logits, x.growth, segments=segments, **options
    )
    gradients = elementwise.backward(
        grad_y, grad_last, *arguments, checkpoints, x.reset, x.logits, x.growth,
        segments=segments, **options,
    )  # fmt: skip
    chunk = options.get("chunk", elementwise.CHUNK)
    assert checkpoints.shape == (size[0], -(-size[1] // chunk), x.state.shape[2], size[2])
    assert y.dtype == x.v.dtype and [t.dtype for t in gradients[:3]] == [x.q.dtype] * 3
    far = {}
    names = ("y", "last", "q", "k", "v", "amplitude", "phase", "state")
    for name, found, term in zip(names, (y, last, *gradients), (*expected, *terms), strict=True):
        if name == "phase" and x.phase is None:
            assert found is None
            continue
        assert found is not None
        gate = {"amplitude": x.amplitude, "phase": x.phase}.get(name)
        summed = gate is not None and gate.shape[1] == 1
        far[name] = distance(found, term.sum(1, keepdim=True) if summed else term, term)
    # rounded to 16 bits at the end; the interpreter cuts off where a GPU rounds
    low = () if x.v.dtype == torch.float32 else ("y", "q", "k", "v")
    limits = {name: 2**-7 if name in low else TOLERANCE for name in far}
    assert all(far[name] <= limits[name] for name in far), far


def strided() -> Elementwise:
    """q channels-first, k constant over time, v shared by the batch, a gate in a wider tensor."""
    x = elementwise_case(2, 6, 5)
    return replace(
        x,
        q=x.q.mT.contiguous().mT,
        k=x.k[:, :1].expand_as(x.v),
        v=x.v[:1].expand_as(x.v),
        amplitude=torch.cat([x.amplitude, x.amplitude], -1)[..., :5],
        state=x.state.mT.contiguous().mT,
    )


def first_step_forgets() -> Elementwise:
    x = elementwise_case(2, 6, 3)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[0, 0] = reset[1, CHUNK] = True
    return replace(x, reset=reset)


def in_bfloat16() -> Elementwise:
    x = elementwise_case(1, 9, 5)
    return replace(x, q=x.q.bfloat16(), k=x.k.bfloat16(), v=x.v.bfloat16())


ELEMENTWISE = {
    "data-controlled": elementwise_case(1, 13, 5),
    "length 1": elementwise_case(2, 1, 3),
    "one chunk": elementwise_case(1, 4, 3),
    "a chunk and a step": elementwise_case(1, 5, 3),
    "two blocks of channels": elementwise_case(1, 5, 70),
    "log amplitude": elementwise_case(1, 9, 5, logits=False),
    "real": elementwise_case(1, 9, 5, phase_axes=None, resets=True),
    "fixed": elementwise_case(2, 9, 5, logits=False, amplitude_axes="B", phase_axes="B"),
    "fixed amplitude": elementwise_case(1, 9, 5, amplitude_axes=""),
    "fixed phase": elementwise_case(1, 9, 5, phase_axes=""),
    "real and fixed": elementwise_case(1, 9, 5, amplitude_axes="", phase_axes=None),
    "gates shared by the batch": elementwise_case(2, 5, 3, amplitude_axes="L", phase_axes="L"),
    "resets": elementwise_case(1, 11, 5, resets=True),
    "the first step forgets": first_step_forgets(),
    "large phases": elementwise_case(1, 9, 5, phase_scale=3e4),
    "strided": strided(),
    "bfloat16": in_bfloat16(),
}


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("case", ELEMENTWISE)
def test_elementwise_split_in_time(case: str, device: str) -> None:
    check_elementwise(ELEMENTWISE[case], device, segments=3, chunk=CHUNK)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("case", ["data-controlled", "fixed", "resets"])
def test_elementwise_serial(case: str, device: str) -> None:
    check_elementwise(ELEMENTWISE[case], device, segments=1, chunk=CHUNK)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
def test_elementwise_growth(device: str) -> None:
    x = replace(elementwise_case(1, 9, 3, logits=False), growth=True)
    x = replace(x, amplitude=x.amplitude.clamp(-1) + 0.3)
    check_elementwise(x, device, None)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
def test_elementwise_counts_a_positive_log_amplitude_as_zero(device: str) -> None:
    x = elementwise_case(1, 9, 3, logits=False).to(device)
    x = replace(x, amplitude=torch.where(x.amplitude < -1, 0.5, x.amplitude))
    bounded = replace(x, amplitude=x.amplitude.clamp(max=0))
    for found, expected in zip(
        elementwise.forward(**vars(x)), elementwise.forward(**vars(bounded)), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of the NaN
@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
def test_elementwise_least_amplitudes(device: str) -> None:
    x = elementwise_case(1, 3, 4, logits=False).to(device)
    for value in (-87.0, -1000.0, -torch.inf):
        x.amplitude[:, :, 0] = value
        y, last, _ = elementwise.forward(**vars(x))
        assert torch.equal(y[..., 0], (x.q * (x.k * x.v))[..., 0])
    x.amplitude[:, 1, 2] = torch.nan
    y, last, _ = elementwise.forward(**vars(x))
    assert y.isnan().any(0).tolist() == [[False] * 4] + 2 * [[False, False, True, False]]
    assert last.isnan().any(2).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("phase_axes", [None, "BL", ""])
def test_elementwise_of_no_sequences(phase_axes: str | None, device: str) -> None:
    x = elementwise_case(0, 5, 3, phase_axes=phase_axes).to(device)
    y, last, checkpoints = elementwise.forward(**vars(x))
    gradients = elementwise.backward(
        y, last, x.q, x.k, x.v, x.amplitude, x.phase, checkpoints, x.reset, True, False
    )
    time = 1 if phase_axes == "" else 5
    assert [None if t is None else tuple(t.shape) for t in (y, last, checkpoints, *gradients)] == [
        (0, 5, 3), tuple(x.state.shape), (0, 1, x.state.shape[2], 3), (0, 5, 3), (0, 5, 3),
        (0, 5, 3), (0, 5, 3), None if x.phase is None else (0, time, 3), tuple(x.state.shape),
    ]  # fmt: skip


@pytest.mark.parametrize("device", [COMPILED])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("size", [(2, 1000, 300), (3, 64, 8192), (1, 4099, 33)], ids=str)
def test_elementwise_as_large_as_in_use(
    size: tuple[int, int, int], resets: bool, device: str
) -> None:
    check_elementwise(elementwise_case(*size, resets=resets), device, None)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of the NaN
@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("kernel", ["elementwise", "linear scan", "by key", "by head"])
def test_a_reset_clears_what_is_not_finite(kernel: str, segments: int, device: str) -> None:
    """Two documents, cut at step 32: neither's NaN reaches the other, forward or backward."""
    noise = torch.Generator().manual_seed(0)
    keys = 1 if kernel in ("elementwise", "linear scan") else 4

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=noise).to(device)

    q, k, phase = (normal(1, 60, 2, keys) for _ in range(3))
    v, grad = normal(1, 60, 2, keys), normal(1, 60, 2, keys)
    amplitude = -normal(1, 60, 2, 1 if kernel == "by head" else keys).abs()
    state = normal(1, 2, keys, keys, 2)
    reset = torch.zeros(1, 60, dtype=torch.bool, device=device)
    reset[:, 32] = True
    grad[:, 50] = torch.nan
    bad = v.clone()
    bad[:, 3] = torch.nan
    if kernel == "linear scan":
        a, x = torch.polar(amplitude.exp(), phase)[..., 0], torch.complex(bad, bad)[..., 0]
        start, h = torch.view_as_complex(state[:, :, 0, 0].contiguous()), torch.empty_like(x)
        linear_scan.scan_(a, x, start, reset, h, False, segments=segments)
        found, second = h, [h[:, 32:]]
        of_h = torch.complex(grad, grad)[..., 0]
        finite = torch.complex(v, v)[..., 0]
        by_a, by_x, by_start = linear_scan.backward(
            of_h, a, finite, start, reset, segments=segments
        )
        gradient, first = by_x, [by_a[:, :32], by_x[:, :32], by_start]
    else:
        module, chunk = (elementwise, 4) if keys == 1 else (chunkwise, 16)
        if keys == 1:
            q, k, v, bad, amplitude, phase, grad = (
                t[..., 0] for t in (q, k, v, bad, amplitude, phase, grad)
            )
            state = state.flatten(1, 3)
        options = {"segments": segments, "chunk": chunk}
        rest = (reset, False, False)
        found, last, _ = module.forward(q, k, bad, amplitude, phase, state, *rest, **options)
        second = [found[:, 32:], last]
        _, _, kept = module.forward(q, k, v, amplitude, phase, state, *rest, **options)
        *by_inputs, by_state = module.backward(
            grad, torch.zeros_like(state), q, k, v, amplitude, phase, kept, *rest, **options
        )
        gradient, first = by_inputs[1], [*(t[:, :32] for t in by_inputs), by_state]
    assert found[:, 4:32].isnan().any()
    assert gradient[:, 32:50].isnan().any()
    for t in (*first, *second):
        assert t.isfinite().all()


SCANS = {
    "data-controlled": ((2, 11, 5), (2, 11), 1),
    "length 1": ((2, 1, 5), (2, 1), 1),
    "two blocks of channels": ((1, 5, 70), (1, 5), 1),
    "fixed": ((2, 11, 5), (1, 1), 1),
    "fixed, by the batch": ((2, 11, 5), (2, 1), 1),
    "shared by the batch": ((2, 11, 5), (1, 11), 1),
    "shared by channels": ((2, 11, 6), (2, 11), 3),
}


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
@pytest.mark.parametrize("case", SCANS)
def test_linear_scan(case: str, real: bool, segments: int, device: str) -> None:
    """Forward and in reverse, with resets, from strided tensors; and the gradients of the first."""
    (batch, length, channels), axes, repeat = SCANS[case]
    noise = torch.Generator().manual_seed(0)
    wide = torch.float64 if real else torch.complex128

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=noise, dtype=wide)

    a, start, weight = normal(*axes, channels // repeat), normal(batch, channels), None
    a = a / (1 + a.abs())
    x = normal(batch, length, 2 * channels)[..., :channels]
    reset = torch.rand(batch, length, generator=noise) < 0.2
    reset[0, 0] = True

    def steps(a: Tensor, x: Tensor, h: Tensor, order: range) -> Tensor:
        states = {}
        for n in order:
            a_n = a[:, n if a.shape[1] > 1 else 0].repeat_interleave(repeat, dim=-1)
            h = a_n * h * ~reset[:, n, None] + x[:, n]
            states[n] = h
        return torch.stack([states[n] for n in range(length)], 1)

    def narrow(t: Tensor) -> Tensor:
        return t.detach().to(torch.float32 if real else torch.complex64).to(device)

    for reverse in (False, True):
        order = range(length)[::-1] if reverse else range(length)
        strided = narrow(x.mT.contiguous().mT)
        gaps = strided.new_empty(batch, length, 2 * channels)[..., :channels]
        in_place = narrow(x)
        for given, found in ((strided, gaps), (in_place, in_place)):
            others = narrow(a), given, narrow(start), reset.to(device)
            linear_scan.scan_(*others, found, reverse, segments=segments)
            assert distance(found.cpu(), steps(a, x, start, order)) < TOLERANCE
    if repeat > 1:
        return
    leaves = [t.requires_grad_() for t in (a.expand(batch, *a.shape[1:]).clone(), x, start)]
    h, weight = steps(*leaves, range(length)), normal(batch, length, channels)
    gradients = linear_scan.backward(
        narrow(weight.mT.contiguous().mT), narrow(a), narrow(h).contiguous(), narrow(start),
        reset.to(device), segments=segments,
    )  # fmt: skip
    for found, exact in zip(gradients, torch.autograd.grad(h, leaves, weight), strict=True):
        assert distance(found.cpu(), exact) < TOLERANCE


def in_parts(state: Tensor) -> Tensor:
    """(batch, heads, d_key, d_value, P), real and imaginary part."""
    return torch.view_as_real(state) if state.is_complex() else state[..., None]


def check_chunkwise(
    x: Inputs, device: str, segments: int | None, growth: bool = False, **options: int
) -> None:
    """y, the last state and every gradient, a broadcast gate's beside the terms of its sum."""
    assert x.state is not None
    x = x.map(lambda t: t.detach())
    gates = {"log_amplitude": x.log_amplitude, "phase": x.phase}
    size = x.q.shape
    spread = {n: t.expand(size).clone() for n, t in gates.items() if t is not None}
    leaves = replace(x, **spread).map(lambda t: t.requires_grad_())
    y, last = step_loop(leaves)
    expected = [y, in_parts(last)[..., : 1 if x.phase is None else 2]]
    noise = torch.Generator().manual_seed(7)
    grads = [torch.randn(t.shape, generator=noise) for t in expected]
    terms = torch.autograd.grad(
        expected, list(leaves.differentiable().values()), [t.double() for t in grads]
    )
    by_name = dict(zip(leaves.differentiable(), terms, strict=True))
    by_name["state"] = in_parts(by_name["state"])

    x = x.map(lambda t: t.to(torch.complex64 if t.is_complex() else torch.float32).to(device))
    assert x.state is not None
    reset = None if x.reset is None else x.reset.to(device)
    arguments = (x.q, x.k, x.v, x.log_amplitude, x.phase)
    y, last, checkpoints = chunkwise.forward(
        *arguments, in_parts(x.state), reset, False, growth, segments=segments, **options
    )
    gradients = chunkwise.backward(
        grads[0].to(device), grads[1].to(device), *arguments, checkpoints, reset, False, growth,
        segments=segments, **options,
    )  # fmt: skip
    far = {"y": distance(y.cpu(), expected[0]), "last": distance(last.cpu(), expected[1])}
    names = ("q", "k", "v", "log_amplitude", "phase", "state")
    for name, found in zip(names, gradients, strict=True):
        if found is None:
            assert name == "phase" and x.phase is None
            continue
        term, gate = by_name[name], gates.get(name)
        summed = gate is not None and gate.shape[1] == 1
        far[name] = distance(found.cpu(), term.sum(1, keepdim=True) if summed else term, term)
    assert all(value <= TOLERANCE for value in far.values()), far


def strided_heads() -> Inputs:
    x = make((2, 5, 2, 3, 4), seed=3)
    return replace(
        x,
        q=x.q.transpose(1, 2).contiguous().transpose(1, 2),
        k=x.k.mT.contiguous().mT,
        v=x.v[:1].expand_as(x.v),
        log_amplitude=x.log_amplitude.transpose(1, 2).contiguous().transpose(1, 2),
    )


OUTER = {
    "data-controlled": make((1, 33, 1, 5, 3)),
    "length 1": make((2, 1, 1, 3, 4)),
    "one chunk": make((1, 16, 1, 3, 4)),
    "real, by head": make((1, 33, 2, 5, 3), phase="none", amplitude_axes="BLH"),
    "fixed": make((1, 17, 1, 5, 3), amplitude_axes="HK", phase_axes="HK"),
    "fixed by head": make((2, 17, 1, 5, 3), amplitude_axes="H", phase_axes="HK"),
    "all by head": make((1, 17, 2, 3, 2), amplitude_axes="BLH", phase_axes="BLH"),
    "linear attention": make((1, 17, 1, 3, 2), amplitude="one", amplitude_axes="", phase="none"),
    "real, resets": make((1, 17, 1, 5, 3), phase="none", resets=True, seed=6),
    "resets": make((1, 35, 1, 5, 3), resets=True, seed=2),
    "by head, resets": make((2, 35, 1, 5, 3), amplitude_axes="BLH", resets=True, seed=2),
    "several blocks of values": make((1, 17, 1, 20, 130), amplitude_axes="BLH"),
    "large phases": make((1, 17, 1, 3, 2), amplitude_axes="BLH"),
    "strided": strided_heads(),
}
OUTER["large phases"] = replace(
    OUTER["large phases"], phase=(1e4 * OUTER["large phases"].phase).float().double()
)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("case", OUTER)
def test_chunkwise_split_in_time(case: str, device: str) -> None:
    check_chunkwise(OUTER[case].to(torch.float32), device, segments=3, chunk=16)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("case", ["resets", "by head, resets"])
def test_chunkwise_serial(case: str, device: str) -> None:
    check_chunkwise(OUTER[case].to(torch.float32), device, segments=1, chunk=32)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("axes", ["BLHK", "BLH"])
def test_chunkwise_bounds_the_amplitudes(axes: str, device: str) -> None:
    x = make((1, 5, 1, 3, 2), phase="none", amplitude_axes=axes).to(torch.float32)
    x = x.map(lambda t: t.to(device))
    assert x.state is not None
    log_amplitude = x.log_amplitude.clone()
    log_amplitude[:, 1], log_amplitude[:, 3] = 0.5, -torch.inf

    def run(log_amplitude: Tensor, growth: bool = False) -> tuple[Tensor, Tensor]:
        assert x.state is not None
        low = x.q.bfloat16(), x.k.bfloat16(), x.v
        given = (*low, log_amplitude, None, in_parts(x.state), None, False, growth)
        return chunkwise.forward(*given)[:2]

    for growth in (False, True):
        bounded = log_amplitude.clamp(-100, None if growth else 0.0)
        low = replace(x, q=x.q.bfloat16(), k=x.k.bfloat16(), log_amplitude=bounded)
        y, last = step_loop(low.map(lambda t: t.cpu()))
        found = run(log_amplitude, growth)
        assert distance(found[0].cpu(), y) < TOLERANCE
        assert distance(found[1].cpu(), in_parts(last)[..., :1]) < TOLERANCE


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("phase", ["angle", "none"])
def test_chunkwise_of_no_sequences(phase: str, device: str) -> None:
    x = make((0, 5, 2, 3, 4), phase=phase, amplitude_axes="BLH").to(torch.float32)
    x = x.map(lambda t: t.to(device))
    assert x.state is not None
    arguments = (x.q, x.k, x.v, x.log_amplitude, x.phase)
    y, last, kept = chunkwise.forward(*arguments, in_parts(x.state), None, True, False)
    gradients = chunkwise.backward(y, last, *arguments, kept, None, True, False)
    shapes = [None if t is None else t.shape for t in (y, last, *gradients)]
    state, size = in_parts(x.state).shape, x.q.shape
    gates = size, None if x.phase is None else size
    assert shapes == [x.v.shape, state, size, size, x.v.shape, *gates, state]


KINDS = ("gate_loop", "outer_product", "linear_scan")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator takes these kernels: interpreted, in the place of those in C."""
    if CUDA:
        assert all(map(cuda.available, KINDS))
        return
    monkeypatch.setattr(kernels, "reads_16_bits", lambda v: True)
    monkeypatch.setattr(cpu, "gate_loop", operators.gate_loop_on_cuda)
    monkeypatch.setattr(cpu, "gate_loop_backward", operators.gate_loop_backward_on_cuda)
    monkeypatch.setattr(cpu, "outer_product", chunkwise.forward)
    monkeypatch.setattr(cpu, "outer_product_backward", chunkwise.backward)
    monkeypatch.setattr(cpu, "linear_scan_", linear_scan.scan_)
    monkeypatch.setattr(cpu, "linear_scan_backward", linear_scan.backward)


HEADS, MATRICES = (2, 19, 3, 1, 1), (2, 19, 2, 5, 3)
BY_THE_OPERATOR = {
    "max-headed": make(HEADS, resets=True, seed=2),
    "max-headed, signed": make(HEADS, phase="half turns"),
    "max-headed, real, no state": make(HEADS, phase="none", amplitude_axes="H", state=False),
    "outer": make(MATRICES, resets=True, seed=2),
    "outer, shared": make(MATRICES, amplitude_axes="LHK", phase_axes="L"),
    "outer, signed": make(MATRICES, phase="half turns", amplitude_axes="BLH"),
    "outer, real, no state": make(MATRICES, phase="none", amplitude_axes="H", state=False),
    "one key": make((2, 19, 2, 1, 4)),
    "complex v": make(MATRICES, complex_inputs="v", complex_output=True, resets=True, seed=2),
    "complex v, max-headed": make(
        HEADS, amplitude_axes="H", phase_axes="H", complex_inputs="v", complex_output=True
    ),
}


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("case", BY_THE_OPERATOR)
def test_the_operator_takes_them(case: str, taken: None, device: str) -> None:
    def run(x: Inputs) -> tuple[Tensor, Tensor]:
        moved = {n: t.to(device) for n, t in vars(x).items() if isinstance(t, Tensor)}
        given = {"phase": None, **moved, "complex_output": x.complex_output}
        y, last = gated_linear_recurrence(**given, mode="scan")
        return y.cpu(), last.cpu()

    assert_same(run, BY_THE_OPERATOR[case].to(torch.float32), TOLERANCE)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("case", ["max-headed", "outer", "one key", "one value", "constant q"])
def test_inputs_of_16_bits_are_read_as_they_are(case: str, taken: None, device: str) -> None:
    """y and the gradients are those in float32, rounded once; so much, and no more, is saved."""
    others = {
        "one value": make((2, 19, 2, 4, 1), resets=True, seed=2),
        "constant q": make(HEADS, qk_axes="HK"),
    }
    x = (others | BY_THE_OPERATOR)[case].to(torch.float32).map(lambda t: t.detach().to(device))
    low = replace(x, q=x.q.bfloat16(), k=x.k.half(), v=x.v.bfloat16())
    wide = replace(low, q=low.q.float(), k=low.k.float(), v=low.v.float())
    weight = torch.randn(x.v.shape, device=device).bfloat16()
    saved: list[Tensor] = []

    def run(x: Inputs) -> list[Tensor]:
        x = x.map(lambda t: t.requires_grad_())
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            y, last = gated_linear_recurrence(
                x.q, x.k, x.v, x.log_amplitude, x.phase, state=x.state, reset=x.reset, mode="scan"
            )
        by = torch.autograd.grad(y, list(x.differentiable().values()), weight.to(y.dtype))
        return [y, last, *by]

    expected, found = run(wide), run(low)
    assert [t.dtype for t in found[2:5]] == [torch.bfloat16, torch.float16, torch.bfloat16]
    assert torch.equal(found[1], expected[1]) and found[0].dtype == torch.bfloat16
    for ours, exact in zip(found, expected, strict=True):  # the interpreter cuts digits off
        assert torch.allclose(ours.to(exact.dtype), exact, rtol=2**-7, atol=1e-5)
    if case in ("max-headed", "outer"):
        assert all(any(t is kept for kept in saved) for t in (low.q, low.k, low.v))


def test_a_kernel_that_fails_names_the_way_around_it() -> None:
    @operators._triton("gate_loop")
    def failing(x: int) -> None:
        raise ValueError(f"out of resource: {x}\nand more")

    with pytest.raises(
        RuntimeError, match=r"fails .ValueError: out of resource: 3.; .*KERNELS=off"
    ):
        failing(3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_problems_of_the_first_use(
    kind: str, taken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU on which these kernels are right is not found wrong."""
    if not CUDA:
        monkeypatch.setattr(cuda, "LENGTH", 20)
    assert cuda.disagreement(kind, torch.device("cuda" if CUDA else "cpu")) == ""


@pytest.mark.parametrize("device", [COMPILED])
@pytest.mark.parametrize("amplitude_axes", ["BLHK", "BLH"])
@pytest.mark.parametrize("phase", ["angle", "none"])
def test_chunkwise_as_large_as_in_use(phase: str, amplitude_axes: str, device: str) -> None:
    for size in ((2, 333, 3, 64, 64), (1, 130, 2, 128, 100)):
        x = make(size, phase=phase, amplitude_axes=amplitude_axes, resets=True)
        check_chunkwise(x.to(torch.float32), device, None)


@pytest.mark.parametrize("device", [INTERPRETED, COMPILED])
@pytest.mark.parametrize("segments", [1, 2])
def test_states_that_no_gradient_asks_for_are_not_kept(segments: int, device: str) -> None:
    x = elementwise_case(1, 150, 3, phase_axes="BL").to(device)
    rows = (x.q, x.k, x.v, x.amplitude, x.phase, x.state)
    heads = make((1, 150, 2, 3, 4)).to(torch.float32).map(lambda t: t.to(device))
    assert heads.state is not None
    matrices = (heads.q, heads.k, heads.v, heads.log_amplitude, heads.phase)
    for forward, given in (
        (elementwise.forward, rows),
        (chunkwise.forward, (*matrices, in_parts(heads.state))),
    ):
        kept = forward(*given, None, False, False, True, segments=segments)
        unkept = forward(*given, None, False, False, False, segments=segments)
        assert kept[2].shape[1] == 3 and unkept[2].numel() == 0
        assert torch.equal(kept[0], unkept[0]) and torch.equal(kept[1], unkept[1])
