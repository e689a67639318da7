"""Griffin's recurrent block against its equations, step by step, and where everything starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit
from scipy.stats import kstest

from gateloop.baseline_config import RadiiConfig, RGLRUConfig
from gateloop.errors import InputError
from gateloop.models.rglru import RGLRU, STEEPEST, BoundedSquareRoot

WIDTH, CHANNELS, LENGTH, BATCH = 5, 6, 9, 2
Array = NDArray[np.float64]


def layer(dtype: torch.dtype = torch.float64) -> RGLRU:
    torch.manual_seed(0)
    mixer = RGLRU(WIDTH, d_recurrent=CHANNELS, gate_blocks=3, convolution=3)
    with torch.no_grad():
        for parameter in mixer.parameters():  # biases too, and amplitudes away from one
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return mixer.to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, LENGTH, WIDTH, generator=noise, dtype=torch.float64).to(dtype)


def block_diagonal(p: dict[str, Array], name: str, u: Array) -> Array:
    weight = p[f"{name}.weight_GIO"]
    width = weight.shape[1]
    whole = np.zeros((CHANNELS, CHANNELS))
    for block, part in enumerate(weight):
        at = slice(block * width, (block + 1) * width)
        whole[at, at] = part.T
    return whole @ u + p[f"{name}.bias_C"]


def written_out(mixer: RGLRU, x_BLD: torch.Tensor, reset: NDArray[np.bool_]) -> Array:
    """a = exp(−8 softplus(Λ) σ(W_a u)); h = a h + √(1 − a²) σ(W_x u) u, 1 for √ at a first step."""
    p = {name: value.detach().double().numpy() for name, value in mixer.named_parameters()}
    taps = p["convolution.taps_WC"]
    out = np.zeros(x_BLD.shape)
    for row, sequence in enumerate(x_BLD.double().numpy()):
        h, past = np.zeros(CHANNELS), np.zeros((len(taps), CHANNELS))
        for n, x in enumerate(sequence):
            first = n == 0 or reset[row, n]
            if first:
                h, past = np.zeros(CHANNELS), np.zeros_like(past)
            past = np.concatenate([[p["input.weight"] @ x + p["input.bias"]], past[:-1]])
            u = (taps * past).sum(0) + p["convolution_bias_C"]
            softplus = np.log1p(np.exp(p["lambda_C"]))
            a = np.exp(-8 * softplus * expit(block_diagonal(p, "recurrence_gate", u)))
            multiplier = 1 if first else np.sqrt(1 - a**2)
            h = a * h + multiplier * expit(block_diagonal(p, "input_gate", u)) * u
            gate = p["gate.weight"] @ x + p["gate.bias"]
            gelu = gate * 0.5 * (1 + erf(gate / np.sqrt(2)))
            out[row, n] = p["output.weight"] @ (gelu * h) + p["output.bias"]
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("mode", ["scan", "recurrent"])
@pytest.mark.parametrize("resets", [False, True], ids=["whole", "resets"])
def test_the_equations(dtype: torch.dtype, tolerance: float, mode: str, resets: bool) -> None:
    mixer, x = layer(dtype), inputs(dtype)
    reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    reset[0, 6] = reset[1, 2] = reset[1, 3] = resets
    with torch.no_grad():
        found, _ = mixer(x, reset=reset if resets else None, mode=mode)
    expected = written_out(mixer, x, reset.numpy())
    assert np.abs(found.double().numpy() - expected).max() <= tolerance * np.abs(expected).max()


def test_a_sequence_has_one_first_step() -> None:
    """Zeros handed over as the state of something read are no fresh sequence."""
    mixer, x = layer(), inputs()
    with torch.no_grad():
        fresh, state = mixer(x)
        assert torch.equal(mixer(x, mixer.init_state(BATCH))[0], fresh)
        assert torch.equal(state[2], torch.ones(BATCH, 1, dtype=torch.float64))
        emptied = tuple(torch.zeros_like(part) for part in state[:2])
        later, _ = mixer(x, (*emptied, state[2]))
        reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        reset[:, 0] = True
        again, _ = mixer(x, (*emptied, state[2]), reset=reset)
    assert not torch.allclose(later, fresh)
    assert torch.allclose(again, fresh, rtol=1e-12)


def test_the_ring_and_the_gates_start_as_published() -> None:
    """exp(−softplus Λ) uniform over the ring's area; gates of variance 1 / block, no biases."""
    torch.manual_seed(0)
    mixer = RGLRU(64, d_recurrent=4000, gate_blocks=40)
    a = np.exp(-np.log1p(np.exp(mixer.lambda_C.detach().double().numpy())))
    assert a.min() >= 0.9 - 1e-6 and a.max() <= 0.999 + 1e-6
    assert kstest(a**2, "uniform", args=(0.81, 0.999**2 - 0.81)).pvalue > 0.01
    for gate in (mixer.recurrence_gate, mixer.input_gate):
        assert gate.weight_GIO.shape == (40, 100, 100)
        assert gate.weight_GIO.std().item() == pytest.approx(0.1, rel=0.02)
        assert not gate.bias_C.any()
    deviations = {mixer.gate: 1 / 8, mixer.input: 1 / 8, mixer.output: 4000**-0.5}
    for linear, deviation in deviations.items():
        assert linear.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert not linear.bias.any()
    taps = mixer.convolution.taps_WC
    assert taps.shape == (4, 4000) and taps.std().item() == pytest.approx(0.05, rel=0.03)
    assert abs(taps.mean().item()) < 0.002


