"""Windows and protocols: every token but the first is scored once, from what stands before it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateloop.config import TextConfig
from gateloop.data import IGNORE, open_source
from gateloop.data.batching import permutation, reused
from gateloop.data.windows import Stream
from gateloop.errors import InputError
from gateloop.names import Protocol, TokenizerName

LINES = "".join(f"line {i} of {i % 7}\n" for i in range(60))


@pytest.mark.parametrize("protocol", list(Protocol))
@given(
    tokens=st.integers(2, 60),
    length=st.integers(1, 17),
    stride=st.integers(1, 17),
    sequences=st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_every_token_but_the_first_is_scored_once(protocol, tokens, length, stride, sequences):
    stride = min(stride, length)
    stream = Stream(np.arange(tokens, dtype=np.uint16))  # a token is its own position
    scored = []
    for batch in stream.evaluation(protocol, length, stride, sequences):
        rows, columns = batch.inputs_BL.shape
        assert columns == length
        assert rows <= (1 if protocol is Protocol.carry else sequences)
        assert batch.inputs_BL.dtype == batch.targets_BL.dtype == np.int64
        counted_BL = batch.targets_BL != IGNORE
        assert (batch.targets_BL[counted_BL] == batch.inputs_BL[counted_BL] + 1).all()
        if protocol is Protocol.sliding:
            first_B = batch.inputs_BL[:, :1]
            context_BL = batch.targets_BL - 1 - first_B  # inputs before the one that predicts
            late_BL = counted_BL & (first_B > 0)
            assert (context_BL[late_BL] >= length - stride).all()
        scored += batch.targets_BL[counted_BL].tolist()
    assert scored == list(range(1, tokens))


def test_carried_batches_follow_each_other():
    stream = Stream(np.arange(23, dtype=np.int32))
    batches = list(stream.evaluation(Protocol.carry, 5, 2, 8))
    inputs = np.concatenate([batch.inputs_BL[0] for batch in batches])
    assert inputs[:22].tolist() == list(range(22))
    assert inputs[22:].tolist() == [0, 0, 0]


def test_documents_reset_the_state_where_they_start():
    stream = Stream(np.arange(20, dtype=np.int32), np.array([0, 7, 8, 19]))
    batch = next(stream.evaluation(Protocol.independent, 6, 3, 9))
    assert batch.reset_BL.shape == batch.inputs_BL.shape
    # 19 is the last token: it is a target, never an input
    assert batch.inputs_BL[batch.reset_BL].tolist() == [0, 7, 8]
    assert not batch.reset_BL[-1, 1:].any()
    assert next(Stream(stream.tokens).evaluation(Protocol.independent, 6, 3, 9)).reset_BL is None


@pytest.fixture
def config(tmp_path):
    (tmp_path / "a.txt").write_text(LINES)
    return TextConfig(
        name="text",
        path=str(tmp_path / "a.txt"),
        tokenizer=TokenizerName.byte,
        cache_dir=str(tmp_path / "cache"),
        length=17,
    )


@given(first=st.integers(0, 200), cuts=st.lists(st.integers(0, 90), max_size=4))
@settings(max_examples=30, deadline=None)
def test_samples_are_the_same_however_they_are_cut(source, first, cuts):
    whole = source.samples(1, first, 90)
    bounds = [0, *sorted(cuts), 90]
    parts = [
        source.samples(1, first + start, stop - start)
        for start, stop in itertools.pairwise(bounds)
        if stop > start
    ]
    assert np.array_equal(whole.inputs_BL, np.concatenate([part.inputs_BL for part in parts]))
    assert np.array_equal(whole.targets_BL, np.concatenate([part.targets_BL for part in parts]))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.txt").write_text(LINES)
    return open_source(
        TextConfig(
            name="text",
            path=str(folder / "a.txt"),
            tokenizer=TokenizerName.byte,
            cache_dir=str(folder / "cache"),
            length=17,
        )
    )


def test_an_epoch_takes_every_window_once_and_permutes_anew(source):
    text = "".join(LINES.splitlines(keepends=True)[:54]).encode()
    windows = (len(text) - 1) // 17
    plainly = sorted(list(text[17 * i : 17 * i + 17]) for i in range(windows))
    epochs = [source.samples(4, windows * epoch, windows) for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch.inputs_BL.tolist()) == plainly
        assert (epoch.inputs_BL[:, 1:] == epoch.targets_BL[:, :-1]).all()
        assert (epoch.targets_BL != IGNORE).all()
    orders = [epoch.inputs_BL.tolist() for epoch in epochs]
    assert orders[0] != orders[1]
    assert source.samples(5, 0, windows).inputs_BL.tolist() != orders[0]


def test_the_order_is_the_one_it_always_was():
    assert permutation(3, 1, 8).tolist() == [3, 4, 7, 0, 5, 2, 6, 1]
    assert reused(3, 5, 6, 8).tolist() == [*permutation(3, 0, 8)[5:], *permutation(3, 1, 8)[:3]]
    assert sorted(permutation(0, 0, 1000)) == list(range(1000))


@pytest.mark.parametrize("protocol", list(Protocol))
def test_evaluations_of_a_source(config, protocol):
    config.protocol = protocol
    config.reset_at_documents = True
    source = open_source(config)
    for split, lines in (("validation", slice(54, 57)), ("test", slice(57, 60))):
        text = "".join(LINES.splitlines(keepends=True)[lines])
        (evaluation,) = source.evaluations(split)
        assert evaluation.name == ""
        assert evaluation.carry == (protocol is Protocol.carry)
        assert evaluation.bytes == len(text)
        assert evaluation.words == len(text.split()) + 3
        assert evaluation.tokens == len(text) - 1
        batches = list(evaluation.batches(4))
        assert sum(int((batch.targets_BL != IGNORE).sum()) for batch in batches) == len(text) - 1
        assert batches[0].reset_BL[0].tolist() == [True] + [False] * 16
    assert source.samples(0, 0, 2).reset_BL is not None


def test_a_stride_above_the_length(config):
    config.stride, config.protocol = 18, Protocol.sliding
    with pytest.raises(InputError, match=r"data\.stride=18 .* data\.length=17"):
        open_source(config)
