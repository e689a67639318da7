"""What is looked at: a sample among others, a text token by token."""

from __future__ import annotations

import numpy as np
import pytest

from gateloop.data import open_source
from gateloop.data.memory_horizon import RESET, draw
from gateloop.data.tokenizers.byte import ByteTokenizer
from gateloop.errors import InputError
from gateloop.inspection import subject
from gateloop.names import LineEnd
from tests.training.small import config


@pytest.mark.parametrize("index", [0, 5, 69])
def test_a_sample_then_others(index: int) -> None:
    test = open_source(config("data.test_samples=70").data).evaluations("test")[0]
    found = subject.sample(test, index)
    every = draw(0, 2, 0, 70, 12, 2)
    assert found.tokens_BL.shape == (64, 12)
    assert np.array_equal(found.tokens_BL[0], every[index])
    others = [row for place, row in enumerate(every) if place != index]
    assert np.array_equal(found.tokens_BL[1:], others[:63])
    assert np.array_equal(found.counted_BL, found.tokens_BL != RESET)
    assert [label == "R" for label in found.labels] == (every[index] == RESET).tolist()
    assert (found.reset, found.values, found.modulus) == (5, 5, 50)


def test_fewer_samples_than_are_wanted() -> None:
    test = open_source(config("data.test_samples=2").data).evaluations("test")[0]
    assert np.array_equal(subject.sample(test, 1).tokens_BL, draw(0, 2, 0, 2, 12, 2)[::-1])


def test_samples_that_lack_a_value() -> None:
    settings = config("data.length=4", "data.resets=1", "data.test_samples=1")
    test = open_source(settings.data).evaluations("test")[0]
    with pytest.raises(InputError, match=r"the first 1 test samples hold no .*larger data.test"):
        subject.sample(test, 0)


def test_a_text() -> None:
    found = subject.text(ByteTokenizer(False), "a b\n$é")
    assert found.tokens_BL.tolist() == [list("a b\n$é".encode())]
    assert found.labels == ["a", "␣", "b", "\\n", "$", "�", "�"]
    assert found.counted_BL.all() and found.modulus is found.reset is None


def test_a_text_of_marked_lines() -> None:
    found = subject.text(ByteTokenizer(True), "a\n\nb", LineEnd.end_of_text)
    assert found.tokens_BL.tolist() == [[97, 10, 256, 98]]
    assert found.labels == ["a", "\\n", "¶", "b"]


def test_a_text_that_is_too_long() -> None:
    assert len(subject.text(ByteTokenizer(False), "x" * 8192).labels) == 8192
    with pytest.raises(InputError, match="--text: 8193 tokens; give at most 8192"):
        subject.text(ByteTokenizer(False), "x" * 8193)
