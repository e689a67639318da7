"""minGRU against its equations, step by step, in numbers and in log space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from gateloop.baseline_config import MinGRUConfig
from gateloop.config import Config
from gateloop.models.mingru import MinGRU
from gateloop.training.optimizer import parameter_groups

WIDTH, LENGTH, BATCH = 4, 9, 2
Array = NDArray[np.float64]


def layer(dtype: torch.dtype = torch.float64, expansion: int = 2) -> MinGRU:
    torch.manual_seed(0)
    mixer = MinGRU(WIDTH, expansion=expansion)
    with torch.no_grad():
        for linear in (mixer.gate, mixer.candidate):  # both branches of g, open and shut gates
            linear.weight.mul_(4)
    return mixer.to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, LENGTH, WIDTH, generator=noise, dtype=torch.float64).to(dtype)


def numbers(mixer: MinGRU) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in mixer.named_parameters()}


def g(value: float) -> float:
    return value + 0.5 if value >= 0 else float(expit(value))


def written_out(mixer: MinGRU, x_BLD: torch.Tensor, reset: NDArray[np.bool_]) -> Array:
    """h = (1 − z) h + z g(h̃)."""
    p = numbers(mixer)
    hidden = len(p["gate.bias"])
    out = np.zeros(x_BLD.shape)
    seen = set()
    for row, sequence in enumerate(x_BLD.double().numpy()):
        h = np.zeros(hidden)
        for n, x in enumerate(sequence):
            z = expit(p["gate.weight"] @ x + p["gate.bias"])
            candidate = p["candidate.weight"] @ x + p["candidate.bias"]
            seen |= set(candidate >= 0)
            h = (1 - z) * (h * (not reset[row, n])) + z * np.array([g(c) for c in candidate])
            out[row, n] = p["output.weight"] @ h + p["output.bias"]
    assert seen == {True, False}
    return out


@pytest.mark.parametrize("expansion", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_equations(expansion: int, dtype: torch.dtype, tolerance: float) -> None:
    mixer, x = layer(dtype, expansion), inputs(dtype)
    reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    reset[1, 4] = True
    with torch.no_grad():
        found, _ = mixer(x, reset=reset)
    expected = written_out(mixer, x, reset.numpy())
    assert np.abs(found.double().numpy() - expected).max() <= tolerance * np.abs(expected).max()


def test_the_papers_log_space_form() -> None:
    """log h_n = logsumexp over m of Σ log (1 − z) + log z_m + log g(h̃_m): appendix B."""
    mixer, x = layer(), inputs()
    with torch.no_grad():
        found, state = mixer(x)
    p = numbers(mixer)
    for row, sequence in enumerate(x.numpy()):
        logits = sequence @ p["gate.weight"].T + p["gate.bias"]
        candidates = sequence @ p["candidate.weight"].T + p["candidate.bias"]
        log_coefficients = -np.logaddexp(0, logits)
        values = -np.logaddexp(0, -logits) + np.log(np.vectorize(g)(candidates))
        for n in range(LENGTH):
            decay = np.stack([log_coefficients[m + 1 : n + 1].sum(0) for m in range(n + 1)])
            h = np.exp(logsumexp(decay + values[: n + 1], axis=0))
            y = p["output.weight"] @ h + p["output.bias"]
            assert np.abs(found[row, n].numpy() - y).max() < 1e-10
        assert np.abs(state[0][row].flatten().numpy() - h).max() < 1e-10
    assert (state[0] > 0).all()


@pytest.mark.parametrize(("bias", "held"), [(-300.0, True), (300.0, False)])
def test_shut_and_open_gates_are_exact(bias: float, held: bool) -> None:
    """A shut gate keeps h to the last bit; an open one keeps nothing; gradients stay finite."""
    mixer, x = layer(torch.float32), inputs(torch.float32)
    with torch.no_grad():
        _, state = mixer(x)
        mixer.gate.bias.fill_(bias)
    y, after = mixer(x, state)
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters() if p.grad is not None)
    candidates = mixer.candidate(x[:, -1]).tolist()
    newest = torch.tensor([[g(c) for c in row] for row in candidates])
    expected = state[0] if held else newest[..., None, None]
    assert torch.allclose(after[0], expected, rtol=1e-6)


def test_nothing_is_trained_apart() -> None:
    """The paper names no rate of its own for any part."""
    mixer = layer()
    assert mixer.parameter_groups() == {}
    config = Config(model=MinGRUConfig(name="mingru"))
    assert [group["name"] for group in parameter_groups(mixer, config)] == ["undecayed", "decayed"]


def test_the_state_is_real_and_grows_with_the_expansion() -> None:
    (state,) = MinGRU(WIDTH, expansion=3).init_state(2)
    assert state.shape == (2, 3 * WIDTH, 1, 1) and state.dtype == torch.float32
