"""Tokens of a split, made once and then mapped into memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gateloop.data.cache import keep, recall, warn, writing

SLICE = 1 << 24  # bytes checked at once
Pieces = Callable[[], Iterator[tuple[np.ndarray, bool]]]


def cached_tokens(
    folder: Path, key: str, dtype: np.dtype, build: Pieces
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and the positions where documents start, both (n,): ``dtype`` mapped, and int64.

    ``build`` gives arrays of tokens, each with whether a document starts there; it is called
    where nothing intact is kept under ``key``. Both files are whole or absent, and two processes
    that build at once write the same bytes. InputError where the disk is full or forbidden.
    """
    path, about = folder / f"{key}.bin", folder / f"{key}.json"
    facts = recall(about, "what is known of a token cache")
    if facts is not None:
        tokens = _mapped(path, dtype, facts)
        if tokens is not None:
            return tokens, np.array(facts["documents"], dtype=np.int64)
        warn(f"the token cache {path} is damaged (size or checksum); building it again")
    facts = _build(path, dtype, build)
    keep(about, facts, "the token cache")
    tokens = _mapped(path, dtype, facts)
    if tokens is None:
        raise OSError(f"{path} does not read back as it was written")
    return tokens, np.array(facts["documents"], dtype=np.int64)


def _build(path: Path, dtype: np.dtype, build: Pieces) -> dict:
    documents: list[int] = []
    count = crc = 0
    with writing(path, "the token cache") as file:
        for tokens, starts in build():
            if starts:
                documents.append(count)
            content = np.ascontiguousarray(tokens, dtype=dtype).tobytes()
            crc = zlib.crc32(content, crc)
            count += len(tokens)
            file.write(content)
    return {"dtype": dtype.str, "count": count, "crc32": crc, "documents": documents}


def _mapped(path: Path, dtype: np.dtype, facts: dict) -> np.ndarray | None:
    size = facts["count"] * dtype.itemsize
    if facts["dtype"] != dtype.str or not path.is_file() or path.stat().st_size != size:
        return None
    if not size:
        return np.empty(0, dtype=dtype)
    crc = 0
    with open(path, "rb") as file:
        while content := file.read(SLICE):
            crc = zlib.crc32(content, crc)
    if crc != facts["crc32"]:
        return None
    return np.memmap(path, dtype=dtype, mode="r")
