"""The causality audit: silent on a causal model, exact on a leak of known size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gateloop.training.test as test_module
from gateloop.data import IGNORE, Batch, Evaluation, open_source
from gateloop.errors import Diverged
from gateloop.names import ModeName, OutputNorm
from gateloop.training.audit import Audit, audit, audited_positions
from gateloop.training.interruption import Interruption
from gateloop.training.job import ALONE
from gateloop.training.record import RunFolder
from gateloop.training.test import NOT_CAUSAL
from tests.training.small import config, model_of, train

SIZES = "data.length=40 data.test_samples=64 data.resets=3".split()


class Leak(nn.Module):
    """Two classes, the right one is 0: undecided at the last input it sees, surer before it."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[torch.Size] = []

        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight = nn.Parameter(torch.eye(2, dtype=torch.float64))

    def features(self, tokens_BL: Tensor, state: object = None, **_: object) -> tuple[Tensor, None]:
        self.calls.append(tokens_BL.shape)
        logits_BLV = torch.zeros(*tokens_BL.shape, 2, dtype=torch.float64)
        logits_BLV[:, :-1, 0] = self.logit
        return self.weight * logits_BLV, None


def evaluation(sequences: int, length: int, ignored: int = 0) -> Evaluation:
    def batches(size: int) -> Iterator[Batch]:
        for first in range(0, sequences, size):
            shape = min(size, sequences - first), length
            targets = np.zeros(shape, np.int64)
            targets[:, :ignored] = IGNORE
            yield Batch(np.zeros(shape, np.int64), targets)

    return Evaluation("", batches)


def audited(
    model: torch.nn.Module, given: Evaluation, mode: ModeName = ModeName.auto, positions: int = 512
) -> Audit:
    return audit(model, given, mode=mode, positions=positions)


def test_a_leak_of_known_size() -> None:
    """Every position but a window's last gains log 2 − log(1 + e^{−1}) nats from what follows."""
    found = audited(Leak(1.0), evaluation(16, 32))
    assert found.positions == 512
    expected = (math.log(2) - math.log(1 + math.exp(-1))) * 31 / 32
    assert found.gap == pytest.approx(expected, rel=1e-9)
    assert found.loss_prefix == pytest.approx(math.log(2), rel=1e-9)
    assert found.loss_parallel == pytest.approx(math.log(2) - expected, rel=1e-9)


def test_a_leak_that_only_hurts_counts_as_well() -> None:
    found = audited(Leak(-1.0), evaluation(16, 32))
    assert found.gap == pytest.approx((math.log(1 + math.e) - math.log(2)) * 31 / 32, rel=1e-9)


def test_enough_positions_wherever_there_are_as_many() -> None:
    for sequences, length, ignored in ((1, 600, 0), (1, 2000, 0), (300, 2, 0), (40, 50, 37)):
        leak = Leak(1.0)
        given = evaluation(sequences, length, ignored)
        found = audited(leak, given)
        assert found.positions >= 512, (sequences, length, ignored)
        assert found.gap > 0.15
    # fewer than that are all taken
    assert audited(Leak(1.0), evaluation(3, 7, 2)).positions == 15


def test_as_many_positions_as_asked_for() -> None:
    assert audited(Leak(1.0), evaluation(64, 100), positions=2000).positions >= 2000


def test_positions_are_spread_over_the_window() -> None:
    everything = np.ones((16, 1000), bool)
    found = audited_positions(everything, 512)
    assert len(found) == 32 and found[0] == 0 and found[-1] == 999
    assert max(b - a for a, b in itertools.pairwise(found)) <= 33
    assert audited_positions(everything[:, :5], 512) == [0, 1, 2, 3, 4]
    assert audited_positions(everything[:, :5], 16) == [0]


def test_only_positions_that_are_scored() -> None:
    """Under the sliding protocol a window scores its end only, the first one everything."""
    scored = np.zeros((16, 1000), bool)
    scored[:, 900:] = True
    found = audited_positions(scored, 512)
    assert len(found) == 32 and found[0] == 900 and found[-1] == 999
    scored[0] = True
    found = audited_positions(scored, 512)
    assert scored[:, found].sum() >= 512 and found[0] == 0 and found[-1] == 999
    assert audited_positions(np.zeros((16, 10), bool), 512) == []


@pytest.mark.parametrize("norm", list(OutputNorm))
@pytest.mark.parametrize("mode", [ModeName.auto, ModeName.attention])
def test_real_models(norm: OutputNorm, mode: ModeName) -> None:
    settings = config(*SIZES, f"model.output_norm={norm.value}")
    model = model_of(settings)
    with torch.no_grad():  # an untrained head says too little to be caught
        model.head.weight.mul_(5)
    test = open_source(settings.data).evaluations("test")[0]
    found = audited(model, test, mode)
    assert found.positions >= 512
    if norm is OutputNorm.group_over_time:
        assert found.gap > 10 * NOT_CAUSAL
    else:
        assert found.gap < 1e-5


def test_resets_are_given_with_the_prefix() -> None:
    """A model that is told of resets late would look as if it leaked."""
    model = model_of(config(*SIZES))
    noise = np.random.default_rng(0)

    def batches(size: int) -> Iterator[Batch]:
        tokens = noise.integers(0, 6, (16, 40))
        yield Batch(tokens, tokens, noise.random((16, 40)) < 0.1)

    found = audited(model, Evaluation("", batches))
    assert found.positions == 512 and found.gap < 1e-5


@pytest.mark.parametrize("gap", [math.nan, math.inf])
def test_a_gap_that_is_no_number_is_a_divergence(
    gap: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config()
    train(settings, tmp_path)
    monkeypatch.setattr(test_module, "audit", lambda *_, **__: Audit(gap, gap, 1.0, 8))
    folder, source = RunFolder(tmp_path, "run"), open_source(settings.data)
    given = (settings, model_of(settings), source, torch.device("cpu"), folder, Interruption())
    with pytest.raises(Diverged, match=r"best-00000002-\w+\.ckpt .* not finite"):
        test_module.test(*given, ALONE)
    assert not (folder.path / "test.json").exists()
