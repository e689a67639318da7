"""Windows over a stream of tokens: for training, and for the protocols of evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gateloop.data.batching import IGNORE, Batch
from gateloop.names import Protocol


class Stream:
    """Tokens (n,) and, where the state starts from zero at documents, their positions."""

    def __init__(self, tokens: np.ndarray, documents: np.ndarray | None = None):
        self.tokens, self.documents = tokens, documents

    def batch(self, starts_B: np.ndarray, length: int, fresh: int | None = None) -> Batch:
        """Windows of ``length`` inputs from the given positions, each followed by its target.

        fresh: score only the last so many targets of a window that does not start the stream.
        Beyond the stream's end inputs are 0 and targets are not scored.
        """
        positions_BL = starts_B[:, None] + np.arange(length)
        last = len(self.tokens) - 1
        inputs_BL = self.tokens[np.minimum(positions_BL, last)].astype(np.int64)
        targets_BL = self.tokens[np.minimum(positions_BL + 1, last)].astype(np.int64)
        beyond_BL = positions_BL >= last
        inputs_BL[beyond_BL] = 0
        targets_BL[beyond_BL] = IGNORE
        if fresh is not None:
            targets_BL[starts_B > 0, : length - fresh] = IGNORE
        reset_BL = None
        if self.documents is not None:
            reset_BL = np.isin(positions_BL, self.documents) & ~beyond_BL
        return Batch(inputs_BL, targets_BL, reset_BL)

    def evaluation(
        self, protocol: Protocol, length: int, stride: int, sequences: int
    ) -> Iterator[Batch]:
        """Every token but the first scored once, in windows of ``length`` inputs.

        independent: side by side. carry: the same one at a time, for a state that is handed on.
        sliding: each window scores ``stride`` new targets after ``length − stride`` of context.
        """
        targets = len(self.tokens) - 1
        if protocol is Protocol.sliding:
            starts = np.arange(0, max(targets - length, 0) + stride, stride)
        else:
            starts = np.arange(0, targets, length)
        sequences = 1 if protocol is Protocol.carry else sequences
        fresh = stride if protocol is Protocol.sliding else None
        for first in range(0, len(starts), sequences):
            yield self.batch(starts[first : first + sequences], length, fresh)
