"""Numbers of channels made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateloop.inspection.channels import best_step, channel, circular, longest, memory
from gateloop.inspection.subject import Subject
from gateloop.inspection.transitions import TURN, Layer

TOKENS_BL = np.array([[0, 1, 5, 2, 3], [4, 0, 1, 5, 2]])
LABELS = list("01R23")


def layer(log_BLC: np.ndarray, phase_BLC: np.ndarray) -> Layer:
    """Max-headed, with nothing for query, key and value."""
    nothing = np.zeros((*log_BLC.shape, 1))
    return Layer(log_BLC[..., None], phase_BLC[..., None], nothing, nothing, nothing)


@pytest.fixture
def counter() -> Layer:
    """Channel 0 turns by 20 fiftieths a unit and forgets at resets; 1 never forgets; 2 decays."""
    log_BLC = np.zeros((2, 5, 3))
    log_BLC[..., 0] = np.where(TOKENS_BL == 5, math.log(0.01), math.log(0.99))
    log_BLC[..., 2] = np.log(0.5)
    phase_BLC = np.zeros((2, 5, 3))
    phase_BLC[..., 0] = 20 * TOKENS_BL * TURN / 50
    phase_BLC[..., 2] = 0.3 + TURN * TOKENS_BL  # whole turns are nothing
    return layer(log_BLC, phase_BLC)


def test_memory_counts_what_it_is_told(counter: Layer) -> None:
    off, everything = TOKENS_BL != 5, np.ones_like(TOKENS_BL, dtype=bool)
    assert memory(counter, off) == pytest.approx([-1 / math.log(0.99), math.inf, 1 / math.log(2)])
    assert memory(counter, everything)[0] == pytest.approx(
        -10 / (8 * math.log(0.99) + 2 * math.log(0.01))
    )
    assert longest(counter, off, 2).tolist() == [1, 0]
    resets = TOKENS_BL == 5  # over them alone channel 0 is the shortest
    assert longest(counter, resets, 9).tolist() == [1, 2, 0]


def test_what_grows_is_never_forgotten() -> None:
    growing = layer(np.full((2, 5, 1), 0.1), np.zeros((2, 5, 1)))
    assert memory(growing, TOKENS_BL != 5).tolist() == [math.inf]


def test_a_counting_channel(counter: Layer) -> None:
    found = channel(1, counter, 0, Subject(TOKENS_BL, LABELS, 5, 5, 50))
    assert (found.layer, found.channel, found.step) == (1, 0, 20)
    assert found.amplitude == pytest.approx(0.99) and found.at_reset == pytest.approx(0.01)
    assert found.turns == pytest.approx((0, 20, -10, 10, -20))
    assert found.spreads == pytest.approx((0,) * 5, abs=1e-6)
    assert found.distance == pytest.approx(0, abs=1e-9) and found.residual == pytest.approx(0)


def test_a_channel_that_counts_nothing(counter: Layer) -> None:
    found = channel(0, counter, 2, Subject(TOKENS_BL, LABELS, 5, 5, 50))
    turn = 0.3 * 50 / TURN
    assert found.turns == pytest.approx((turn,) * 5)
    assert found.distance == pytest.approx(abs(turn - round(turn)))
    assert found.residual is not None and found.residual > 1


def test_a_text_has_phases_in_radians_and_no_resets(counter: Layer) -> None:
    found = channel(0, counter, 2, Subject(TOKENS_BL, LABELS))
    assert found.turns == pytest.approx((0.3,)) and found.spreads == pytest.approx((0,), abs=1e-6)
    assert found.at_reset is found.distance is found.step is found.residual is None


def test_circular() -> None:
    mean, spread = circular(np.array([math.pi - 0.1, -math.pi + 0.1, 3 * math.pi]))
    assert abs(mean) == pytest.approx(math.pi) and spread == pytest.approx(0.0816, abs=1e-3)
    assert circular(np.array([0.0, math.pi]))[1] > 5


@pytest.mark.parametrize(
    ("step", "modulus"), [(0, 50), (1, 50), (-2, 50), (24, 50), (25, 50), (2, 5)]
)
def test_best_step(step: int, modulus: int) -> None:
    noise = np.array([0.1, -0.1, 0.1, -0.1, 0.0])
    turns = np.remainder(step * np.arange(5) + noise + modulus / 2, modulus) - modulus / 2
    found, residual = best_step(turns, modulus)
    assert found == step and residual == pytest.approx(math.sqrt(0.04 / 5))