@pytest.mark.parametrize(("width", "blocks"), [(64, 16), (624, 16), (24, 8), (7, 1)])
def test_as_many_blocks_as_fit_up_to_sixteen(width: int, blocks: int) -> None:
    assert RGLRU(width).input_gate.weight_GIO.shape == (blocks, width // blocks, width // blocks)


def test_the_gate_of_a_block_sees_its_block_only() -> None:
    mixer = layer()
    u = inputs()[..., :1].expand(-1, -1, CHANNELS).clone().requires_grad_()
    for gate in (mixer.recurrence_gate, mixer.input_gate):
        (gradient,) = torch.autograd.grad(gate(u)[0, 0, 2], u)
        assert gradient[0, 0].nonzero().flatten().tolist() == [2, 3]


@pytest.mark.parametrize("bias", [-200.0, -18.0, 0.0])
def test_an_amplitude_of_one_has_gradients(bias: float) -> None:
    """Where √(1 − a²) has an infinite slope; and just beside it no digits are lost."""
    mixer, wide = layer(torch.float32), layer()
    for each in (mixer, wide):
        with torch.no_grad():
            each.recurrence_gate.bias_C.fill_(bias)
    u = inputs(torch.float32)[..., :1].expand(-1, -1, CHANNELS).clone()
    begun = torch.ones(BATCH, LENGTH)
    log_a, v = mixer.gated(u, begun)
    v.sum().backward()
    gradients = [p.grad for p in mixer.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (log_a <= 0).all()
    if bias == -200:
        assert (v == 0).all() and (torch.exp(log_a) == 1).all()
    else:
        with torch.no_grad():
            _, expected = wide.gated(u.double(), begun.double())
        assert torch.allclose(v.double(), expected, rtol=2e-5, atol=0)


def test_the_slope_is_the_square_roots_until_the_bound() -> None:
    x = torch.tensor([0.0, 1e-9, 2.5e-7, 1e-6, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    root = BoundedSquareRoot.apply(x)
    assert torch.equal(root, x.sqrt())
    (slope,) = torch.autograd.grad(root.sum(), x)
    expected = [STEEPEST, STEEPEST, 1000.0, 500.0, 1.0, 0.5]
    assert torch.allclose(slope, torch.tensor(expected, dtype=torch.float64), rtol=1e-9)


def test_what_is_trained_apart() -> None:
    mixer = layer()
    assert mixer.parameter_groups() == {"transition": ["lambda_C"]}
    assert dict(mixer.named_parameters())["lambda_C"].shape == (CHANNELS,)


def test_the_state() -> None:
    shapes = [part.shape for part in RGLRU(8, d_recurrent=12).init_state(3)]
    assert shapes == [(3, 12, 1, 1), (3, 3, 12), (3, 1)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RGLRUConfig(name="rglru", d_model=32, gate_blocks=5), r"gate_blocks=5 .* nearest: 4"),
        (
            RGLRUConfig(name="rglru", d_model=32, d_recurrent=33, gate_blocks=4),
            r"does not divide the 33 channels",
        ),
        (RGLRUConfig(name="rglru", ring=RadiiConfig(inner=0.95, outer=0.9)), r"model\.ring\.inner"),
    ],
)
def test_contradictions_are_refused(config: RGLRUConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.check()
    RGLRUConfig(name="rglru").check()
