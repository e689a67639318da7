"""S4 against dense matrices in numpy and scipy, against the literal HiPPO-LegS, and its limits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import eigvals
from scipy.signal import cont2discrete
from scipy.special import erf, expit
from scipy.stats import kstest, norm
from torch import Tensor, nn

import gateloop.models.dplr as dplr
from gateloop.baseline_config import S4Config, StepConfig
from gateloop.errors import InputError
from gateloop.models.s4 import S4
from gateloop.names import ModeName
from gateloop.recurrence import kernels
from tests.models.options import far

WIDTH, ORDER, LENGTH, BATCH = 6, 8, 11, 2
Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
MODES = ("recurrent", "convolution")
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def layer(dtype: torch.dtype = torch.float64, moved: float = 0.1, **options: object) -> S4:
    """A layer whose parameters have left their special initial values, so that B ≠ √2 P."""
    torch.manual_seed(0)
    mixer = S4(**{"d_model": WIDTH, "d_state": ORDER, **options})  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(moved * torch.randn(parameter.shape))
    return mixer.to(dtype)


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def parameters(mixer: S4) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in mixer.named_parameters()}


def dense(mixer: S4) -> list[tuple[Complex, Complex, Complex]]:
    """Ā, B̄ and C for each channel, N × N, N and N, with both of each conjugate pair."""
    p = parameters(mixer)

    def both(pairs: Array) -> Complex:
        half = pairs[..., 0] + 1j * pairs[..., 1]
        return np.concatenate([half, half.conj()])

    channels = []
    for channel, log_step in enumerate(p["log_step_D"]):
        copy_of = channel % mixer.ssms
        decay, frequency = np.exp(p["log_decay_SM"][copy_of]), p["frequency_SM"][copy_of]
        eigenvalues = both(np.stack([-decay, frequency], -1))
        low, b = both(p["p_SM2"][copy_of]), both(p["b_SM2"][copy_of])
        a = np.diag(eigenvalues) - np.outer(low, low.conj())
        zero = np.zeros((1, 1))
        abar, bbar, *_ = cont2discrete(
            (a, b[:, None], b[None], zero), np.exp(log_step), method="bilinear"
        )
        channels.append((abar, bbar[:, 0], both(p["c_DM2"][channel])))
    return channels


def dense_kernel(mixer: S4, length: int) -> Array:
    rows = []
    for abar, h, c in dense(mixer):
        row = []
        for _ in range(length):
            row.append((c @ h).real)
            h = abar @ h
        rows.append(row)
    return np.array(rows)


def written_out(
    mixer: S4, x_BLD: Tensor, state_BDN: Tensor, reset: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """h = Ā h + B̄ u and y = C h + D u, channel by channel; then GELU and GLU."""
    p, x = parameters(mixer), x_BLD.double().numpy()
    y, last = np.zeros(x.shape), np.zeros(state_BDN.shape)
    half = mixer.d_state // 2
    for channel, (abar, bbar, c) in enumerate(dense(mixer)):
        for row in range(len(x)):
            first = state_BDN[row, channel].double().numpy()
            h = first[:half] + 1j * first[half:]
            h = np.concatenate([h, h.conj()])
            for n, u in enumerate(x[row, :, channel]):
                h = abar @ (np.zeros_like(h) if reset[row, n] else h) + bbar * u
                y[row, n, channel] = (c @ h).real + p["skip_D"][channel] * u
            last[row, channel] = np.concatenate([h[:half].real, h[:half].imag])
    y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
    first, second = np.split(y @ p["output.weight"].T + p["output.bias"], 2, axis=-1)
    return first * expit(second), last


def difference(found: Tensor, expected: Array) -> float:
    return far(found.detach().double(), torch.tensor(expected))


@pytest.fixture(params=["kernels", "PyTorch"])
def _with_kernels_and_without(request: pytest.FixtureRequest) -> Iterator[None]:
    with kernels.without() if request.param == "PyTorch" else nullcontext():
        yield


@pytest.mark.usefixtures("_with_kernels_and_without")
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ssms", [1, 3])
def test_the_equations(dtype: torch.dtype, tolerance: float, mode: str, ssms: int) -> None:
    mixer = layer(dtype, ssms=ssms)
    x, state = noise(BATCH, LENGTH, WIDTH, dtype=dtype), noise(BATCH, WIDTH, ORDER, seed=2)
    resets = [None] if mode == "convolution" else [None, noise(BATCH, LENGTH) > 0.8]
    for reset in resets:
        marks = np.zeros((BATCH, LENGTH), dtype=bool) if reset is None else reset.numpy()
        for before in (torch.zeros_like(state), state):
            given = None if not before.any() else (before.to(dtype),)
            y, last = written_out(mixer, x, before.to(dtype), marks)
            found, (after,) = mixer(x, given, reset=reset, mode=mode)
            assert found.dtype == after.dtype == dtype
            assert difference(found, y) <= tolerance
            assert difference(after, last) <= tolerance


@pytest.mark.usefixtures("_with_kernels_and_without")
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 129])
@pytest.mark.parametrize(("multiple", "tolerance"), [(1, 2e-7), (2, 1e-9), (4, 1e-11)])
def test_the_kernel(length: int, multiple: int, tolerance: float) -> None:
    mixer = layer()
    at = dplr.nodes(length, multiple, torch.device("cpu"))
    found = dplr.kernel(mixer._system(), at)
    assert found.dtype == torch.float64
    for row, expected in zip(found, dense_kernel(mixer, length), strict=True):
        assert difference(row, expected) <= tolerance


@pytest.mark.usefixtures("_with_kernels_and_without")
@pytest.mark.parametrize("multiple", [1, 4])
def test_the_kernel_at_full_size(multiple: int) -> None:
    """Order 64, a thousand steps, the shortest and the longest step."""
    mixer = layer(moved=0, d_model=3, d_state=64)
    with torch.no_grad():
        mixer.log_step_D.copy_(torch.tensor([1e-3, 1e-2, 1e-1]).log())
    expected = dense_kernel(mixer, 1024)
    for length in (1023, 1024):
        found = dplr.kernel(mixer._system(), dplr.nodes(length, multiple, torch.device("cpu")))
        for row, whole in zip(found, expected, strict=True):
            assert difference(row, whole[:length]) <= (1e-7 if multiple == 1 else 1e-11)


def reference(mixer: S4, x_BLD: Tensor, state_BDN: Tensor) -> tuple[Tensor, Tensor]:
    """The dense recurrence once more, in torch for its gradient."""
    half = mixer.d_state // 2

    def both(real: Tensor, imaginary: Tensor) -> Tensor:
        one = torch.complex(real, imaginary)
        return torch.cat([one, one.conj()], -1)

    eigenvalues = both(-mixer.log_decay_SM[0].exp(), mixer.frequency_SM[0])
    p, b = (both(*pairs[0].unbind(-1)) for pairs in (mixer.p_SM2, mixer.b_SM2))
    c_DN = both(*mixer.c_DM2.unbind(-1))
    step_D11 = mixer.log_step_D.exp()[:, None, None]
    a, one = torch.diag(eigenvalues) - torch.outer(p, p.conj()), torch.eye(mixer.d_state)
    inverse = torch.linalg.inv(one - step_D11 / 2 * a)
    abar_DNN, bbar_DN = (
        inverse @ (one + step_D11 / 2 * a),
        (step_D11 * inverse @ b[:, None])[..., 0],
    )
    h_DNB, steps = both(*state_BDN.chunk(2, -1)).permute(1, 2, 0), []
    for u_BD in x_BLD.unbind(1):
        h_DNB = abar_DNN @ h_DNB + bbar_DN[..., None] * u_BD.T[:, None]
        steps.append((c_DN[..., None] * h_DNB).sum(1).real.T + mixer.skip_D * u_BD)
    y = nn.functional.glu(mixer.output(nn.functional.gelu(torch.stack(steps, 1))), -1)
    last_BDM = h_DNB[:, :half].permute(2, 0, 1)
    return y, torch.cat([last_BDM.real, last_BDM.imag], -1)


@pytest.mark.usefixtures("_with_kernels_and_without")
def test_a_thousand_steps_with_gradients() -> None:
    """Order 64 in float32 and float64: outputs, last state and every gradient."""
    narrow = layer(torch.float32, moved=0, d_model=3, d_state=64)
    wide = copy.deepcopy(narrow).double()
    x = noise(1, 1000, 3)
    with torch.no_grad():
        (state,) = wide(noise(1, 64, 3, seed=2))[1]

    def results(mixer: S4, mode: str | None) -> list[Tensor]:
        dtype = mixer.skip_D.dtype
        leaves = [x.to(dtype).requires_grad_(), state.to(dtype).requires_grad_()]
        if mode is None:
            y, last = reference(mixer, *leaves)
        else:
            y, (last,) = mixer(leaves[0], (leaves[1],), mode=mode)
        loss = (y * noise(*y.shape, seed=3, dtype=dtype)).sum()
        loss = loss + 10 * (last * noise(*last.shape, seed=4, dtype=dtype)).sum()
        found = torch.autograd.grad(loss, [*leaves, *mixer.parameters()])
        return [y.detach(), last.detach(), *found]

    expected = results(wide, None)
    for mode in MODES:
        for mixer, tolerance in ((wide, 1e-10), (narrow, 1e-5)):
            for found, true in zip(results(mixer, mode), expected, strict=True):
                assert far(found.double(), true) <= tolerance, (mode, tolerance)


@pytest.fixture
def _float64() -> object:
    """Parameters that are not rounded when made."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def legs(order: int) -> tuple[Array, Array]:
    a, b = np.zeros((order, order)), np.zeros(order)
    for n in range(order):
        b[n] = (2 * n + 1) ** 0.5
        for k in range(n + 1):
            a[n, k] = -(n + 1) if n == k else -(((2 * n + 1) * (2 * k + 1)) ** 0.5)
    return a, b


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("order", [2, 8, 64])
def test_starts_as_the_literal_legs(order: int) -> None:
    """With C = B the kernel is Bᵀ Āⁿ B̄ of the real LegS matrices, whatever the coordinates."""
    mixer = layer(moved=0, d_state=order, d_model=4, ssms=2)
    with torch.no_grad():
        mixer.c_DM2.copy_(mixer.b_SM2.repeat(2, 1, 1))
        mixer.c_DM2[..., 1].neg_()
    kernel = dplr.kernel(mixer._system(), dplr.nodes(50, 4, torch.device("cpu")))
    a, b = legs(order)
    for row, step in zip(kernel, mixer.log_step_D.exp().tolist(), strict=True):
        zero = np.zeros((1, 1))
        abar, bbar, *_ = cont2discrete((a, b[:, None], b[None], zero), step, method="bilinear")
        expected = [b @ np.linalg.matrix_power(abar, n) @ bbar[:, 0] for n in range(50)]
        assert difference(row, np.array(expected)) <= 1e-10


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("order", [2, 8])
def test_starting_eigenvalues(order: int) -> None:
    """Those of LegS, which is triangular: −1, …, −N."""
    mixer = layer(moved=0, d_state=order)
    p = parameters(mixer)
    half = p["p_SM2"][0] @ np.array([1, 1j])
    low = np.concatenate([half, half.conj()])
    spectrum = -np.exp(p["log_decay_SM"][0]) + 1j * p["frequency_SM"][0]
    matrix = np.diag(np.concatenate([spectrum, spectrum.conj()])) - np.outer(low, low.conj())
    found = np.sort(eigvals(matrix).real)
    assert np.allclose(found, np.sort(eigvals(legs(order)[0]).real), atol=1e-6)
    assert np.allclose(found, -np.arange(order, 0, -1), atol=1e-6)


