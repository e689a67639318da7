"""Gated linear attention against its equations, a step at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import gateloop.models.gla as module
from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.models.gla import GLA
from gateloop.names import ChannelMixingName, NormName
from gateloop.recurrence import gated_linear_recurrence
from tests.models.options import WIDTH, far, inputs

Array = NDArray[np.float64]
HEADS, D_KEY, D_VALUE, LENGTH = 3, 6, 5, 17


def layer(dtype: torch.dtype = torch.float64) -> GLA:
    """Off the initial values, with gates that forget as well as gates that hold."""
    torch.manual_seed(0)
    mixer = GLA(WIDTH, heads=HEADS, d_key=D_KEY, d_value=D_VALUE)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        mixer.decay[1].bias.copy_(torch.linspace(-60, 8, HEADS * D_KEY))
    return mixer.to(dtype)


def by_steps(mixer: GLA, x_LD: Array) -> Array:
    w = {name: p.detach().double().numpy() for name, p in mixer.named_parameters()}
    state, outputs = np.zeros((HEADS, D_KEY, D_VALUE)), []
    for x in x_LD:
        logit = w["decay.1.weight"] @ (w["decay.0.weight"] @ x) + w["decay.1.bias"]
        decay = ((1 / (1 + np.exp(-logit))) ** (1 / 16)).reshape(HEADS, D_KEY)
        q = (w["query.weight"] @ x).reshape(HEADS, D_KEY) / math.sqrt(D_KEY)
        k = (w["key.weight"] @ x).reshape(HEADS, D_KEY)
        v = (w["value.weight"] @ x).reshape(HEADS, D_VALUE)
        state = decay[..., None] * state + k[..., None] * v[:, None]
        y = np.einsum("hk,hkv->hv", q, state)
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * w["norm.weight"]
        gate = w["gate.weight"] @ x
        outputs.append(w["output.weight"] @ (y.reshape(-1) * gate / (1 + np.exp(-gate))))
    return np.stack(outputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_recurrence_step_by_step(dtype: torch.dtype, tolerance: float) -> None:
    mixer, x_BLD = layer(dtype), inputs(LENGTH, dtype=torch.float32).to(dtype)
    with torch.no_grad():
        y_BLD = mixer(x_BLD)[0].double()
    expected = np.stack([by_steps(mixer, x_LD.double().numpy()) for x_LD in x_BLD])
    assert far(y_BLD, torch.from_numpy(expected)) <= tolerance


def test_initial_values() -> None:
    """Glorot's uniform with gain 2^(−5/2); decays round (1/2)^(1/16), with room on both sides."""
    torch.manual_seed(0)
    mixer = GLA(256)
    for name, parameter in mixer.named_parameters():
        if parameter.ndim == 2:
            bound = 2**-2.5 * math.sqrt(6 / sum(parameter.shape))
            assert 0.99 * bound < float(parameter.detach().abs().max()) <= bound * (1 + 1e-6), name
    assert not mixer.decay[1].bias.any() and (mixer.norm.weight == 1).all()
    with torch.no_grad():
        log_decay = mixer.log_decay(torch.randn(4, 8, 256))
    assert float(log_decay.mean()) == pytest.approx(math.log(0.5) / 16, rel=0.02)
    assert float(log_decay.max()) < 0


def test_the_gate_has_rank_sixteen() -> None:
    mixer = GLA(64)
    assert mixer.decay[0].bias is None
    product = (mixer.decay[1].weight @ mixer.decay[0].weight).detach().double()
    assert product.shape == (32, 64)
    assert torch.linalg.matrix_rank(product, rtol=1e-5) == 16


def test_gates_are_not_rounded_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert rounded[0].dtype == rounded[1].dtype == rounded[2].dtype == torch.bfloat16
    assert rounded[3].dtype == torch.float32 and torch.equal(rounded[3], exact[3])


def test_nothing_has_a_rate_of_its_own() -> None:
    assert layer().parameter_groups() == {}


def test_sizes_and_block_of_the_config() -> None:
    config = compose(["model=gla", "size=125m"]).model
    mixer = GLA.from_config(config)
    assert (mixer.heads, mixer.d_key, mixer.d_value) == (4, 78, 156)
    assert config.channel_mixing is ChannelMixingName.swiglu and config.norm is NormName.rms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("model.heads=5", r"model.heads=5 does not divide the 32 channels.*nearest: 4"),
        ("model.heads=64", r"model.heads=64 does not divide the 32 channels.*nearest: 32"),
        ("model.heads=5 model.d_key=3", r"model.heads=5 does not divide the 64 channels"),
    ],
)
def test_keys_that_do_not_fit(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(["model=gla", *arguments.split()])
