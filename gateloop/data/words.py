"""Whitespace words of a large text, counted and looked up by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import Any, TypeVar

import numpy as np

from gateloop.data.corpus import END_OF_TEXT, Split, pieces
from gateloop.data.progress import Progress

LINE_END = "\udc0a"  # the line's end as a word: a lone surrogate, which UTF-8 cannot contain
SPACE = "▁"  # before a word that a space precedes, as sentencepiece writes it
AT_ONCE = 1 << 21  # characters that a process takes at a time
ALONE = 1 << 24  # a text with fewer characters is not worth starting processes
PROCESSES = 12  # more would not fit in 2 GiB together

Result = TypeVar("Result")


def cores() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def over_cores(
    function: Callable[[list[str]], Result],
    groups: Iterable[list[str]],
    vocabulary: dict[str, int] | None = None,
) -> Iterator[Result]:
    """``function`` of each group, in order: here while it is little, then in processes."""
    waiting: deque[Any] = deque()
    begun, pool = 0, None
    workers = min(cores(), PROCESSES)
    set_vocabulary(vocabulary)
    try:
        for group in groups:
            begun += sum(map(len, group))
            if begun < ALONE or workers == 1:
                yield function(group)
                continue
            if pool is None:
                context = multiprocessing.get_context("spawn")  # fork is unsafe beside threads
                pool = ProcessPoolExecutor(workers, context, set_vocabulary, (vocabulary,))
            waiting.append(pool.submit(function, group))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def count(split: Split, *, spaces: bool = False) -> Counter[str]:
    """How often each word stands in a split; with ``spaces``, "▁word" is told from "word"."""
    from gateloop.data.tokenizers.base import grouped

    total: Counter[str] = Counter()
    with Progress(f"collecting the words of the {split.name} split", split.bytes) as progress:

        def texts() -> Iterator[str]:
            for text, _ in pieces(split, headings=False, whole_lines=False):
                progress.advance(len(text.encode()))
                yield text

        for counted in over_cores(_count_spaced if spaces else _count, grouped(texts(), AT_ONCE)):
            total.update(counted)
    return total


def _count(texts: list[str]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for text in texts:
        counted.update(text.split())
    return counted


def _count_spaced(texts: list[str]) -> Counter[str]:
    return _count([text.replace(" ", f" {SPACE}") for text in texts])


def set_vocabulary(vocabulary: dict[str, int] | None) -> None:
    """What this process looks words up in."""
    global _vocabulary
    _vocabulary = vocabulary or {}


_vocabulary: dict[str, int] = {}


def look_up(texts: list[str]) -> list[np.ndarray]:
    """Ids of the words and line ends of each text, int32; 0 for a word that is not known."""
    ids = []
    for text in texts:
        # the line's end is the word tokeniser's end-of-text already
        text = text.replace(END_OF_TEXT, "").replace("\n", f" {LINE_END} ")
        found = text.split()
        looked_up = map(_vocabulary.get, found, repeat(0))
        ids.append(np.fromiter(looked_up, dtype=np.int32, count=len(found)))
    return ids
