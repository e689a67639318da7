"""The LRU against its equations in numpy, its ring, and what is trained apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit
from scipy.stats import kstest

from gateloop.baseline_config import LRUConfig
from gateloop.errors import InputError
from gateloop.model_config import RingConfig
from gateloop.models.lru import LRU

WIDTH, STATES, LENGTH, BATCH = 5, 7, 9, 2
Array = NDArray[np.float64]


def layer(dtype: torch.dtype = torch.float64, **options: object) -> LRU:
    torch.manual_seed(0)
    mixer = LRU(WIDTH, d_state=STATES, **options).to(dtype)  # type: ignore[arg-type]
    with torch.no_grad():  # γ is a parameter of its own: nothing may hold it at √(1 − |λ|²)
        mixer.log_gamma_S.add_(0.3)
    return mixer


def inputs(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, LENGTH, WIDTH, generator=noise, dtype=torch.float64).to(dtype)


def written_out(mixer: LRU, x_BLD: torch.Tensor, reset: NDArray[np.bool_]) -> Array:
    """λ = exp(−e^ν + i e^θ); h = λ h + γ (B u); y = Re(C h) + D u; then GELU and GLU."""
    p = {name: value.detach().double().numpy() for name, value in mixer.named_parameters()}
    lam = np.exp(-np.exp(p["nu_S"]) + 1j * np.exp(p["theta_S"]))
    b = p["b_SD2"][..., 0] + 1j * p["b_SD2"][..., 1]
    c = p["c_DS2"][..., 0] + 1j * p["c_DS2"][..., 1]
    first, second = np.split(p["output.weight"], 2)
    first_bias, second_bias = np.split(p["output.bias"], 2)
    out = np.zeros(x_BLD.shape)
    for row, sequence in enumerate(x_BLD.double().numpy()):
        h = np.zeros(STATES, dtype=complex)
        for n, u in enumerate(sequence):
            if reset[row, n]:
                h = np.zeros(STATES, dtype=complex)
            h = lam * h + np.exp(p["log_gamma_S"]) * (b @ u)
            y = (c @ h).real + p["d_D"] * u
            y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
            out[row, n] = (first @ y + first_bias) * expit(second @ y + second_bias)
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("mode", ["scan", "recurrent"])
def test_the_equations(dtype: torch.dtype, tolerance: float, mode: str) -> None:
    mixer, x = layer(dtype), inputs(dtype)
    reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    reset[1, 4] = True
    with torch.no_grad():
        found, _ = mixer(x, reset=reset, mode=mode)
    expected = written_out(mixer, x, reset.numpy())
    assert np.abs(found.double().numpy() - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    "ring", [RingConfig(), RingConfig(inner=1e-6, outer=0.999999, phase=6.2832)], ids=["own", "all"]
)
def test_the_ring(ring: RingConfig) -> None:
    """|λ|² uniform between the squares, the phase up to its limit, γ = √(1 − |λ|²)."""
    torch.manual_seed(0)
    mixer = LRU(2, d_state=4000, ring=ring)
    with torch.no_grad():
        nu, theta = mixer.nu_S.double().numpy(), mixer.theta_S.double().numpy()
        gamma = mixer.log_gamma_S.double().exp().numpy()
    lam = np.exp(-np.exp(nu) + 1j * np.exp(theta))
    area = np.abs(lam) ** 2
    assert ring.inner - 1e-6 <= np.abs(lam).min() and np.abs(lam).max() <= ring.outer + 1e-7
    assert (
        kstest(area, "uniform", args=(ring.inner**2, ring.outer**2 - ring.inner**2)).pvalue > 0.01
    )
    assert kstest(np.exp(theta), "uniform", args=(0, ring.phase)).pvalue > 0.01
    assert np.allclose(gamma, np.sqrt(1 - area), rtol=1e-4)


def test_the_matrices_start_with_their_deviations() -> None:
    torch.manual_seed(0)
    mixer = LRU(40, d_state=90)
    assert mixer.b_SD2.shape == (90, 40, 2) and mixer.c_DS2.shape == (40, 90, 2)
    for parameter, deviation in ((mixer.b_SD2, 80**-0.5), (mixer.c_DS2, 90**-0.5)):
        for part in parameter.unbind(-1):
            assert part.std().item() == pytest.approx(deviation, rel=0.05)
    assert mixer.d_D.std().item() == pytest.approx(1, rel=0.4)


def test_what_is_trained_apart() -> None:
    mixer = layer()
    apart = set(mixer.parameter_groups()["transition"])
    assert apart == {"nu_S", "theta_S", "log_gamma_S", "b_SD2"}
    rest = {name for name, _ in mixer.named_parameters()} - apart
    assert rest == {"c_DS2", "d_D", "output.weight", "output.bias"}


def test_an_amplitude_never_passes_one() -> None:
    """However far ν and θ go: |λ| = exp(−e^ν) < 1."""
    mixer, x = layer(), inputs()
    with torch.no_grad():
        mixer.nu_S.copy_(torch.linspace(-40, 10, STATES))
        assert torch.isfinite(mixer(x)[0]).all()
        state = mixer(x)[1]
        quiet = torch.zeros(BATCH, 50, WIDTH, dtype=torch.float64)
        after = mixer(quiet, state)[1]
    assert (after[0].abs() <= state[0].abs() + 1e-12).all()


def test_the_state_is_one_complex_number_a_state() -> None:
    (state,) = LRU(WIDTH).init_state(3)
    assert state.shape == (3, WIDTH, 1, 1) and state.dtype == torch.complex64
    (state,) = layer().init_state(3)
    assert state.shape == (3, STATES, 1, 1) and state.dtype == torch.complex128


def test_a_ring_inside_out_is_refused() -> None:
    config = LRUConfig(name="lru", ring=RingConfig(inner=0.99, outer=0.9))
    with pytest.raises(InputError, match=r"model\.ring\.inner=0\.99 is not below"):
        config.check()
    LRUConfig(name="lru").check()
