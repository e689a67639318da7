"""Retention against the paper's parallel form and against its authors' normalised forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import gateloop.models.retnet as module
from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.models.retnet import Retention
from gateloop.names import ChannelMixingName, NormName
from gateloop.recurrence import gated_linear_recurrence
from tests.models.options import WIDTH, far, inputs

Array = NDArray[np.float64]
HEADS, D_KEY, D_VALUE, LENGTH = 3, 6, 5, 17


def layer(dtype: torch.dtype = torch.float64) -> Retention:
    torch.manual_seed(0)
    mixer = Retention(WIDTH, heads=HEADS, d_key=D_KEY, d_value=D_VALUE)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return mixer.to(dtype)


def weights(mixer: Retention) -> dict[str, Array]:
    return {name: p.detach().double().numpy() for name, p in mixer.named_parameters()}


def rotated(x_LHK: Array) -> Array:
    """Pairs (x₀, x₁) of step n turned by n·θ_j."""
    length, _, keys = x_LHK.shape
    theta = 10000.0 ** -np.linspace(0, 1, keys // 2)
    angle = np.arange(length)[:, None, None] * theta
    even, odd = x_LHK[..., 0::2], x_LHK[..., 1::2]
    turned = np.empty_like(x_LHK)
    turned[..., 0::2] = even * np.cos(angle) - odd * np.sin(angle)
    turned[..., 1::2] = odd * np.cos(angle) + even * np.sin(angle)
    return turned


def projected(mixer: Retention, x_LD: Array) -> tuple[Array, Array, Array]:
    w = weights(mixer)
    q = rotated((x_LD @ w["query.weight"].T).reshape(-1, HEADS, D_KEY))
    k = rotated((x_LD @ w["key.weight"].T).reshape(-1, HEADS, D_KEY) / math.sqrt(D_KEY))
    return q, k, (x_LD @ w["value.weight"].T).reshape(-1, HEADS, D_VALUE)


def decays(length: int) -> Array:
    """γ_h^(n−m) on and below the diagonal, (heads, length, length)."""
    steps = np.arange(length)[:, None] - np.arange(length)
    gamma = 1 - 2.0 ** (-5 - np.arange(HEADS))
    return np.where(steps >= 0, gamma[:, None, None] ** np.maximum(steps, 0), 0.0)


def finished(mixer: Retention, x_LD: Array, y_LHV: Array, eps: float) -> Array:
    w = weights(mixer)
    y = y_LHV / np.sqrt((y_LHV**2).mean(-1, keepdims=True) + eps)
    gate = x_LD @ w["gate.weight"].T
    return (gate / (1 + np.exp(-gate)) * y.reshape(len(y), -1)) @ w["output.weight"].T


def parallel(mixer: Retention, x_LD: Array) -> Array:
    q, k, v = projected(mixer, x_LD)
    score = np.einsum("nhk,mhk->hnm", q, k) * decays(len(x_LD))
    return finished(mixer, x_LD, np.einsum("hnm,mhv->nhv", score, v), 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_paper_s_parallel_form(dtype: torch.dtype, tolerance: float) -> None:
    mixer, x_BLD = layer(dtype), inputs(LENGTH, dtype=torch.float32).to(dtype)
    with torch.no_grad():
        y_BLD = mixer(x_BLD)[0].double()
    expected = np.stack([parallel(mixer, x_LD.double().numpy()) for x_LD in x_BLD])
    assert far(y_BLD, torch.from_numpy(expected)) <= tolerance


def torchscale_parallel(mixer: Retention, x_LD: Array) -> Array:
    """Decays divided by the root of their sum, scores by the sum of their sizes."""
    q, k, v = projected(mixer, x_LD)
    mask = decays(len(x_LD))
    score = np.einsum("nhk,mhk->hnm", q, k) * mask / np.sqrt(mask.sum(-1, keepdims=True))
    score = score / np.clip(np.abs(score).sum(-1, keepdims=True), 1, 5e4)
    return finished(mixer, x_LD, np.einsum("hnm,mhv->nhv", score, v), 0.0)


def torchscale_recurrent(mixer: Retention, x_LD: Array) -> Array:
    """A state divided by the root of a running scale."""
    q, k, v = projected(mixer, x_LD)
    gamma = 1 - 2.0 ** (-5 - np.arange(HEADS))
    state, scale, read = np.zeros((HEADS, D_KEY, D_VALUE)), np.zeros(HEADS), []
    for q_HK, k_HK, v_HV in zip(q, k, v, strict=True):
        now = scale * gamma + 1
        kept = (np.sqrt(scale) * gamma / np.sqrt(now))[:, None, None]
        state = state * kept + k_HK[..., None] * v_HV[:, None] / np.sqrt(now)[:, None, None]
        scale = now
        read.append(np.einsum("hk,hkv->hv", q_HK, state))
    return finished(mixer, x_LD, np.stack(read), 0.0)


def test_the_authors_scales_cancel_in_the_norm_without_epsilon() -> None:
    mixer, x_BLD = layer(), 3 * inputs(LENGTH)
    mixer.norm.eps = 0.0
    with torch.no_grad():
        y_BLD = mixer(x_BLD)[0]
    for form in (torchscale_parallel, torchscale_recurrent):
        expected = np.stack([form(mixer, x_LD.numpy()) for x_LD in x_BLD])
        assert far(y_BLD, torch.from_numpy(expected)) <= 1e-10, form.__name__


def test_decays_and_angles() -> None:
    mixer = Retention(8, heads=64, d_key=8)
    assert mixer.log_decay.shape == (1, 1, 64, 1) and mixer.angle.shape == (1, 1, 1, 4)
    assert mixer.log_decay.dtype == mixer.angle.dtype == torch.float64
    for head, log_decay in enumerate(mixer.log_decay.flatten().tolist()):
        x = 2.0 ** (-5 - head)  # log(1 − x) by its series
        series = -sum(x**power / power for power in range(1, 14))
        assert log_decay == pytest.approx(series, rel=1e-15)
        assert np.float32(log_decay) < 0
    first = mixer.log_decay.exp().flatten()[:3].tolist()
    assert first == pytest.approx([31 / 32, 63 / 64, 127 / 128], rel=1e-15)
    assert mixer.angle.flatten().tolist() == pytest.approx(
        [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3), 1e-4], rel=1e-14
    )


def test_nothing_of_the_transition_is_trained_or_saved() -> None:
    mixer = layer()
    names = {"query.weight", "key.weight", "value.weight", "gate.weight", "output.weight"}
    assert {name for name, _ in mixer.named_parameters()} == names
    assert set(mixer.state_dict()) == names
    assert mixer.parameter_groups() == {}


def test_initial_weights() -> None:
    """Glorot's uniform with gain 2^(−5/2), and 1/2 for the output."""
    torch.manual_seed(0)
    mixer = Retention(512, heads=2)
    assert (mixer.d_key, mixer.d_value) == (256, 432)
    for name, parameter in mixer.named_parameters():
        gain = 0.5 if name == "output.weight" else 2**-2.5
        bound = gain * math.sqrt(6 / sum(parameter.shape))
        assert 0.999 * bound < float(parameter.detach().abs().max()) <= bound * (1 + 1e-6)
        assert float(parameter.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_gates_are_fixed_and_not_rounded_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, ...]] = []

    def watched(*arguments: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        seen.append(arguments)
        return gated_linear_recurrence(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "gated_linear_recurrence", watched)
    mixer, x_BLD = layer(torch.float32), inputs(4, dtype=torch.float32)
    with torch.no_grad():
        mixer(x_BLD)
        with torch.autocast("cpu", torch.bfloat16):
            mixer(x_BLD)
    exact, rounded = seen
    assert rounded[2].dtype == torch.bfloat16
    for wide, narrow in zip(exact[3:], rounded[3:], strict=True):
        assert wide.shape[:2] == (1, 1) and narrow.dtype == torch.float32
        assert torch.equal(wide, narrow)


def test_sizes_and_block_of_the_config() -> None:
    config = compose(["model=retnet", "size=125m"]).model
    mixer = Retention.from_config(config)
    assert (mixer.heads, mixer.d_key, mixer.d_value) == (4, 156, 263)
    assert config.channel_mixing is ChannelMixingName.geglu and config.norm is NormName.rms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("model.heads=5", r"model.heads=5 does not divide the 64 channels.*nearest: 4"),
        ("model.heads=64", r"model.d_key=1 is odd.*set model.d_key=2"),
        ("model.d_key=7", r"model.d_key=7 is odd.*set model.d_key=8"),
    ],
)
def test_keys_that_do_not_fit(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(["model=retnet", *arguments.split()])


def test_an_odd_key_is_refused_by_the_layer_too() -> None:
    with pytest.raises(ValueError, match="must be even"):
        Retention(WIDTH, d_key=3)
