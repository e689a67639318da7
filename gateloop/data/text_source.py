"""The sources of text: wt103, wt2 and text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gateloop.config import TextConfig
from gateloop.data import text, wikitext
from gateloop.data.batching import Batch, Evaluation, reused
from gateloop.data.cache import cache_folder, digest
from gateloop.data.corpus import SPLITS, Corpus, Split, describe, mark_lines, pieces
from gateloop.data.progress import Progress
from gateloop.data.token_cache import cached_tokens
from gateloop.data.tokenizers import Tokenizer, make_tokenizer, tokenizer_fingerprint
from gateloop.data.tokenizers.word import WordTokenizer
from gateloop.data.windows import Stream
from gateloop.errors import InputError
from gateloop.names import LineEnd, Protocol

VERSION = "1"  # of what stands in a token cache


def find_corpus(config: TextConfig, *, fetch: bool = True) -> Corpus:
    """The corpus of ``config``, read once to hash and count it; InputError where it is not there.

    A WikiText whose counts are not the official ones is named ``…-partial``.
    """
    cache = cache_folder(config.cache_dir)
    if config.name == "text":
        return Corpus("text", describe(text.files(config.path), cache), headings=False)
    files = wikitext.files(config.name, config.path, cache, fetch=fetch)
    splits = describe(files, cache)
    name = config.name if wikitext.official(config.name, splits) else f"{config.name}-partial"
    return Corpus(name, splits, headings=True)


def text_fingerprint(config: TextConfig, *, fetch: bool = True) -> str:
    """The corpus's content and the tokeniser, without tokenising."""
    found, cache = find_corpus(config, fetch=fetch), cache_folder(config.cache_dir)
    return digest(found.fingerprint, tokenizer_fingerprint(config, found, cache, fetch=fetch))


class TextSource:
    """A tokenised corpus; inputs and classes are its vocabulary.

    InputError: what ``locate`` raises, no tokeniser, a split too short, a stride above the length.
    """

    def __init__(self, config: TextConfig):
        self.config = config
        config.check()
        self.stride = config.stride or max(config.length // 2, 1)
        self.corpus = find_corpus(config)
        self.name = self.corpus.name
        cache = cache_folder(config.cache_dir)
        self.tokenizer = make_tokenizer(config, self.corpus, cache)
        self.inputs = self.classes = self.tokenizer.size
        self.streams = {
            split: self._stream(self.corpus.splits[split], cache / "tokens") for split in SPLITS
        }
        self._check_lengths()
        self.info = self._info()

    def _stream(self, split: Split, folder: Path) -> Stream:
        config, tokenizer = self.config, self.tokenizer
        settings = [VERSION, tokenizer.name, tokenizer.fingerprint, config.line_end.value]
        key = digest(*settings, split.sha256, str(self.corpus.headings))
        build = partial(tokenised, split, tokenizer, config.line_end, self.corpus.headings)
        tokens, documents = cached_tokens(folder, key, tokenizer.dtype, build)
        return Stream(tokens, documents if config.reset_at_documents else None)

    def _check_lengths(self) -> None:
        for name, stream in self.streams.items():
            tokens = len(stream.tokens)
            where = self.corpus.splits[name].where
            if tokens < 2:
                raise InputError(
                    f"the {name} split ({where}) has {tokens} token with data.tokenizer="
                    f"{self.tokenizer.name}; two are the least that can be predicted from"
                )
            if name == "train" and tokens <= self.config.length:
                raise InputError(
                    f"data.length={self.config.length} is too long for the train split ({where}), "
                    f"which has {tokens} tokens; at most {tokens - 1}"
                )

    def _info(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "source": self.name,
            "partial": self.name.endswith("-partial"),
            "variant": "word-level" if self.corpus.splits["train"].unknowns else "raw",
            "corpus_fingerprint": self.corpus.fingerprint,
            "tokenizer": self.tokenizer.name,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "vocabulary": self.tokenizer.size,
            "line_end": self.config.line_end.value,
        }
        if self.name == "text" and self.config.path is not None:
            facts["file"] = Path(self.config.path).name
        for name, split in self.corpus.splits.items():
            facts[name] = {
                "tokens": len(self.streams[name].tokens),
                "words": split.words,
                "bytes": split.bytes,
                "lines": split.lines,
                "sha256": split.sha256,
            }
            if isinstance(self.tokenizer, WordTokenizer):
                facts[name]["out_of_vocabulary"] = self._out_of_vocabulary(split)
        return facts

    def _out_of_vocabulary(self, split: Split) -> float:
        """Fraction of a split's words that the train split does not have."""
        assert isinstance(self.tokenizer, WordTokenizer)
        if split.name == "train":
            return 0.0
        texts = (piece for piece, _ in pieces(split, headings=False, whole_lines=False))
        return self.tokenizer.unknown(texts) / split.words

    def samples(self, seed: int, first: int, count: int) -> Batch:
        """Training windows first..first+count−1 of the seeded order: a pure function.

        Windows lie side by side, one target apart; an epoch takes each once, newly permuted.
        """
        stream, length = self.streams["train"], self.config.length
        chosen_B = reused(seed, first, count, (len(stream.tokens) - 1) // length)
        return stream.batch(chosen_B * length, length)

    def evaluations(self, split: str) -> list[Evaluation]:
        """The one evaluation of a split, by ``data.protocol``."""
        stream, known, config = self.streams[split], self.corpus.splits[split], self.config
        return [
            Evaluation(
                name="",
                batches=partial(stream.evaluation, config.protocol, config.length, self.stride),
                carry=config.protocol is Protocol.carry,
                words=known.words,
                bytes=known.bytes,
                tokens=len(stream.tokens) - 1,
                facts={"protocol": config.protocol.value, "length": config.length},
            )
        ]


def tokenised(
    split: Split, tokenizer: Tokenizer, line_end: LineEnd, headings: bool
) -> Iterator[tuple[np.ndarray, bool]]:
    """A split's tokens piece by piece, each with whether a document starts there."""
    marks = line_end is LineEnd.end_of_text
    if marks and tokenizer.end_of_text is None:
        raise InputError(
            f"data.line_end=end_of_text needs a tokeniser with an end-of-text token; this "
            f"{tokenizer.name} has none"
        )
    begun: deque[tuple[bool, int]] = deque()

    def texts() -> Iterator[str]:
        for piece, starts in pieces(split, headings=headings, whole_lines=marks):
            begun.append((starts, len(piece.encode())))
            yield mark_lines(piece) if marks else piece

    label = f"tokenising the {split.name} split ({tokenizer.name})"
    with Progress(label, split.bytes) as progress:
        for tokens in tokenizer.encode_many(texts()):
            starts, size = begun.popleft()
            progress.advance(size)
            yield tokens, starts
