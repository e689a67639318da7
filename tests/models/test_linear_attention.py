"""Linear attention against its definition as normalised attention weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import gateloop.models.linear_attention as module
from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.models.linear_attention import LinearAttention
from gateloop.names import ChannelMixingName, NormName
from gateloop.recurrence import gated_linear_recurrence
from tests.models.options import WIDTH, far, inputs

Array = NDArray[np.float64]
HEADS, D_KEY, D_VALUE, LENGTH = 3, 6, 5, 17


def layer(dtype: torch.dtype = torch.float64) -> LinearAttention:
    torch.manual_seed(0)
    return LinearAttention(WIDTH, heads=HEADS, d_key=D_KEY, d_value=D_VALUE).to(dtype)


def features(x: Array) -> Array:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def projection(mixer: LinearAttention, name: str, x_LD: Array) -> Array:
    w = {key: p.detach().double().numpy() for key, p in mixer.named_parameters()}
    return x_LD @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def keys(mixer: LinearAttention, x_LD: Array) -> Array:
    return features(projection(mixer, "key", x_LD).reshape(-1, HEADS, D_KEY))


def by_weights(mixer: LinearAttention, x_LD: Array) -> Array:
    q = features(projection(mixer, "query", x_LD).reshape(-1, HEADS, D_KEY))
    v = projection(mixer, "value", x_LD).reshape(-1, HEADS, D_VALUE)
    score = np.tril(np.einsum("nhk,mhk->hnm", q, keys(mixer, x_LD)))
    score /= score.sum(-1, keepdims=True) + 1e-6
    read = np.einsum("hnm,mhv->nhv", score, v)
    return projection(mixer, "output", read.reshape(len(read), -1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_normalised_attention_weights(dtype: torch.dtype, tolerance: float) -> None:
    mixer, x_BLD = layer(dtype), inputs(LENGTH, dtype=torch.float32).to(dtype)
    with torch.no_grad():
        y_BLD = mixer(x_BLD)[0].double()
    expected = np.stack([by_weights(mixer, x_LD.double().numpy()) for x_LD in x_BLD])
    assert far(y_BLD, torch.from_numpy(expected)) <= tolerance


def test_the_last_column_of_the_state_is_the_sum_of_keys() -> None:
    mixer, x_BLD = layer(), inputs(LENGTH)
    with torch.no_grad():
        (state,) = mixer(x_BLD)[1]
    assert state.shape == (2, HEADS, D_KEY, D_VALUE + 1)
    expected = np.stack([keys(mixer, x_LD.numpy()).sum(0) for x_LD in x_BLD])
    assert far(state[..., -1], torch.from_numpy(expected)) <= 1e-12


def test_equal_values_are_read_as_they_are_at_any_length() -> None:
    """Weights that sum to one: what a sum without a denominator would not give."""
    mixer = layer(torch.float32)
    with torch.no_grad():
        mixer.value.weight.zero_()
        expected = mixer.output(mixer.value.bias)
        y_BLD = mixer(inputs(600, dtype=torch.float32))[0]
    assert far(y_BLD, expected.expand_as(y_BLD)) <= 1e-5


def test_under_autocast_the_quotient_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, ...]] = []

    def watched(*arguments: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        seen.append(arguments)
        return gated_linear_recurrence(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "gated_linear_recurrence", watched)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(torch.float32)(inputs(4, dtype=torch.float32))
    q, k, v, log_amplitude, phase = seen[0]
    assert {q.dtype, k.dtype, v.dtype} == {torch.float32}
    assert log_amplitude.shape == (1, 1, 1, 1) and not log_amplitude.any() and phase is None


def test_nothing_has_a_rate_of_its_own() -> None:
    assert layer().parameter_groups() == {}


def test_sizes_and_block_of_the_config() -> None:
    config = compose(["model=linear_attention", "size=small"]).model
    mixer = LinearAttention.from_config(config)
    assert (mixer.heads, mixer.d_key, mixer.d_value) == (4, 64, 64)
    assert config.channel_mixing is ChannelMixingName.gelu and config.norm is NormName.layer


def test_keys_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"model.heads=7 does not divide the 64 .*nearest: 8"):
        compose(["model=linear_attention", "model.heads=7"])
    sizes = ["model.heads=7", "model.d_key=3", "model.d_value=5"]
    config = compose(["model=linear_attention", *sizes]).model
    assert LinearAttention.from_config(config).state_shape == (7, 3, 6)
