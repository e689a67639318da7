"""S4D against dense matrices and loops in numpy, scipy's discretisation, its initial values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import cont2discrete
from scipy.special import erf, expit
from scipy.stats import kstest

import gateloop.recurrence.operator as operator
from gateloop.baseline_config import S4DConfig, StepConfig
from gateloop.errors import InputError
from gateloop.models.hippo import normal_part
from gateloop.models.s4d import S4D
from gateloop.names import Discretisation, Spectrum

WIDTH, ORDER, BATCH = 4, 6, 2
DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
RULES = [rule.value for rule in Discretisation]
KINDS = [(spectrum.value, rule) for spectrum in Spectrum for rule in RULES]
Array = NDArray[np.float64]


def layer(dtype: torch.dtype = torch.float64, **options: Any) -> S4D:
    """Away from its start: B is no longer one, A no longer on its line, and steps are long."""
    torch.manual_seed(0)
    mixer = S4D(WIDTH, **{"d_state": ORDER, "step": StepConfig(0.05, 2.0), **options})
    with torch.no_grad():
        for name in mixer.parameter_groups()["transition"]:
            parameter = mixer.get_parameter(name)
            parameter += 0.1 * torch.randn_like(parameter)
    return mixer.to(dtype)


def inputs(length: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, length, WIDTH, generator=noise, dtype=torch.float64).to(dtype)


def parameters(mixer: S4D) -> dict[str, Array]:
    return {name: p.detach().double().numpy() for name, p in mixer.named_parameters()}


def dense_system(mixer: S4D, channel: int) -> tuple[Array, Array, Array]:
    """A, B and C of one channel with real numbers only, for the state (Re x, Im x)."""
    p = parameters(mixer)
    copy = channel % len(p["log_decay_SN"])
    decay, b, c = np.diag(np.exp(p["log_decay_SN"][copy])), p["b_SNP"][copy], p["c_DNP"][channel]
    if not mixer.is_complex:
        return -decay, b[:, :1], c[:, 0]
    turn = np.diag(p["frequency_SN"][copy])
    a = np.block([[-decay, -turn], [turn, -decay]])
    return a, np.concatenate([b[:, :1], b[:, 1:]]), 2 * np.concatenate([c[:, 0], -c[:, 1]])


def discrete(mixer: S4D, channel: int) -> tuple[Array, Array]:
    a, b, _ = dense_system(mixer, channel)
    step = np.exp(parameters(mixer)["log_step_D"][channel])
    none = np.zeros((1, len(a)))
    return cont2discrete((a, b, none, [[0]]), step, method=mixer.discretisation.value)[:2]


def written_out(mixer: S4D, x_BLD: torch.Tensor, state: Array | None) -> tuple[Array, Array]:
    """x ← Ā x + B̄ u, y = C x + D u channel by channel; then GELU and GLU. Also the last states."""
    p = parameters(mixer)
    u_BLD = x_BLD.double().numpy()
    y_BLD = np.zeros_like(u_BLD)
    last = []
    for channel in range(WIDTH):
        a, b = discrete(mixer, channel)
        _, _, c = dense_system(mixer, channel)
        for row in range(BATCH):
            x = np.zeros(len(a)) if state is None else state[row, channel]
            for n, u in enumerate(u_BLD[row, :, channel]):
                x = a @ x + b[:, 0] * u
                y_BLD[row, n, channel] = c @ x + p["skip_D"][channel] * u
            last.append(x)
    y_BLD = y_BLD * 0.5 * (1 + erf(y_BLD / np.sqrt(2)))
    first, second = np.split(y_BLD @ p["output.weight"].T + p["output.bias"], 2, axis=-1)
    return first * expit(second), np.stack(last).reshape(WIDTH, BATCH, -1).swapaxes(0, 1)


def flat(state: torch.Tensor) -> Array:
    """(batch, channels, states): real parts, then imaginary ones, as in ``dense_system``."""
    state = state.detach()[..., 0]
    parts = [state.real, state.imag] if state.is_complex() else [state]
    return torch.cat(parts, -1).double().numpy()


def assert_near(found: Array, expected: Array, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("spectrum", "rule"), KINDS)
def test_the_equations(spectrum: str, rule: str, dtype: torch.dtype, tolerance: float) -> None:
    mixer, x = layer(dtype, spectrum=spectrum, discretisation=rule), inputs(70, dtype)
    for mode in ("convolution", "recurrent"):
        y, (last,) = mixer(x, mode=mode)
        expected, expected_last = written_out(mixer, x, None)
        assert_near(y.detach().double().numpy(), expected, tolerance)
        assert_near(flat(last), expected_last, tolerance)
        y, (after,) = mixer(x, (last,), mode=mode)
        expected, expected_last = written_out(mixer, x, flat(last))
        assert_near(y.detach().double().numpy(), expected, tolerance)
        assert_near(flat(after), expected_last, tolerance)


@pytest.mark.parametrize(("spectrum", "rule"), KINDS)
def test_discretisation_is_scipys(spectrum: str, rule: str) -> None:
    mixer = layer(spectrum=spectrum, discretisation=rule)
    log_amplitude, phase, k = mixer.discretised()
    turn = torch.zeros_like(log_amplitude)
    if phase is not None:
        turn = (phase * torch.pi if phase.dtype == torch.bool else phase).double()
    a_DN = torch.polar(log_amplitude.exp(), turn).detach().numpy()
    for channel in range(WIDTH):
        a, b = discrete(mixer, channel)
        k_N = k[channel].detach().numpy()
        if mixer.is_complex:
            re, im = np.diag(a_DN[channel].real), np.diag(a_DN[channel].imag)
            found, k_N = np.block([[re, -im], [im, re]]), np.concatenate([k_N.real, k_N.imag])
        else:
            found = np.diag(a_DN[channel].real)
        np.testing.assert_allclose(found, a, atol=1e-13)
        np.testing.assert_allclose(k_N, b[:, 0], atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_slow_states_lose_no_digits(rule: str) -> None:
    """A near 0: B̄ is Δ B, log|Ā| is Δ Re A, in float32 and with gradients."""
    torch.manual_seed(0)
    mixer = S4D(WIDTH, d_state=ORDER, discretisation=rule, step=StepConfig(1e-3, 1e-3))
    with torch.no_grad():
        mixer.log_decay_SN.fill_(float(np.log(1e-9)))
        mixer.frequency_SN.fill_(1e-9)
    log_amplitude, phase, k = mixer.discretised()
    np.testing.assert_allclose(log_amplitude.detach(), -1e-12, rtol=1e-5)
    assert phase is not None
    np.testing.assert_allclose(phase.detach(), 1e-12, rtol=1e-5)
    np.testing.assert_allclose(k.detach(), 1e-3, rtol=1e-6)
    (k.real.sum() + log_amplitude.sum()).backward()
    for name in mixer.parameter_groups()["transition"]:
        gradient = mixer.get_parameter(name).grad
        assert gradient is not None and gradient.isfinite().all(), name


@pytest.mark.parametrize("spectrum", ["lin", "legs"])
def test_float32_over_four_thousand_steps(spectrum: str) -> None:
    """The whole layer as it starts, beside itself in float64 with the same parameters."""
    torch.manual_seed(0)
    mixer = S4D(WIDTH, d_state=64, spectrum=spectrum)
    x = inputs(4096, torch.float32)
    with torch.no_grad():
        found, _ = mixer(x, mode="convolution")
        expected, _ = mixer.double()(x.double(), mode="recurrent")
    assert_near(found.double().numpy(), expected.numpy(), 1e-5)


def test_the_trapezoidal_rule_alternates_the_sign_of_fast_real_states() -> None:
    mixer = layer(spectrum="real", discretisation="bilinear", step=StepConfig(1.0, 1.0))
    _, half_turns, _ = mixer.discretised()
    assert half_turns is not None and half_turns.dtype == torch.bool
    step_times_decay = mixer.log_step_D.exp()[:, None] * mixer.log_decay_SN.exp()
    assert torch.equal(half_turns, step_times_decay > 2) and 0 < half_turns.sum() < WIDTH * ORDER
    assert not mixer(inputs(5))[1][0].is_complex()


def test_initial_spectra() -> None:
    def eigenvalues(spectrum: str, order: int = 8) -> tuple[Array, Array | None]:
        p = parameters(S4D(2, d_state=order, spectrum=spectrum))
        for name in ("log_decay_SN", "frequency_SN"):
            assert name not in p or (p[name] == p[name][0]).all()
        imaginary = p["frequency_SN"][0] if "frequency_SN" in p else None
        return -np.exp(p["log_decay_SN"][0]), imaginary

    n = np.arange(4)
    for spectrum, expected in (
        ("lin", -np.pi * n),
        ("inv", -8 / np.pi * (8 / (2 * n + 1) - 1)),
        ("legs", np.sort(np.linalg.eigvals(normal_part(8)).imag)[:4]),
    ):
        real, imaginary = eigenvalues(spectrum)
        np.testing.assert_allclose(real, -0.5, rtol=1e-6)
        np.testing.assert_allclose(imaginary, expected, rtol=1e-6)
    real, imaginary = eigenvalues("real", 5)
    np.testing.assert_allclose(real, [-1, -2, -3, -4, -5], rtol=1e-6)
    assert imaginary is None


@pytest.mark.parametrize(
    ("spectrum", "keys", "deviation"), [("lin", 32, 0.5**0.5), ("real", 64, 1)]
)
def test_other_initial_values(spectrum: str, keys: int, deviation: float) -> None:
    torch.manual_seed(0)
    p = parameters(S4D(256, spectrum=spectrum))
    decades = np.log10(np.exp(p["log_step_D"]))
    assert kstest(decades, "uniform", (-3, 2)).pvalue > 0.01
    assert p["b_SNP"].shape[:2] == p["c_DNP"].shape[:2] == (256, keys)
    assert (p["b_SNP"][..., 0] == 1).all() and (p["b_SNP"][..., 1:] == 0).all()
    assert kstest(p["c_DNP"].ravel() / deviation, "norm").pvalue > 0.01
    assert kstest(p["skip_D"], "norm").pvalue > 0.01


def test_copies_are_dealt_out_in_turn() -> None:
    mixer = layer(ssms=2)
    assert mixer.log_decay_SN.shape == mixer.b_SNP.shape[:2] == (2, ORDER // 2)
    mixer.log_step_D.detach().fill_(-1.0)
    log_amplitude, _, k = mixer.discretised()
    for values in (log_amplitude, k):
        assert torch.equal(values[0], values[2]) and torch.equal(values[1], values[3])
        assert not torch.equal(values[0], values[1])
    x = inputs(9)
    assert_near(mixer(x)[0].detach().numpy(), written_out(mixer, x, None)[0], 1e-10)


def test_what_is_trained_apart() -> None:
    mixer = S4D(WIDTH)
    apart = ["log_step_D", "log_decay_SN", "frequency_SN", "b_SNP"]
    assert mixer.parameter_groups() == {"transition": apart}
    rest = {name for name, _ in mixer.named_parameters()} - set(apart)
    assert rest == {"c_DNP", "skip_D", "output.weight", "output.bias"}
    names = S4D(WIDTH, spectrum="real").parameter_groups()["transition"]
    assert names == ["log_step_D", "log_decay_SN", "b_SNP"]


@pytest.mark.parametrize("spectrum", ["lin", "real"])
def test_auto_convolves_and_resets_do_not(spectrum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def convolution(*arguments: Any) -> Any:
        taken.append(arguments[0].shape)
        return run(*arguments)

    run = operator.convolution
    monkeypatch.setattr(operator, "convolution", convolution)
    mixer, x = layer(spectrum=spectrum), inputs(64)
    mixer(x)
    assert taken == [(1, 1, *mixer.state_shape[:2])]
    reset = torch.zeros(BATCH, 64, dtype=torch.bool)
    reset[:, 0] = reset[1, 20] = True
    y, _ = mixer(x, reset=reset)
    assert len(taken) == 1
    assert_near(y[1, 20:].detach().numpy(), mixer(x[:, 20:])[0][1].detach().numpy(), 1e-10)
    with pytest.raises(ValueError, match=r"'convolution' and reset is given; .* choose one of"):
        mixer(x, reset=reset, mode="convolution")


def test_from_its_config() -> None:
    config = S4DConfig(
        name="s4d",
        d_model=6,
        d_state=4,
        ssms=3,
        spectrum=Spectrum.inv,
        discretisation=Discretisation.bilinear,
        step=StepConfig(1e-4, 1e-4),
    )
    mixer = S4D.from_config(config)
    assert isinstance(mixer, S4D) and mixer.discretisation is Discretisation.bilinear
    assert mixer.b_SNP.shape == (3, 2, 2) and mixer.output.weight.shape == (12, 6)
    np.testing.assert_allclose(mixer.log_step_D.detach().exp(), 1e-4, rtol=1e-5)
    with torch.device("meta"):
        assert S4D(8).b_SNP.device.type == "meta"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"d_state": 5}, "model.d_state=5: the state holds conjugate pairs.*take 6"),
        ({"ssms": 3}, "model.ssms=3 does not divide model.d_model=8; nearest: 2"),
        ({"step": StepConfig(0.1, 0.01)}, "model.step.least=0.1 is above model.step.most=0.01"),
    ],
)
def test_contradictions(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        S4DConfig(name="s4d", d_model=8, **keys).check()
    S4DConfig(name="s4d", d_model=8, spectrum=Spectrum.real, d_state=5).check()
