"""Scores against the same sums taken one token at a time in Python."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gateloop.config import MemoryHorizonConfig, ModeName, Protocol, Task, TextConfig, TokenizerName
from gateloop.data import IGNORE, Batch, Evaluation, open_source
from gateloop.errors import Interrupted
from gateloop.model_config import GateLoopConfig
from gateloop.models import build
from gateloop.training.evaluation import Scores, Tally, evaluate, exponential, summarise

LENGTH, STRIDE = 10, 4
TEST = "ein Wort für sich\n\nund noch eines mit ß\n" * 3
AUTO = ModeName.auto


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("train", TEST * 2), ("valid", "kurz, aber da\n"), ("test", TEST)):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def text_evaluation(folder: Path, protocol: Protocol) -> Evaluation:
    config = TextConfig(
        name="text",
        path=str(folder),
        tokenizer=TokenizerName.byte,
        length=LENGTH,
        protocol=protocol,
        stride=STRIDE if protocol is Protocol.sliding else None,
        cache_dir=str(folder / "cache"),
    )
    (evaluation,) = open_source(config).evaluations("test")
    return evaluation


def make_model(inputs: int = 256, classes: int = 256) -> nn.Module:
    torch.manual_seed(0)
    return build(GateLoopConfig(d_model=8, layers=1), inputs, classes).double()


def score(model: nn.Module, context: list[int], target: int) -> tuple[float, bool]:
    """(loss, right) of the prediction of ``target`` from ``context`` alone."""
    with torch.no_grad():
        logits = model(torch.tensor([context]))[0][0, -1].tolist()
    top = max(logits)
    loss = top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[target]
    return loss, logits.index(top) == target


def by_hand(model: nn.Module, protocol: Protocol) -> list[tuple[int, float, bool]]:
    """(position in the window, loss, right) of every byte but the first."""
    tokens = list(TEST.encode())
    found = []
    for n in range(1, len(tokens)):
        if protocol is Protocol.carry:
            start, position = 0, (n - 1) % LENGTH
        elif protocol is Protocol.independent:
            start = (n - 1) // LENGTH * LENGTH
            position = n - 1 - start
        else:  # the first window that reaches the target scores it
            start = max(0, math.ceil((n - LENGTH) / STRIDE)) * STRIDE
            position = n - 1 - start
        found.append((position, *score(model, tokens[start:n], tokens[n])))
    return found


@pytest.mark.parametrize("protocol", Protocol)
def test_text_by_hand(protocol: Protocol, folder: Path) -> None:
    model = make_model()
    scores = evaluate(model, text_evaluation(folder, protocol), mode=AUTO, sequences=3)
    expected = by_hand(model, protocol)
    number, total = len(expected), math.fsum(loss for _, loss, _ in expected)
    size, words = len(TEST.encode()), len(TEST.split()) + TEST.count("\n")
    assert number == size - 1 and words == 9 * 3 + 9
    metrics = scores.metrics
    assert metrics["tokens"] == number
    assert metrics["loss"] == pytest.approx(total / number, rel=1e-12)
    assert metrics["accuracy"] == sum(right for _, _, right in expected) / number
    assert metrics["perplexity"] == pytest.approx(math.exp(total / number), rel=1e-11)
    assert metrics["word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-11)
    assert metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-11)
    assert "horizon" not in metrics
    lists = scores.by_position.as_lists()
    for position in range(LENGTH):
        here = [loss for at, loss, _ in expected if at == position]
        assert lists["count"][position] == len(here)
        if here:
            assert lists["loss"][position] == pytest.approx(math.fsum(here) / len(here), rel=1e-11)
        else:
            assert lists["loss"][position] is None and lists["accuracy"][position] is None
    assert sum(count or 0 for count in lists["count"]) == number


def test_batches_change_nothing(folder: Path) -> None:
    model = make_model()
    for protocol in Protocol:
        evaluation = text_evaluation(folder, protocol)
        one, many = (evaluate(model, evaluation, mode=AUTO, sequences=n).metrics for n in (1, 50))
        assert one == pytest.approx(many, rel=1e-12)


class Oracle(nn.Module):
    """Right at distances below ``reach`` of Memory Horizon's hold task, wrong from there on."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.weight = nn.Parameter(torch.ones(()))

        self.head = nn.Linear(6, 6, bias=False)
        self.head.weight = nn.Parameter(torch.eye(6, dtype=torch.float64))

    def features(self, tokens_BL: Tensor, state: object = None, **_: object) -> tuple[Tensor, None]:
        held_BL = torch.zeros_like(tokens_BL)
        for b, row in enumerate(tokens_BL.tolist()):
            held, distance = None, 0
            for n, token in enumerate(row):
                if token == 5:
                    held, distance = None, 0
                    answer = 5
                else:
                    held = token if held is None else held
                    distance += 1
                    answer = held
                held_BL[b, n] = answer if distance < self.reach else (answer + 1) % 5
        return self.weight * 20 * torch.nn.functional.one_hot(held_BL, 6).double(), None


