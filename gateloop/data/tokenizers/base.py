"""What every tokeniser does; the rest of the project knows no more of one."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gateloop.data.corpus import END_OF_TEXT
from gateloop.errors import InputError

AT_ONCE = 1 << 21  # characters encoded side by side


class Tokenizer(ABC):
    """Text to token ids and back.

    size: how many ids. end_of_text: the id of the mark after a line, or None. fingerprint: equal
    for tokenisers that give the same tokens.
    """

    name: str
    size: int
    end_of_text: int | None
    fingerprint: str

    @property
    def dtype(self) -> np.dtype:
        """uint16 where the ids fit, else int32."""
        return np.dtype("<u2" if self.size <= 1 << 16 else "<i4")

    @abstractmethod
    def encode_plain(self, texts: list[str]) -> list[list[int]]:
        """Ids of several texts without marks, on all cores."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """What a token stands for, in UTF-8; a token may end within a character."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the tokeniser as plain files, for load_tokenizer."""

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, (tokens,) uint16 or int32."""
        return next(self.encode_many([text]))

    def encode_many(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Ids of each text in turn; the texts are read a few ahead."""
        for group in grouped(texts):
            segments = [text.split(END_OF_TEXT) for text in group]
            ids = iter(self.encode_plain([part for parts in segments for part in parts]))
            for parts in segments:
                tokens = list(next(ids))
                for _ in parts[1:]:
                    assert self.end_of_text is not None
                    tokens.append(self.end_of_text)
                    tokens.extend(next(ids))
                yield np.array(tokens, dtype=self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; bytes that are no UTF-8 become the replacement character."""
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids as they come, held back until a character is complete."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in ids:
            text = decoder.decode(self.token_bytes(int(token)))
            if text:
                yield text
        text = decoder.decode(b"", final=True)
        if text:
            yield text

    def out_of_range(self, token: int) -> InputError:
        return InputError(
            f"token {token} is not one of the {self.name} tokeniser's 0 to {self.size - 1}"
        )


def grouped(texts: Iterable[str], characters: int = AT_ONCE) -> Iterator[list[str]]:
    """The texts in lists of about so many characters."""
    group: list[str] = []
    total = 0
    for text in texts:
        group.append(text)
        total += len(text)
        if total >= characters:
            yield group
            group, total = [], 0
    if group:
        yield group
