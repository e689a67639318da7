"""Each change does to the transitions what its name says, and to the model what follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gateloop.data.memory_horizon import RESET
from gateloop.inspection.changes import AS_TRAINED, LONGEST, changes_of
from gateloop.inspection.channels import longest
from gateloop.inspection.transitions import TURN, Layer, changed, mixers, observe
from gateloop.model_config import AmplitudeConfig, PhaseConfig, TransitionConfig
from gateloop.models.language_model import LanguageModel
from gateloop.names import AmplitudeControl, Domain, PhaseControl
from tests.inspection.small import LENGTH, TOKENS_BL, logits, model

RESETS_BL = TOKENS_BL == RESET
SIGNED = TransitionConfig(domain=Domain.signed)
REAL = TransitionConfig(domain=Domain.real)
FIXED = TransitionConfig(
    amplitude=AmplitudeConfig(control=AmplitudeControl.fixed),
    phase=PhaseConfig(control=PhaseControl.fixed),
)


def under(made: LanguageModel, name: str) -> tuple[list[Layer], torch.Tensor]:
    """Layers and logits under a change of that name."""
    with changed(made, changes_of(made, TOKENS_BL, RESET, 50)[name]):
        return observe(made, TOKENS_BL), logits(made)


def first_two(made: LanguageModel, name: str) -> tuple[Layer, Layer]:
    """Layer 0 as trained and under the change: its input is the same."""
    return observe(made, TOKENS_BL)[0], under(made, name)[0][0]


# -- forgetting --------------------------------------------------------------------------


def test_amplitude_0_at_resets_forgets_as_a_reset_does() -> None:
    made = model()
    reset = logits(made, reset=torch.from_numpy(RESETS_BL))
    assert torch.allclose(under(made, "amplitude 0 at resets")[1], reset, rtol=0, atol=1e-12)
    assert not torch.allclose(logits(made), reset, rtol=0, atol=1e-3)


@pytest.fixture
def hoarder() -> LanguageModel:
    """A model that by its weights keeps 0.999 of its state at every token."""
    made = model()
    with torch.no_grad():
        for mixer in mixers(made):
            mixer.transition.amplitude.projection.weight.zero_()
            mixer.transition.amplitude.projection.bias.fill_(7.0)
    return made


def test_a_model_that_keeps_everything_is_made_to_forget(hoarder: LanguageModel) -> None:
    last = int(np.flatnonzero(RESETS_BL[0])[-1])
    other_BL = TOKENS_BL.copy()
    other_BL[0, 0] = (other_BL[0, 0] + 1) % 5

    def after_the_reset(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        with changed(hoarder, changes_of(hoarder, TOKENS_BL, RESET, 50)[name]):
            pair = logits(hoarder), logits(hoarder, other_BL)
        return pair[0][0, last:], pair[1][0, last:]

    for name in (AS_TRAINED, "amplitude 1 at resets"):
        one, other = after_the_reset(name)
        assert (one - other).abs().amax(-1).min() > 1e-6
    one, other = after_the_reset("amplitude 0 at resets")
    assert torch.equal(one, other)


def test_amplitudes_are_clamped_at_resets_alone() -> None:
    for name, value in (("amplitude 1 at resets", 0.0), ("amplitude 0 at resets", -100.0)):
        before, after = first_two(model(), name)
        assert (after.log_amplitude_BLHK[RESETS_BL] == value).all()
        assert np.array_equal(
            after.log_amplitude_BLHK[~RESETS_BL], before.log_amplitude_BLHK[~RESETS_BL]
        )
        assert np.array_equal(after.phase_BLHK, before.phase_BLHK)


def test_amplitude_1_everywhere() -> None:
    before, after = first_two(model(), "amplitude 1 everywhere")
    assert not after.log_amplitude_BLHK.any() and before.log_amplitude_BLHK.all()
    assert np.array_equal(after.phase_BLHK, before.phase_BLHK)


def test_fixed_transitions_are_clamped_at_resets_too() -> None:
    made = model(FIXED)
    layers, after = under(made, "amplitude 0 at resets")
    for layer in layers:
        assert (layer.log_amplitude_BLHK[RESETS_BL] == -100).all()
        assert (layer.log_amplitude_BLHK[~RESETS_BL] > -10).all()
    reset = logits(made, reset=torch.from_numpy(RESETS_BL))
    assert torch.allclose(after, reset, rtol=0, atol=1e-12)


# -- freezing ----------------------------------------------------------------------------


def test_amplitudes_at_their_means() -> None:
    made = model()
    trained, layers = observe(made, TOKENS_BL), under(made, "amplitudes at their means")[0]
    for before, after in zip(trained, layers, strict=True):
        mean_HK = np.exp(before.log_amplitude_BLHK).mean((0, 1))
        assert np.allclose(np.exp(after.log_amplitude_BLHK), mean_HK, rtol=1e-12)
        assert before.log_amplitude_BLHK.std((0, 1)).min() > 1e-3


def test_phases_at_their_circular_means() -> None:
    made = model()
    with torch.no_grad():  # around ±π, where the mean of the numbers is on the other side
        mixers(made)[0].transition.phase.projection.bias.fill_(np.pi)
    before, after = first_two(made, "phases at their means")
    mean_HK = np.exp(1j * before.phase_BLHK).mean((0, 1))
    frozen = np.exp(1j * after.phase_BLHK)
    assert np.allclose(frozen, mean_HK / np.abs(mean_HK), atol=1e-12)
    assert np.array_equal(after.log_amplitude_BLHK, before.log_amplitude_BLHK)


def test_phases_of_the_longest_memories_and_of_the_others() -> None:
    made = model()
    before, some = first_two(made, f"the same, {LONGEST} longest memories")
    _, rest = first_two(made, "the same, all others")
    _, every = first_two(made, "phases at their means")
    few = set(longest(before, ~RESETS_BL, LONGEST).tolist())
    assert len(few) == LONGEST == 8
    for channel in range(12):
        frozen, free = (some, rest) if channel in few else (rest, some)
        assert np.array_equal(frozen.phase_BLC[..., channel], every.phase_BLC[..., channel])
        assert np.array_equal(free.phase_BLC[..., channel], before.phase_BLC[..., channel])
        assert np.ptp(before.phase_BLC[..., channel]) > 0.01


def test_no_phase() -> None:
    made = model()
    before, after = first_two(made, "phase 0 everywhere")
    assert before.phase_BLHK.all() and not after.phase_BLHK.any()
    assert np.array_equal(after.log_amplitude_BLHK, before.log_amplitude_BLHK)


def test_phases_are_rounded() -> None:
    before, after = first_two(model(), "phases rounded to 2π/50")
    units = after.phase_BLHK * 50 / TURN
    assert np.allclose(units, units.round(), atol=1e-9)
    assert 0.01 < np.abs(after.phase_BLHK - before.phase_BLHK).max() <= TURN / 100 + 1e-9


def test_half_turns() -> None:
    """Phases of a signed model: removed, or the more frequent sign; rounding leaves them."""
    before, after = first_two(model(SIGNED), "phases at their means")
    often = (before.phase_BLHK > 0).mean((0, 1)) > 0.5
    assert np.array_equal(after.phase_BLHK > 0, np.broadcast_to(often, before.phase_BLHK.shape))
    assert 0 < often.sum() < often.size
    assert not first_two(model(SIGNED), "phase 0 everywhere")[1].phase_BLHK.any()
    _, rounded = first_two(model(SIGNED), "phases rounded to 2π/50")
    assert np.array_equal(rounded.phase_BLHK, before.phase_BLHK)


@pytest.mark.parametrize(
    "name", ["phase 0 everywhere", "phases at their means", "phases rounded to 2π/50"]
)
def test_a_real_model_has_no_phase_to_lose(name: str) -> None:
    made = model(REAL)
    assert torch.equal(under(made, name)[1], logits(made))


# -- order -------------------------------------------------------------------------------


def test_another_order_is_one_permutation_of_the_steps() -> None:
    """The same for amplitude and phase, for every sequence and for every layer."""
    made, orders = model(), []
    step_L = torch.arange(LENGTH).double()[None, :, None, None].expand(3, -1, 12, 1)
    change = changes_of(made, TOKENS_BL, RESET, 50)["transitions in another order"]
    for layer in (0, 1):
        orders += change(layer, torch.from_numpy(TOKENS_BL), -step_L, step_L)
    (order_L,) = {
        tuple(part.abs()[b, :, h, 0].tolist())
        for part in orders
        for b in range(3)
        for h in range(12)
    }
    assert sorted(order_L) == list(range(LENGTH)) != list(order_L)


def test_fixed_transitions_have_no_order() -> None:
    made = model(FIXED)
    assert torch.equal(under(made, "transitions in another order")[1], logits(made))


def test_what_concerns_no_reset_and_no_modulus_is_left_out() -> None:
    names = changes_of(model(), TOKENS_BL, None, None).keys()
    assert AS_TRAINED in names
    assert not [name for name in names if "resets" in name or "rounded" in name]
