"""Bytes and tokens per second of each tokeniser on a text."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateloop.benchmark.cell import Cell
from gateloop.benchmark.clock import Run, on_host
from gateloop.benchmark.entry import Role, absent, entry, part, without_paths
from gateloop.config import TextConfig
from gateloop.data.cache import cache_folder
from gateloop.data.corpus import Corpus, describe
from gateloop.data.text import files
from gateloop.data.tokenizers import Tokenizer, make_tokenizer
from gateloop.errors import InputError
from gateloop.names import TokenizerName

WORDS = 20_000
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


def measure(cell: Cell) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="gateloop-bench-") as folder:
        return _measure(cell, Path(folder))


def _measure(cell: Cell, folder: Path) -> dict[str, Any]:
    path = cell.settings.get("text")
    if path is None:
        path = folder / "generated.txt"
        path.write_text(generated(cell.settings["generated_bytes"]), encoding="utf-8")
    text = Path(path).read_text(encoding="utf-8")
    corpus = Corpus("bench", describe(files(str(path)), folder), headings=False)
    entries: list[dict[str, Any]] = []
    runs: dict[str, Run] = {}
    for name in TokenizerName:
        try:
            tokenizer = _tokenizer(name, cell, corpus, folder)
            tokens = len(tokenizer.encode(text))
        except InputError as error:
            why = str(error)
            if name is TokenizerName.gpt2 and "gpt2" not in cell.settings:
                why = "not available without GPT-2's files (--gpt2)"
            entries.append(absent(name.value, Role.ours, without_paths(why)))
            continue
        runs[name.value] = _encoding(tokenizer, text)
        facts = {"tokens": tokens, "bytes": len(text.encode()), "vocabulary": tokenizer.size}
        entries.append(entry(name.value, Role.ours, **facts))
    done = part("encode", entries, runs, cell.repeats, on_host, reference="byte")
    return {"parts": [done]}


def _tokenizer(name: TokenizerName, cell: Cell, corpus: Corpus, folder: Path) -> Tokenizer:
    """What is trained is trained on the text itself, and kept nowhere; GPT-2's files come from
    ``--gpt2``, else from where runs keep them."""
    given = cell.settings.get("gpt2") if name is TokenizerName.gpt2 else None
    config = TextConfig(
        name="text", path="", tokenizer=name, tokenizer_path=given,
        vocabulary=cell.settings["vocabulary"],
    )  # fmt: skip
    cache = cache_folder(None) if name is TokenizerName.gpt2 else folder
    return make_tokenizer(config, corpus, cache)


def _encoding(tokenizer: Tokenizer, text: str) -> Callable[[], object]:
    lines = text.splitlines(keepends=True)
    return lambda: sum(len(ids) for ids in tokenizer.encode_many(lines))


def generated(size: int) -> str:
    """So many bytes of made-up words in lines, the r-th word about 1/r as frequent as the first.

    Always the same text. No stand-in for a language: what a BPE takes depends on its text.
    """
    noise = random.Random(0)
    words = ["".join(noise.choices(LETTERS, k=noise.randint(1, 9))) for _ in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    lines, length = [], 0
    while length < size:
        line = " ".join(noise.choices(words, weights, k=noise.randint(5, 80))) + ".\n"
        lines.append(line)
        length += len(line)
    return "".join(lines)
