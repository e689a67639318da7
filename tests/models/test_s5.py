"""S5 against scipy's discretisation and dense matrices, HiPPO-N, and where everything starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import cont2discrete
from scipy.special import erf, expit
from scipy.stats import kstest

from gateloop.baseline_config import S5Config, StepConfig
from gateloop.errors import InputError
from gateloop.models.s5 import S5
from gateloop.names import Discretisation, S5Output

WIDTH, ORDER, LENGTH, BATCH = 3, 12, 9, 2
Complex = NDArray[np.complex128]


def layer(dtype: torch.dtype = torch.float64, **options: object) -> S5:
    torch.manual_seed(0)
    return S5(WIDTH, d_state=ORDER, blocks=2, **options).to(dtype)  # type: ignore[arg-type]


def inputs(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, LENGTH, WIDTH, generator=noise, dtype=torch.float64).to(dtype)


def numbers(mixer: S5) -> dict[str, NDArray[np.float64]]:
    return {name: value.detach().double().numpy() for name, value in mixer.named_parameters()}


def written_out(mixer: S5, x_BLD: torch.Tensor, reset: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Both halves of each pair, every state discretised by scipy for itself, dense matrices."""
    p = numbers(mixer)
    lam = p["eigenvalue_real_S"] + 1j * p["eigenvalue_imaginary_S"]
    b = p["b_SD2"][..., 0] + 1j * p["b_SD2"][..., 1]
    c = p["c_DS2"][..., 0] + 1j * p["c_DS2"][..., 1]
    lam, b = np.concatenate([lam, lam.conj()]), np.concatenate([b, b.conj()])
    c = np.concatenate([c, c.conj()], axis=1)
    steps = np.exp(np.tile(p["log_step_S"], 2))
    transition = np.zeros((ORDER, ORDER), dtype=complex)
    into = np.zeros((ORDER, WIDTH), dtype=complex)
    for s in range(ORDER):
        system = (lam[s : s + 1, None], b[s : s + 1], np.ones((1, 1)), np.zeros((1, WIDTH)))
        a_bar, b_bar, *_ = cont2discrete(system, steps[s], method=mixer.discretisation.value)
        transition[s, s], into[s] = a_bar[0, 0], b_bar[0]
    out = np.zeros(x_BLD.shape)
    for row, sequence in enumerate(x_BLD.double().numpy()):
        state = np.zeros(ORDER, dtype=complex)
        for n, u in enumerate(sequence):
            state = (0 if reset[row, n] else 1) * (transition @ state) + into @ u
            y = c @ state + p["d_D"] * u
            assert np.abs(y.imag).max() < 1e-12
            y = y.real * 0.5 * (1 + erf(y.real / np.sqrt(2)))
            out[row, n] = y * expit(p["gate.weight"] @ y + p["gate.bias"])
    return out


@pytest.mark.parametrize("discretisation", Discretisation)
@pytest.mark.parametrize("output", S5Output)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_equations(
    discretisation: Discretisation, output: S5Output, dtype: torch.dtype, tolerance: float
) -> None:
    # Steps up to 1, so that the two discretisations are far apart.
    step = StepConfig(least=0.05, most=1.0)
    mixer = layer(dtype, discretisation=discretisation, output=output, step=step)
    x, reset = inputs(dtype), torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    reset[1, 4] = True
    with torch.no_grad():
        found, _ = mixer(x, reset=reset)
    expected = written_out(mixer, x, reset.numpy())
    assert np.abs(found.double().numpy() - expected).max() <= tolerance * np.abs(expected).max()


