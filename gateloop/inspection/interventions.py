"""What each change of the transitions costs in loss and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from gateloop.data import Batch, Evaluation
from gateloop.inspection.changes import AS_TRAINED, changes_of
from gateloop.inspection.transitions import Change, Made, changed
from gateloop.models.language_model import LanguageModel
from gateloop.names import ModeName
from gateloop.training.evaluation import evaluate

AT_ONCE = 32  # sequences; the first batch of them gives the means
LAYERS = 4  # up to so many, each is also intervened in by itself


@dataclass(frozen=True)
class Effect:
    """Loss in nats per scored token and accuracy on ``test``; ``layer`` None: in every layer."""

    intervention: str
    layer: int | None
    test: str
    sequences: int
    tokens: int
    loss: float
    accuracy: float


def effects(
    model: LanguageModel,
    tests: list[Evaluation],
    sequences: int,
    *,
    mode: ModeName,
    reset: int | None = None,
    modulus: int | None = None,
) -> list[Effect]:
    """The model as trained, then under each intervention, on the first ``sequences`` of each test.

    On the first test, the main one, also in one layer at a time. ``reset``: the token at which
    the model should forget; ``modulus``: what it counts by. Where None, what concerns them is
    left out.
    """
    tests = [first_of(test, sequences) for test in tests]
    first = next(iter(tests[0].batches(AT_ONCE))).inputs_BL
    if reset is not None and not (first == reset).any():
        reset = None
    changes = changes_of(model, first, reset, modulus)
    layers = len(model.mixers)
    found = []
    for test in tests:
        for name, change in changes.items():
            found.append(_effect(model, name, change, None, test, mode))
    if 1 < layers <= LAYERS:
        for name, change in changes.items():
            if name != AS_TRAINED:
                for layer in range(layers):
                    found.append(_effect(model, name, change, layer, tests[0], mode))
    return found


def _effect(
    model: LanguageModel,
    name: str,
    change: Change,
    layer: int | None,
    test: Evaluation,
    mode: ModeName,
) -> Effect:
    def here(place: int, tokens_BL: Tensor, log_amplitude: Tensor, phase: Tensor | None) -> Made:
        if layer is not None and layer != place:
            return log_amplitude, phase
        return change(place, tokens_BL, log_amplitude, phase)

    with changed(model, here):
        scores = evaluate(model, test, mode=mode, sequences=AT_ONCE).metrics
    sequences = sum(len(batch.inputs_BL) for batch in test.batches(AT_ONCE))
    tokens = int(scores["tokens"])
    return Effect(name, layer, test.name, sequences, tokens, scores["loss"], scores["accuracy"])


def first_of(test: Evaluation, sequences: int) -> Evaluation:
    """The first ``sequences`` of a test; counts of its text go, as they are the whole text's."""

    def batches(size: int) -> Iterator[Batch]:
        left = sequences
        for batch in test.batches(size):
            if left <= 0:
                return
            yield Batch(
                batch.inputs_BL[:left],
                batch.targets_BL[:left],
                None if batch.reset_BL is None else batch.reset_BL[:left],
                None if batch.distance_BL is None else batch.distance_BL[:left],
            )
            left -= len(batch.inputs_BL)

    return replace(test, batches=batches, words=None, bytes=None)
