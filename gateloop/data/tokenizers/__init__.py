"""How text becomes tokens: ``make_tokenizer`` for a corpus, ``load_tokenizer`` from a run."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from gateloop.config import TextConfig
from gateloop.data import words
from gateloop.data.cache import digest, keep, recall
from gateloop.data.corpus import Corpus, given_path, last_line, mark_lines, missing, readable
from gateloop.data.tokenizers import gpt2, sentencepiece, word
from gateloop.data.tokenizers.base import Tokenizer
from gateloop.data.tokenizers.byte import ByteTokenizer
from gateloop.errors import InputError
from gateloop.names import LineEnd, TokenizerName

__all__ = [
    "Tokenizer",
    "encode_prompt",
    "load_tokenizer",
    "make_tokenizer",
    "tokenizer_fingerprint",
]

KINDS: dict[str, type[Any]] = {
    "gpt2": gpt2.GPT2Tokenizer,
    "sentencepiece": sentencepiece.SentencePieceTokenizer,
    "word": word.WordTokenizer,
    "byte": ByteTokenizer,
}


def tokenizer_fingerprint(
    config: TextConfig, corpus: Corpus, cache: Path, *, fetch: bool = True
) -> str:
    """Equal for equal tokens; what has to be trained is known by what it is trained on."""
    trained_on = corpus.splits["train"].sha256
    if config.tokenizer is TokenizerName.word:
        return digest("word", trained_on)
    if config.tokenizer is TokenizerName.sentencepiece and config.tokenizer_path is None:
        settings = sentencepiece.SETTINGS
        return digest("sentencepiece", settings, str(config.vocabulary), trained_on)
    return make_tokenizer(config, corpus, cache, fetch=fetch).fingerprint


def make_tokenizer(
    config: TextConfig, corpus: Corpus, cache: Path, *, fetch: bool = True
) -> Tokenizer:
    """The tokeniser of ``config``, trained on the corpus's train split where it has to be.

    InputError: files missing or malformed, a package missing, no network; with ``fetch=False``
    also where files would have to be fetched first.
    """
    path, key = config.tokenizer_path, "data.tokenizer_path"
    if config.tokenizer is TokenizerName.gpt2:
        if path is None:
            return gpt2.fetched(cache, fetch=fetch)
        return gpt2.from_folder(given_path(key, path, gpt2.NEEDED))
    if config.tokenizer is TokenizerName.sentencepiece:
        if path is None:
            return _trained(config, corpus, cache)
        return sentencepiece.from_path(given_path(key, path, sentencepiece.NEEDED))
    if path is not None:
        raise InputError(
            f"data.tokenizer_path={path} has no meaning with data.tokenizer="
            f"{config.tokenizer.value}, which needs no files; leave it out"
        )
    if config.tokenizer is TokenizerName.byte:
        return ByteTokenizer(marks=config.line_end is LineEnd.end_of_text)
    return _words(config, corpus, cache)


def _trained(config: TextConfig, corpus: Corpus, cache: Path) -> Tokenizer:
    fingerprint = tokenizer_fingerprint(config, corpus, cache)
    path = cache / "tokenizers" / f"sentencepiece-{fingerprint}.json"
    what = "a sentencepiece model"
    kept = recall(path, what)
    if kept is None:
        counts = words.count(corpus.splits["train"], spaces=True)
        model = sentencepiece.train(counts, config.vocabulary)
        kept = base64.b64encode(model).decode()
        keep(path, kept, what)
    return sentencepiece.SentencePieceTokenizer(base64.b64decode(kept), str(path), fingerprint)


def _words(config: TextConfig, corpus: Corpus, cache: Path) -> Tokenizer:
    fingerprint = tokenizer_fingerprint(config, corpus, cache)
    path = cache / "tokenizers" / f"word-{fingerprint}.json"
    what = "a vocabulary of words"
    kept = recall(path, what)
    if kept is None:
        kept = word.vocabulary(words.count(corpus.splits["train"]))
        keep(path, kept, what)
    return word.WordTokenizer(kept, fingerprint)


def encode_prompt(tokenizer: Tokenizer, text: str, line_end: LineEnd) -> np.ndarray:
    """Ids of a text to go on from, (tokens,): its complete lines are marked as in training.

    Blank lines alone, which training leaves out, are the end of a line before them.
    """
    if line_end is LineEnd.newline:
        return tokenizer.encode(text)
    begun = last_line(text)
    marked = mark_lines(text[:begun]) + text[begun:]
    return tokenizer.encode(marked) if marked else np.array([tokenizer.end_of_text])


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokeniser that ``save`` wrote; InputError where it is missing or damaged."""
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.exists():
        raise missing(str(path), path, "the folder that a text run saved its tokeniser in")
    with readable(path) as file:
        content = file.read()
    try:
        facts = json.loads(content)
        return KINDS[facts["name"]].load(folder, facts)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the tokeniser in {folder} is damaged ({error}); copy it again from the run"
        ) from error
