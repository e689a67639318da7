"""What stands in the pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gateloop.inspection import pictures
from gateloop.inspection.channels import longest, memory
from gateloop.inspection.subject import Subject
from gateloop.inspection.transitions import TURN, Layer, mean_attention, observe, surrogate
from tests.inspection.small import LENGTH, TOKENS_BL, model

SUBJECT = Subject(TOKENS_BL, ["R" if t == 5 else str(t) for t in TOKENS_BL[0]], 5, 5, 50)
RESETS_L = TOKENS_BL[0] == 5
Draw = Callable[[], dict[str, Any]]


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return observe(model(heads=2, d_key=8, d_value=3), TOKENS_BL)


@pytest.fixture(scope="module")
def drawn(layers: list[Layer]) -> dict[str, Draw]:
    counted_BL = SUBJECT.counted_BL
    return {
        "transitions": lambda: pictures.over_time(layers, counted_BL, SUBJECT.labels, RESETS_L),
        "by_token": lambda: pictures.by_token(layers, SUBJECT),
        "memory": lambda: pictures.memories(layers, counted_BL),
        "attention": lambda: pictures.attention(layers, counted_BL, RESETS_L),
    }


@pytest.fixture
def figures(drawn: dict[str, Draw], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures themselves, by name."""
    monkeypatch.setattr(pictures, "_files", lambda figure, name: {name: figure})
    return {name: draw()[name] for name, draw in drawn.items()}


def markers(axis: Any) -> list[float]:
    return [x for line in axis.lines if line.get_marker() == "v" for x in line.get_xdata()]


@pytest.mark.parametrize("name", ["transitions", "by_token", "memory", "attention"])
def test_both_forms_without_a_warning(name: str, drawn: dict[str, Draw]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = drawn[name]()
    assert found.keys() == {f"{name}.png", f"{name}.svg"}
    assert found[f"{name}.png"].startswith(b"\x89PNG") and b"<svg" in found[f"{name}.svg"]


def test_transitions(figures: dict[str, Any], layers: list[Layer]) -> None:
    axes = [axis for axis in figures["transitions"].axes if axis.images]
    assert len(axes) == 4
    for number, layer in enumerate(layers):
        shown = longest(layer, SUBJECT.counted_BL, 12)
        amplitude, phase = axes[2 * number : 2 * number + 2]
        for axis in (amplitude, phase):
            assert [text.get_text() for text in axis.get_yticklabels()] == list(map(str, shown))
            assert [text.get_text() for text in axis.get_xticklabels()] == SUBJECT.labels
            assert not any(text.get_parse_math() for text in axis.get_xticklabels())
            assert markers(axis) == np.flatnonzero(RESETS_L).tolist()
            assert f"layer {number}" in axis.get_title()
        picture = amplitude.images[0].get_array()
        assert np.allclose(picture, np.exp(layer.log_amplitude_BLC[0][:, shown].T))
        turned = phase.images[0].get_array() * np.pi
        assert np.abs(turned).max() <= np.pi
        assert np.allclose(np.exp(1j * turned), np.exp(1j * layer.phase_BLC[0][:, shown].T))


def test_by_token(figures: dict[str, Any], layers: list[Layer]) -> None:
    amplitude, phase, distance = figures["by_token"].axes[3:]
    shown = longest(layers[1], SUBJECT.counted_BL, 6)
    names = [text.get_text() for text in amplitude.get_legend().get_texts()]
    assert names == list(map(str, shown))

    def dots(axis: Any) -> dict[tuple[int, int], float]:
        """(rank of the channel, token) → height."""
        found = [line for line in axis.lines if line.get_marker() == "o"]
        points = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in found]
        return {(round((x - round(x)) / 0.11 + 2.5), round(x)): y for x, y in points}

    assert dots(amplitude).keys() == {(rank, token) for rank in range(6) for token in range(6)}
    for (rank, token), height in dots(amplitude).items():
        at = layers[1].log_amplitude_BLC[..., shown[rank]][np.equal(TOKENS_BL, token)]
        assert height == pytest.approx(np.exp(np.median(at)), rel=0.1)
    assert dots(phase).keys() == {(rank, token) for rank in range(6) for token in range(5)}
    for (rank, token), height in dots(phase).items():
        at = layers[1].phase_BLC[..., shown[rank]][np.equal(TOKENS_BL, token)]
        mean = np.exp(1j * at).mean()
        assert np.exp(1j * height * TURN / 50) == pytest.approx(mean / abs(mean))
        assert dots(distance)[rank, token] == pytest.approx(height - round(height))


def test_by_token_without_resets(layers: list[Layer]) -> None:
    never = replace(SUBJECT, tokens_BL=np.where(TOKENS_BL == 5, 0, TOKENS_BL))
    assert pictures.by_token(layers, never).keys() == {"by_token.png", "by_token.svg"}


def test_memory(figures: dict[str, Any], layers: list[Layer]) -> None:
    (axis,) = figures["memory"].axes
    for line, layer in zip(axis.lines, layers, strict=False):
        assert np.allclose(sorted(line.get_ydata()), np.sort(memory(layer, SUBJECT.counted_BL)))
    assert list(axis.lines[2].get_ydata()) == [LENGTH, LENGTH]


def test_attention(figures: dict[str, Any], layers: list[Layer]) -> None:
    axes = [axis for axis in figures["attention"].axes if axis.images]
    assert len(axes) == 4
    for number, layer in enumerate(layers):
        above, below = axes[number].images[0].get_array(), axes[2 + number].images[0].get_array()
        rows = mean_attention(layer, 0)
        assert np.allclose(above, rows / rows.sum(1, keepdims=True))
        head = int(longest(layer, SUBJECT.counted_BL, 1)[0]) // 8
        assert np.allclose(below, surrogate(layer, 0, head))
        assert markers(axes[number]) == np.flatnonzero(RESETS_L).tolist()


def test_any_text_can_be_a_label(layers: list[Layer]) -> None:
    nothing_BL = np.zeros(TOKENS_BL.shape, dtype=bool)
    labels = ["$x$", "$", "_^", "漢", "\\n", "�"] + ["a"] * (LENGTH - 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.over_time(layers[:1], ~nothing_BL, labels, nothing_BL[0])


def test_what_never_forgets_can_be_drawn(layers: list[Layer]) -> None:
    zeros = [
        replace(layer, log_amplitude_BLHK=np.zeros_like(layer.log_amplitude_BLHK))
        for layer in layers
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.memories(zeros, SUBJECT.counted_BL)