def hippo_n(order: int) -> NDArray[np.float64]:
    """By the definition, entry by entry: LegS plus the rank-one term that makes it normal."""
    a = np.zeros((order, order))
    for n in range(order):
        for k in range(order):
            low_rank = math.sqrt(n + 0.5) * math.sqrt(k + 0.5)
            legs = math.sqrt(2 * n + 1) * math.sqrt(2 * k + 1) if n > k else 0
            a[n, k] = low_rank - (legs if n > k else n + 1 if n == k else 0)
    return a


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_the_spectrum_is_that_of_hippo_n_in_every_block(blocks: int) -> None:
    mixer = S5(WIDTH, d_state=16, blocks=blocks).double()
    p = numbers(mixer)
    found = (p["eigenvalue_real_S"] + 1j * p["eigenvalue_imaginary_S"]).reshape(blocks, -1)
    values = np.linalg.eigvals(hippo_n(16 // blocks))
    expected = sorted(values[values.imag < 0], key=lambda value: value.imag)
    assert len(expected) == 8 // blocks
    for block in found:
        assert np.allclose(sorted(block, key=lambda value: value.imag), expected, atol=1e-5)


@pytest.mark.parametrize("width", [16, 24, 48, 624])
def test_as_many_blocks_as_fit_up_to_eight(width: int) -> None:
    torch.manual_seed(0)
    mixer = S5(width)
    values = mixer.eigenvalue_imaginary_S.detach()
    assert len(values) == width // 2
    repeats = sum(bool(torch.isclose(value, values[0])) for value in values)
    assert repeats == {16: 8, 24: 4, 48: 8, 624: 8}[width]


def test_b_starts_real_behind_the_eigenvectors() -> None:
    """2 Re(V b̃) is the real B that was drawn: variance 1 / d_state, cut at two widths."""
    torch.manual_seed(0)
    order, width = 16, 400
    p = numbers(S5(width, d_state=2 * order, blocks=2))
    values, vectors = np.linalg.eigh(-1j * (hippo_n(order) + 0.5 * np.eye(order)))
    vectors = vectors[:, values < 0]
    b = (p["b_SD2"][..., 0] + 1j * p["b_SD2"][..., 1]).reshape(2, order // 2, width)
    # Eigenvectors are known up to a phase: rotate ours so that their first entries are real.
    vectors = vectors * (np.abs(vectors[0]) / vectors[0])
    drawn = 2 * np.einsum("ns,jsd->jnd", vectors, b).real
    deviation = (2 * order) ** -0.5
    assert drawn.std() == pytest.approx(deviation, rel=0.02)
    assert np.abs(drawn).max() <= 2 * deviation / 0.8796 + 1e-3
    assert np.abs(drawn).max() >= 1.9 * deviation / 0.8796
    back = np.einsum("ns,jnd->jsd", vectors.conj(), drawn)
    assert np.abs(back - b).max() < 1e-5


@pytest.mark.parametrize(
    ("output", "deviation"),
    [
        (S5Output.trunc_standard_normal, 32**-0.5),
        (S5Output.lecun_normal, (32 * 300) ** -0.5),
        (S5Output.complex_normal, 0.5**0.5),
    ],
)
def test_c_starts_with_its_deviation(output: S5Output, deviation: float) -> None:
    torch.manual_seed(0)
    mixer = S5(300, d_state=32, blocks=2, output=output)
    assert mixer.c_DS2.shape == (300, 16, 2)
    for part in mixer.c_DS2.unbind(-1):
        assert part.std().item() == pytest.approx(deviation, rel=0.03)
    assert mixer.d_D.std().item() == pytest.approx(1, rel=0.15)


def test_steps_start_log_uniform() -> None:
    torch.manual_seed(0)
    mixer = S5(2, d_state=4000, blocks=1000, step=StepConfig(least=1e-4, most=1e-2))
    steps = mixer.log_step_S.detach().double().exp().numpy()
    assert steps.shape == (2000,)
    assert kstest(np.log10(steps), "uniform", args=(-4, 2)).pvalue > 0.01


@pytest.mark.parametrize("discretisation", Discretisation)
def test_small_steps_keep_their_digits(discretisation: Discretisation) -> None:
    """(e^{Δλ} − 1) / λ in float32 at Δ = 1e-6 would have no digit left if it were done so."""
    torch.manual_seed(0)
    step = StepConfig(least=1e-6, most=1e-6)
    mixer = S5(WIDTH, d_state=64, blocks=1, discretisation=discretisation, step=step)
    with torch.no_grad():
        narrow, wide = mixer.discretised(), mixer.double().discretised()
    for found, expected in zip(narrow, wide, strict=True):
        scale = expected.abs().amax(-1, keepdim=True) if expected.ndim == 2 else expected.abs()
        assert float(((found - expected).abs() / scale).max()) < 1e-5


@pytest.mark.parametrize("discretisation", Discretisation)
def test_no_eigenvalue_grows(discretisation: Discretisation) -> None:
    """Λ is trained as it is; a real part above −1e-4 counts as −1e-4, for B̄ as well."""
    mixer, held = layer(discretisation=discretisation), layer(discretisation=discretisation)
    with torch.no_grad():
        mixer.eigenvalue_real_S.copy_(torch.linspace(-1, 3, ORDER // 2))
        held.eigenvalue_real_S.copy_(torch.linspace(-1, 3, ORDER // 2).clamp_max(-1e-4))
        for found, expected in zip(mixer.discretised(), held.discretised(), strict=True):
            assert torch.allclose(found, expected, rtol=1e-12)
        assert (mixer.discretised()[0] < 0).all()


def test_what_is_trained_apart() -> None:
    mixer = layer()
    apart = set(mixer.parameter_groups()["transition"])
    assert apart == {"eigenvalue_real_S", "eigenvalue_imaginary_S", "log_step_S", "b_SD2"}
    rest = {name for name, _ in mixer.named_parameters()} - apart
    assert rest == {"c_DS2", "d_D", "gate.weight", "gate.bias"}


def test_the_state_holds_half_of_each_pair() -> None:
    (state,) = layer().init_state(3)
    assert state.shape == (3, ORDER // 2, 1, 1) and state.dtype == torch.complex128


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (S5Config(name="s5", d_model=32, blocks=5), r"model\.d_state=32 .* nearest: 30"),
        (S5Config(name="s5", d_state=7), r"model\.d_state=7 is no multiple of 2 × .* nearest: 8"),
        (S5Config(name="s5", step=StepConfig(least=1, most=0.1)), r"model\.step\.least=1 is above"),
    ],
)
def test_contradictions_are_refused(config: S5Config, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.check()


def test_defaults_pass() -> None:
    for width in (64, 128, 256, 624):
        S5Config(name="s5", d_model=width).check()
