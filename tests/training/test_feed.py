"""What an optimiser step sees depends on seed and step, not on how the batch is cut."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from gateloop.config import MemoryHorizonConfig, TextConfig
from gateloop.data import Batch, Source, open_source
from gateloop.names import TokenizerName
from gateloop.training.feed import Feed, made_ahead, tensors

BATCH = 12


@pytest.fixture(params=["memory_horizon", "text"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if request.param == "memory_horizon":
        return open_source(MemoryHorizonConfig(length=6, resets=1, samples=50))
    (tmp_path / "a.txt").write_text("".join(f"line {n} is here\n" for n in range(99)))
    return open_source(
        TextConfig(
            name="text",
            path=str(tmp_path / "a.txt"),
            tokenizer=TokenizerName.byte,
            length=6,
            reset_at_documents=True,
            cache_dir=str(tmp_path / "cache"),
        )
    )


def step_of(source: Source, step: int, size: int, ranks: int = 1) -> dict[str, torch.Tensor]:
    """All that optimiser step ``step`` sees: micro-batches of every device, in sample order."""
    accumulation = BATCH // (size * ranks)
    feeds = [
        iter(Feed(source, 3, size, lambda: step * accumulation, rank, ranks))
        for rank in range(ranks)
    ]
    parts = [next(feed) for _ in range(accumulation) for feed in feeds]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_accumulation_and_devices_change_nothing(source: Source) -> None:
    for step in (0, 1, 7):
        whole = step_of(source, step, BATCH)
        assert whole["inputs"].shape == (BATCH, 6)
        for size, ranks in ((4, 1), (1, 1), (3, 2), (2, 3)):
            found = step_of(source, step, size, ranks)
            assert found.keys() == whole.keys()
            assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_steps_differ_and_seeds_differ(source: Source) -> None:
    first, second = step_of(source, 0, BATCH), step_of(source, 1, BATCH)
    assert not torch.equal(first["inputs"], second["inputs"])
    other = next(iter(Feed(source, 4, BATCH, lambda: 0)))
    assert not torch.equal(first["inputs"], other["inputs"])


def test_a_resumed_feed_goes_on(source: Source) -> None:
    """The position is asked for when the iteration starts, as a resumed run does."""
    position = 0
    feed = Feed(source, 3, 4, lambda: position)
    whole = [part["inputs"] for part in islice(feed, 9)]
    position = 5
    rest = [part["inputs"] for part in islice(feed, 4)]
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], rest, strict=True))


def test_made_ahead_the_same_batches(source: Source) -> None:
    feed = Feed(source, 3, 4, lambda: 2)
    for expected, found in zip(islice(feed, 5), made_ahead(iter(feed)), strict=False):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_is_made_while_one_is_used() -> None:
    made, allowed = [], threading.Semaphore(2)

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for number in itertools.count():
            assert allowed.acquire(timeout=10)
            made.append(threading.current_thread())
            yield {"inputs": torch.tensor(number)}

    ahead = made_ahead(batches())
    assert next(ahead)["inputs"] == 0
    for _ in range(1000):  # of the second one, without its being asked for
        if len(made) == 2:
            break
        time.sleep(0.01)
    assert len(made) == 2 and threading.current_thread() not in made
    allowed.release()
    assert next(ahead)["inputs"] == 1
    allowed.release()
    ahead.close()  # type: ignore[attr-defined]
    assert not any(thread.is_alive() for thread in made)


def test_an_error_in_the_thread_is_the_feed_s() -> None:
    def batches() -> Iterator[dict[str, torch.Tensor]]:
        yield {}
        raise OSError("the disk is gone")

    ahead = made_ahead(batches())
    next(ahead)
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_tensors() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert set(tensors(Batch(array, array))) == {"inputs", "targets"}
    found = tensors(Batch(array, array + 1, array > 2, array))
    assert set(found) == {"inputs", "targets", "reset"}
    assert found["targets"].dtype == torch.int64 and found["reset"].dtype == torch.bool
    assert found["targets"].tolist() == (array + 1).tolist()