def test_initial_values() -> None:
    torch.manual_seed(0)
    mixer = S4(512, d_state=4, ssms=2, least_step=2e-3, most_step=0.5)
    p = parameters(mixer)
    low, high = np.log(2e-3), np.log(0.5)
    assert kstest(p["log_step_D"], "uniform", args=(low, high - low)).pvalue > 0.01
    assert p["log_step_D"].min() >= low and p["log_step_D"].max() <= high
    # C is complex normal with E|C|² = 1, D normal.
    assert kstest(p["c_DM2"].ravel(), norm(scale=0.5**0.5).cdf).pvalue > 0.01
    assert kstest(p["skip_D"], "norm").pvalue > 0.01
    assert np.allclose(np.exp(p["log_decay_SM"]), 0.5)
    for name in ("log_decay_SM", "frequency_SM", "p_SM2", "b_SM2"):
        assert p[name].shape[:2] == (2, 2) and (p[name][0] == p[name][1]).all()
    assert np.allclose(p["b_SM2"], np.sqrt(2) * p["p_SM2"], atol=1e-6)
    torch.manual_seed(0)
    again = S4(512, d_state=4, ssms=2, least_step=2e-3, most_step=0.5)
    assert all(map(torch.equal, mixer.parameters(), again.parameters()))


