"""What is observed is what the recurrence is given; what is changed is given to it instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gateloop.baseline_config import GLAConfig
from gateloop.inspection.transitions import (
    Layer,
    changed,
    mean_attention,
    mixers,
    observe,
    surrogate,
)
from gateloop.model_config import TransitionConfig
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from tests.inspection.small import LENGTH, TOKENS_BL, hooks, logits, model
from tests.models.options import TRANSITIONS

OPTIONS = {
    "max heads": {},
    "two heads": {"heads": 2, "d_key": 3, "d_value": 4},
    "short convolution": {"short_convolution": 3},
    "both": {"heads": 2, "d_key": 2, "d_value": 5, "short_convolution": 2},
}
transitions = pytest.mark.parametrize("transition", TRANSITIONS.values(), ids=TRANSITIONS.keys())


def recurrence_outputs(made: LanguageModel) -> list[np.ndarray]:
    """What each layer's recurrence gives, before its norm: (B, L, heads, d_value)."""
    seen: list[np.ndarray] = []
    handles = [
        mixer.norm.register_forward_pre_hook(
            lambda _, inputs, heads=mixer.heads: seen.append(
                inputs[0].unflatten(-1, (heads, -1)).detach().numpy()
            )
        )
        for mixer in mixers(made)
    ]
    logits(made)
    for handle in handles:
        handle.remove()
    return seen


def rebuilt(layer: Layer, sequence: int) -> np.ndarray:
    """The recurrence's output as surrogate attention times values."""
    heads = range(layer.v_BLHV.shape[2])
    parts = [surrogate(layer, sequence, h) @ layer.v_BLHV[sequence, :, h] for h in heads]
    return np.stack(parts, axis=1)


def check_rebuilt(made: LanguageModel) -> None:
    layers, outputs = observe(made, TOKENS_BL), recurrence_outputs(made)
    assert len(layers) == len(outputs) == 2
    for layer, y_BLHV in zip(layers, outputs, strict=True):
        assert np.abs(y_BLHV).max() > 1e-3
        for sequence in range(len(TOKENS_BL)):
            error = np.abs(rebuilt(layer, sequence) - y_BLHV[sequence]).max()
            assert error < 1e-10 * np.abs(y_BLHV).max()


@transitions
def test_the_output_is_rebuilt_from_what_was_observed(transition: TransitionConfig) -> None:
    check_rebuilt(model(transition))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_heads_and_short_convolution(options: dict[str, int]) -> None:
    check_rebuilt(model(**options))


def test_in_single_precision() -> None:
    made = model().float()
    for layer, y_BLHV in zip(observe(made, TOKENS_BL), recurrence_outputs(made), strict=True):
        assert layer.q_BLHK.dtype == layer.phase_BLHK.dtype == np.float32
        assert np.abs(rebuilt(layer, 0) - y_BLHV[0]).max() < 1e-5 * np.abs(y_BLHV).max()


def test_attention_is_causal_and_the_mean_of_every_head() -> None:
    (layer, _) = observe(model(heads=2, d_key=3, d_value=4), TOKENS_BL)
    both = [np.abs(surrogate(layer, 1, head)) for head in (0, 1)]
    assert not np.triu(both[0], 1).any() and np.diagonal(both[0]).all()
    assert np.allclose(mean_attention(layer, 1), (both[0] + both[1]) / 2, rtol=1e-14)
    assert np.array_equal(mean_attention(layer, 1, 5), mean_attention(layer, 1)[:5, :5])


def test_what_the_recurrence_cuts_off_is_cut_off() -> None:
    made = model()
    with torch.no_grad():
        mixers(made)[0].transition.amplitude.projection.bias.fill_(-1000.0)
    layer = observe(made, TOKENS_BL)[0]
    assert (layer.log_amplitude_BLHK == -100).all()


# -- changes -----------------------------------------------------------------------------


def same(_: int, __: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> object:
    return log_amplitude, phase


@transitions
def test_to_change_nothing_changes_no_bit(transition: TransitionConfig) -> None:
    made = model(transition)
    before = logits(made)
    with changed(made, same):
        assert torch.equal(logits(made), before)
    assert torch.equal(logits(made), before)


def test_a_change_reaches_every_layer_with_the_tokens_of_its_batch() -> None:
    made, given = model(), []

    def change(layer: int, tokens_BL: Tensor, log_amplitude: Tensor, phase: Tensor) -> object:
        given.append((layer, tokens_BL.clone()))
        return log_amplitude - 0.5 * (1 + layer), phase + 0.25

    first, before = observe(made, TOKENS_BL), logits(made)
    with changed(made, change):
        after = observe(made, TOKENS_BL[:2])
        assert not torch.allclose(logits(made), before)
    assert [layer for layer, _ in given] == [0, 1, 0, 1]
    assert np.array_equal(given[1][1], TOKENS_BL[:2]) and np.array_equal(given[3][1], TOKENS_BL)
    assert np.allclose(after[0].log_amplitude_BLHK, first[0].log_amplitude_BLHK[:2] - 0.5)
    assert np.allclose(after[0].phase_BLHK, first[0].phase_BLHK[:2] + 0.25)
    assert torch.equal(logits(made), before)


@pytest.mark.parametrize("width", [0, 2])
def test_hooks_are_removed_whatever_happens(width: int) -> None:
    made = model(short_convolution=width)
    observe(made, TOKENS_BL)
    assert hooks(made) == 0
    with changed(made, same):
        assert hooks(made) == 3
    assert hooks(made) == 0
    with pytest.raises(IndexError), changed(made, same):
        logits(made, TOKENS_BL + 50)
    assert hooks(made) == 0
    with pytest.raises(IndexError):
        observe(made, TOKENS_BL + 50)
    assert hooks(made) == 0


def test_channels_are_heads_then_keys() -> None:
    layer = observe(model(heads=2, d_key=3, d_value=4), TOKENS_BL)[1]
    assert layer.phase_BLC.shape == (3, LENGTH, 6)
    assert np.array_equal(layer.phase_BLC[..., 4], layer.phase_BLHK[:, :, 1, 1])
    assert np.array_equal(layer.log_amplitude_BLC[..., 2], layer.log_amplitude_BLHK[:, :, 0, 2])


def test_another_model_is_refused() -> None:
    other = build(GLAConfig(name="gla", d_model=16, layers=1, parameters=None), 6, 50)
    with pytest.raises(ValueError, match="not every layer is a GateLoop"):
        observe(other, TOKENS_BL)
