"""What is looked at: a text, or a Memory Horizon test sample among others."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from gateloop.data import Evaluation, Tokenizer, encode_prompt
from gateloop.data.memory_horizon import MODULUS, RESET, VALUES
from gateloop.errors import InputError
from gateloop.names import LineEnd

POPULATION = 64  # test samples of Memory Horizon from which a channel's numbers are taken
MOST_TOKENS = 8192  # of a text: everything is kept for every channel


@dataclass(frozen=True)
class Subject:
    """Tokens (sequences, length), the one shown in full first, and a label for each of its steps.

    reset: the token that should make a model forget. values: the tokens 0 … values − 1 are added
    up. modulus: the unit of phases is 2π/modulus. A text has none of the three.
    """

    tokens_BL: np.ndarray
    labels: list[str]
    reset: int | None = None
    values: int = 0
    modulus: int | None = None

    @property
    def counted_BL(self) -> np.ndarray:
        """The steps that are no reset."""
        return np.ones(self.tokens_BL.shape, dtype=bool) & (self.tokens_BL != self.reset)


def sample(test: Evaluation, index: int) -> Subject:
    """Sample ``index`` of a Memory Horizon test, then the others among its first POPULATION.

    InputError where one of the values is in none of them: each is drawn.
    """
    read = islice(test.batches(1), max(index + 1, POPULATION))
    tokens_BL = np.concatenate([batch.inputs_BL for batch in read])
    shown_L, others_BL = tokens_BL[index], np.delete(tokens_BL, index, axis=0)[: POPULATION - 1]
    kept_BL = np.concatenate([shown_L[None], others_BL])
    absent = [str(value) for value in range(VALUES) if value not in kept_BL]
    if absent:
        raise InputError(
            f"the first {len(kept_BL)} test samples hold no {' and no '.join(absent)}; inspect "
            "needs every value: train with a larger data.test_samples or data.length"
        )
    labels = ["R" if token == RESET else str(token) for token in shown_L]
    return Subject(kept_BL, labels, RESET, VALUES, MODULUS)


def text(tokenizer: Tokenizer, given: str, line_end: LineEnd = LineEnd.newline) -> Subject:
    """A text's tokens, its lines marked as the run's training text was by ``line_end``.

    InputError where the text is no token, or too long to keep everything.
    """
    tokens_L = encode_prompt(tokenizer, given, line_end).astype(np.int64)
    if not len(tokens_L):
        raise InputError(f"--text {given!r}: no {tokenizer.name} token; give more text")
    if len(tokens_L) > MOST_TOKENS:
        raise InputError(f"--text: {len(tokens_L)} tokens; give at most {MOST_TOKENS}")
    labels = [_visible(tokenizer.decode([int(token)])) for token in tokens_L]
    return Subject(tokens_L[None], labels)


def _visible(token: str) -> str:
    """What is shown of a token; the mark after a line, which stands for no text, has a sign."""
    if not token:
        return "¶"
    return "".join("␣" if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in token)
