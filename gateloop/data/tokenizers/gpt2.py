"""The byte-level BPE of GPT-2, from its own two files, computed by the package tokenizers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gateloop.data.cache import writing
from gateloop.data.corpus import missing, readable
from gateloop.data.tokenizers.base import Tokenizer
from gateloop.errors import InputError
from gateloop.files import write_json_atomic, write_text_atomic

FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
END = "<|endoftext|>"
NEEDED = "the folder with GPT-2's encoder.json and vocab.bpe (or vocab.json and merges.txt)"


class GPT2Tokenizer(Tokenizer):
    """50,257 tokens with the official files. End-of-text is never read out of a text.

    encoder, merges: the text of the two files. Raises InputError where they are malformed or the
    package tokenizers is missing.
    """

    name = "gpt2"

    def __init__(self, encoder: str, merges: str, where: str):
        try:
            self.vocabulary: dict[str, int] = json.loads(encoder)
            pairs = [
                tuple(line.split(" "))
                for line in merges.splitlines()  # whichever line ends it was saved with
                if line and not line.startswith("#version")
            ]
            ids = sorted(self.vocabulary.values())
            if ids != list(range(len(ids))) or any(len(pair) != 2 for pair in pairs):
                raise ValueError("ids or merges have gaps")
            for pair in pairs:
                for token in (*pair, "".join(pair)):
                    if token not in self.vocabulary:
                        raise ValueError(f"the merge {' '.join(pair)} needs a token {token}")
            letters = _letters()
            self.bytes = {
                token: text.encode() if text == END else bytes(letters[c] for c in text)
                for text, token in self.vocabulary.items()
            }
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(
                f"{where} does not hold a byte-level BPE ({error}); needed: {NEEDED}"
            ) from error
        self.encoder, self.merges = encoder, merges
        self.size = len(self.vocabulary)
        self.end_of_text = self.vocabulary.get(END)
        canonical = json.dumps([sorted(self.vocabulary.items(), key=lambda item: item[1]), pairs])
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:32]
        self._pairs = pairs
        self._bpe: Any = None  # made when it is needed: decoding does without

    def encode_plain(self, texts: list[str]) -> list[list[int]]:
        if self._bpe is None:
            self._bpe = _byte_level_bpe(self.vocabulary, self._pairs)
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(texts)]

    def token_bytes(self, token: int) -> bytes:
        if token not in self.bytes:
            raise self.out_of_range(token)
        return b"" if token == self.end_of_text else self.bytes[token]

    def save(self, folder: Path) -> None:
        write_text_atomic(folder / "encoder.json", self.encoder)
        write_text_atomic(folder / "vocab.bpe", self.merges)
        write_json_atomic(folder / "tokenizer.json", {"name": self.name})

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> GPT2Tokenizer:
        return from_folder(folder)


def from_folder(folder: Path) -> GPT2Tokenizer:
    """The tokeniser of a folder; InputError where its files are not there."""
    if folder.is_file():
        raise InputError(f"data.tokenizer_path={folder} is a file; needed: {NEEDED}")
    for names in FILES:
        paths = [folder / name for name in names]
        if all(path.exists() for path in paths):
            encoder, merges = (_text(path) for path in paths)
            return GPT2Tokenizer(encoder, merges, str(folder))
    raise missing(f"{folder / FILES[0][0]} or {FILES[0][1]}", folder / FILES[0][0], NEEDED)


def _text(path: Path) -> str:
    with readable(path) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not valid UTF-8 at byte {error.start}") from error


def fetched(cache: Path, *, fetch: bool = True) -> GPT2Tokenizer:
    """GPT-2's files from the cache, else through huggingface_hub; InputError where that fails."""
    folder = cache / "tokenizers" / "gpt2"
    if not all((folder / name).is_file() for name in FILES[0]):
        how = f"set data.tokenizer_path to {NEEDED}, or take data.tokenizer=byte"
        if not fetch:
            raise InputError(
                f"the gpt2 tokeniser is not on this machine yet; run it to fetch it, or {how}"
            )
        from gateloop.data.hub import download

        for ours, theirs in zip(FILES[0], FILES[1], strict=True):
            content = download("gpt2", theirs, f"the gpt2 tokeniser; {how}")
            with writing(folder / ours, "the gpt2 tokeniser") as file:
                file.write(content)
    return from_folder(folder)


def _byte_level_bpe(vocabulary: dict[str, int], merges: list) -> Any:
    try:
        from tokenizers import Tokenizer as Library
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
    except ImportError as error:
        raise InputError(
            "the package tokenizers is not installed: pip install tokenizers, "
            "or take data.tokenizer=byte"
        ) from error
    library = Library(BPE(vocabulary, merges))
    library.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    return library


def _letters() -> dict[str, int]:
    """The printable letter by which the vocabulary spells each byte.

    Latin-1's visible characters stand for themselves, the 68 others for U+0100 onwards.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(0x100 + i): byte for i, byte in enumerate(hidden)
    }