def test_accuracy_by_distance_and_horizon() -> None:
    config = MemoryHorizonConfig(length=24, resets=2, test_samples=70, task=Task.hold)
    evaluation = open_source(config).evaluations("test")[0]
    scores = evaluate(Oracle(6), evaluation, mode=AUTO, sequences=16)
    lists = scores.by_distance.as_lists()
    right = [n for n, accuracy in enumerate(lists["accuracy"]) if accuracy == 1.0]
    wrong = [n for n, accuracy in enumerate(lists["accuracy"]) if accuracy == 0.0]
    assert right == [0, 1, 2, 3, 4, 5] and wrong == list(range(6, len(lists["count"])))
    assert scores.metrics["horizon"] == 5
    assert sum(count or 0 for count in lists["count"]) == 70 * 24 == scores.metrics["tokens"]
    short = sum(count or 0 for count in lists["count"][:6])
    assert scores.metrics["accuracy"] == short / (70 * 24)


def test_no_horizon_is_nan() -> None:
    count = np.full(3, 100.0)
    tally = Tally(count * 2, count * 0.5, count)
    assert math.isnan(summarise(Evaluation("", lambda n: iter(())), tally, tally)["horizon"])


def test_a_tally_grows_and_sums_in_float64() -> None:
    tally = Tally()
    tally.add(np.array([0, 2]), np.array([1.0, 2.0], np.float32), np.array([True, False]))
    tally.add(np.array([0]), np.array([0.5], np.float32), np.array([False]))
    assert tally.as_lists() == {
        "loss": [0.75, None, 2.0],
        "accuracy": [0.5, None, 0.0],
        "count": [2.0, 0.0, 1.0],
    }
    # far more than float32 can add up: 1 + 2⁻²⁰ a million times
    losses = np.full(1 << 20, 1 + 2.0**-20, np.float32)
    many = Tally()
    for _ in range(4):
        many.add(np.zeros(1 << 20, np.int64), losses, losses > 0)
    assert many.loss[0] == 4 * ((1 << 20) + 1) and many.loss.dtype == np.float64


def batches(number: int) -> Iterator[Batch]:
    noise = np.random.default_rng(0)
    for _ in range(number):
        yield Batch(noise.integers(0, 5, (2, 6)), noise.integers(0, 5, (2, 6)))


@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_stays(training: bool) -> None:
    model = make_model(5, 5).train(training)
    seen = []
    model.norm.register_forward_hook(lambda module, *_: seen.append(module.training))
    evaluate(model, Evaluation("", lambda n: batches(2)), mode=AUTO, sequences=2)
    assert model.training == training and seen == [False, False]
    assert all(module.training == training for module in model.modules())
    with pytest.raises(Interrupted):
        evaluate(
            model, Evaluation("", lambda n: batches(2)), mode=AUTO, sequences=2, stop=lambda: True
        )
    assert model.training == training


def test_stop_between_batches() -> None:
    model, seen = make_model(5, 5), []
    model.norm.register_forward_hook(lambda *_: seen.append(1))
    evaluation = Evaluation("", lambda n: batches(9))
    with pytest.raises(Interrupted):
        evaluate(model, evaluation, mode=AUTO, sequences=2, stop=lambda: len(seen) == 3)
    assert len(seen) == 3


def test_nothing_is_scored_of_what_is_ignored() -> None:
    model = make_model(5, 5)
    (batch,) = batches(1)

    def scores(targets: np.ndarray) -> Scores:
        evaluation = Evaluation("", lambda n: iter([Batch(batch.inputs_BL, targets)]))
        return evaluate(model, evaluation, mode=AUTO, sequences=2)

    half = batch.targets_BL.copy()
    half[:, :4] = IGNORE
    lists = scores(half).by_position.as_lists()
    assert lists["count"] == [0, 0, 0, 0, 2, 2]
    whole = scores(batch.targets_BL).by_position.as_lists()
    assert lists["loss"][4:] == whole["loss"][4:]


def test_exponential_has_no_overflow() -> None:
    assert exponential(1.0) == math.e and exponential(1e6) == math.inf
