"""The corpus's own whitespace words, as word-level WikiText means them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gateloop.data.corpus import readable
from gateloop.data.tokenizers.base import Tokenizer, grouped
from gateloop.data.words import AT_ONCE, LINE_END, look_up, over_cores
from gateloop.errors import InputError
from gateloop.files import write_json_atomic, write_text_atomic

UNKNOWN = "<unk>"


class WordTokenizer(Tokenizer):
    """Token 0 is <unk>, 1 the line's end (which is the end-of-text mark too), then the words.

    Not lossless: words come back with one space before each, as WikiText writes them.
    """

    name = "word"

    def __init__(self, words: list[str], fingerprint: str):
        self.words = words
        self.size = len(words) + 2
        self.end_of_text = 1
        self.fingerprint = fingerprint
        self._vocabulary = {UNKNOWN: 0, LINE_END: 1}
        self._vocabulary.update(zip(words, range(2, self.size), strict=True))

    def encode_many(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        for ids in over_cores(look_up, grouped(texts, AT_ONCE), self._vocabulary):
            for tokens in ids:
                yield tokens.astype(self.dtype)

    def encode_plain(self, texts: list[str]) -> list[list[int]]:
        return [ids.tolist() for ids in self.encode_many(texts)]

    def unknown(self, texts: Iterable[str]) -> int:
        """How many words are not in the vocabulary; a written <unk> is in it."""
        return sum(word not in self._vocabulary for text in texts for word in text.split())

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            raise self.out_of_range(token)
        if token == self.end_of_text:
            return b" \n"
        return b" " + (self.words[token - 2] if token else UNKNOWN).encode()

    def save(self, folder: Path) -> None:
        words = json.dumps(self.words, ensure_ascii=False, indent=0)
        write_text_atomic(folder / "vocabulary.json", words + "\n")
        facts = {"name": self.name, "fingerprint": self.fingerprint}
        write_json_atomic(folder / "tokenizer.json", facts)

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> WordTokenizer:
        with readable(folder / "vocabulary.json") as file:
            words = json.loads(file.read())
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError(f"{folder / 'vocabulary.json'} is not a list of words")
        return cls(words, str(facts["fingerprint"]))


def vocabulary(counts: Counter[str]) -> list[str]:
    """All words but <unk>, the frequent first, equal ones in the order of their letters."""
    counts.pop(UNKNOWN, None)
    return sorted(counts, key=lambda word: (-counts[word], word))