def test_channels_take_the_copies_in_turn() -> None:
    mixer = layer(ssms=3)
    system = mixer._system()
    for shared in (system.eigenvalues_DM, system.p_DM, system.b_DM):
        assert torch.equal(shared[0], shared[3]) and torch.equal(shared[2], shared[5])
        assert not torch.equal(shared[0], shared[1])
    assert len(set(system.step_D.tolist())) == WIDTH


def test_no_length_is_built_in() -> None:
    system = layer()._system()
    whole = dplr.kernel(system, dplr.nodes(64, 4, torch.device("cpu")))
    for length in (1, 5, 63):
        part = dplr.kernel(system, dplr.nodes(length, 4, torch.device("cpu")))
        assert far(part, whole[:, :length]) <= 1e-11


@pytest.mark.usefixtures("_with_kernels_and_without")
def test_blocks_of_channels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few channels are worked on at once, forward and backward."""

    def results() -> list[Tensor]:
        mixer, x = layer(), noise(BATCH, LENGTH, WIDTH).requires_grad_()
        state = noise(BATCH, WIDTH, ORDER, seed=2).requires_grad_()
        y, (last,) = mixer(x, (state,), mode="convolution")
        leaves = [x, state, *mixer.parameters()]
        loss = (y * noise(*y.shape)).sum() + (last * noise(*last.shape)).sum()
        return [y, last, *torch.autograd.grad(loss, leaves)]

    whole = results()
    sizes: list[int] = []
    kernel = dplr._kernel
    monkeypatch.setattr(
        dplr, "_kernel", lambda step, *a: sizes.append(len(step)) or kernel(step, *a)
    )
    monkeypatch.setattr(dplr, "BUDGET", 4 * (2 * LENGTH + 1) * 4)
    parts = results()
    assert sizes[:2] == [4, 2]
    assert all(far(part, one) <= 1e-12 for part, one in zip(parts, whole, strict=True))


@pytest.mark.usefixtures("_with_kernels_and_without")
def test_nothing_by_node_and_mode_is_kept_for_the_backward_pass() -> None:
    mixer, x = layer(torch.float32, d_model=4, d_state=32), noise(1, 512, 4, dtype=torch.float32)
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        mixer(x, mode="convolution")
    # A resolvent alone is channels × modes × nodes complex128.
    assert 0 < sum(kept.values()) < 4 * 16 * 257 * 16


def test_autocast_leaves_the_state_space_alone() -> None:
    mixer = layer(torch.float32)
    x = noise(BATCH, LENGTH, WIDTH).bfloat16()
    with torch.no_grad():
        for mode in MODES:
            y, (last,) = mixer(x.float(), mode=mode)
            with torch.autocast("cpu", torch.bfloat16):
                half, (state,) = mixer(x, mode=mode)
            assert state.dtype == torch.float32 and torch.equal(state, last)
            assert half.dtype == torch.bfloat16 and 0 < far(half.float(), y) < 0.02


def test_auto_takes_the_convolution_but_for_single_steps_and_resets() -> None:
    mixer = layer()
    reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    assert mixer._mode(ModeName.auto, LENGTH, None) is ModeName.convolution
    assert mixer._mode(ModeName.auto, 1, None) is ModeName.recurrent
    assert mixer._mode(ModeName.auto, LENGTH, reset) is ModeName.recurrent


def test_what_is_refused() -> None:
    mixer, x = layer(), noise(BATCH, LENGTH, WIDTH)
    reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    with pytest.raises(ValueError, match="reset is given"):
        mixer(x, reset=reset, mode="convolution")
    for mode in ("scan", "chunkwise", "attention", "quick"):
        with pytest.raises(ValueError, match=mode):
            mixer(x, mode=mode)
    with pytest.raises(ValueError, match="order is 5"):
        S4(4, d_state=5)
    with pytest.raises(ValueError, match="ssms is 3"):
        S4(4, ssms=3)


def test_parameter_groups() -> None:
    """Δ, Λ, P and B apart; C, D and the output with the rest."""
    mixer = layer()
    apart = mixer.parameter_groups()["transition"]
    assert sorted(apart) == ["b_SM2", "frequency_SM", "log_decay_SM", "log_step_D", "p_SM2"]
    rest = {name for name, _ in mixer.named_parameters()} - set(apart)
    assert rest == {"c_DM2", "skip_D", "output.weight", "output.bias"}


def test_config() -> None:
    config = S4Config(name="s4", d_model=6, d_state=4, ssms=3, step=StepConfig(0.01, 0.02))
    config.check()
    mixer = S4.from_config(config)
    assert mixer.c_DM2.shape == (6, 2, 2) and mixer.p_SM2.shape == (3, 2, 2)
    steps = mixer.log_step_D.exp()
    assert steps.min() >= 0.01 and steps.max() <= 0.02
    for keys, match in (
        ({"d_state": 7}, "model.d_state=7"),
        ({"d_model": 6, "ssms": 4}, "model.ssms=4"),
        ({"step": StepConfig(0.2, 0.1)}, "model.step.least=0.2"),
    ):
        with pytest.raises(InputError, match=match):
            S4Config(name="s4", **keys).check()
