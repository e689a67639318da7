"""Every byte of the UTF-8 text is a token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gateloop.data.tokenizers.base import Tokenizer
from gateloop.files import write_json_atomic


class ByteTokenizer(Tokenizer):
    """256 bytes; with ``marks``, end-of-text is token 256."""

    name = "byte"

    def __init__(self, marks: bool):
        self.marks = marks
        self.size = 257 if marks else 256
        self.end_of_text = 256 if marks else None
        self.fingerprint = f"byte-{self.size}"

    def encode_plain(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def encode_many(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        if self.marks:
            yield from super().encode_many(texts)
        else:
            for text in texts:
                yield np.frombuffer(text.encode(), dtype=np.uint8).astype(self.dtype)

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            raise self.out_of_range(token)
        return b"" if token == self.end_of_text else bytes([token])

    def save(self, folder: Path) -> None:
        write_json_atomic(folder / "tokenizer.json", {"name": self.name, "marks": self.marks})

    @classmethod
    def load(cls, folder: Path, facts: dict) -> ByteTokenizer:
        return cls(bool(facts["marks"]))
