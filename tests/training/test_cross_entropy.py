"""The chunked loss against PyTorch's own of whole logits: values, gradients, memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.data import IGNORE, open_source
from gateloop.training import cross_entropy
from gateloop.training.cross_entropy import linear_cross_entropy, losses_and_hits, token_losses
from tests.recurrence.test_memory import Shapes
from tests.training.small import config, gradients, model_of, train

__all__ = ["gradients"]
N, D, V = 23, 3, 11


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = F.linear(x, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def problem(
    dtype: torch.dtype = torch.float64, *, bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    noise = torch.Generator().manual_seed(0)
    sizes = ((N, D), (V, D), (V,))
    x, weight, offset = (
        torch.randn(*size, generator=noise, dtype=dtype, requires_grad=True) for size in sizes
    )
    targets = torch.randint(V, (N,), generator=noise)
    targets[torch.tensor([0, 7, 8, N - 1])] = IGNORE
    return x, weight, offset if bias else None, targets


@pytest.fixture(params=[1, 4, 7, 22, 23, 24])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Positions at once: from one to more than there are."""
    monkeypatch.setattr(cross_entropy, "chunk", lambda _: request.param)
    return int(request.param)


FACTORS = {
    "sum": lambda losses: losses.sum(),
    "mean": lambda losses: losses.mean() / 3,
    "each": lambda losses: (losses * torch.linspace(-1, 2, len(losses)).to(losses)).sum(),
    "square": lambda losses: losses.square().sum(),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("factor", FACTORS)
def test_values_and_gradients(factor: str, bias: bool, size: int) -> None:
    x, weight, offset, targets = problem(bias=bias)
    inputs = [x, weight, *([offset] if offset is not None else [])]
    expected, found = (f(x, weight, offset, targets) for f in (plain, linear_cross_entropy))
    assert found.dtype == torch.float64 and found.shape == (N,)
    assert (found[targets == IGNORE] == 0).all()
    assert (found - expected).abs().max() < 1e-10
    both = [torch.autograd.grad(FACTORS[factor](losses), inputs) for losses in (expected, found)]
    for theirs, ours in zip(*both, strict=True):
        assert (theirs - ours).abs().max() < 1e-10


def test_by_hand() -> None:
    x, weight = torch.eye(3)[:1], torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0.5, 0, 0]])
    expected = math.log(math.e + math.e**2 + math.e**0.5) - 2
    assert linear_cross_entropy(x, weight, None, torch.tensor([1])).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_what_needs_no_gradient_gets_none(size: int) -> None:
    x, weight, offset, targets = problem()
    frozen = weight.detach()
    linear_cross_entropy(x, frozen, offset, targets).sum().backward()
    assert x.grad is not None and frozen.grad is None
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, offset, targets).requires_grad


@pytest.mark.parametrize(("factor", "passes"), [("sum", 1), ("mean", 1), ("each", 2)])
def test_a_mean_takes_one_pass(factor: str, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "chunk", lambda _: 5)
    made, calls = cross_entropy.losses_and_gradients, []
    monkeypatch.setattr(
        cross_entropy,
        "losses_and_gradients",
        lambda *given: (calls.append(1), made(*given))[1],
    )
    FACTORS[factor](linear_cross_entropy(*problem())).backward()
    assert len(calls) == passes


def test_backward_twice(size: int) -> None:
    x, weight, offset, targets = problem()
    loss = linear_cross_entropy(x, weight, offset, targets).sum()
    first, again = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)


def test_hits(size: int) -> None:
    x, weight, offset, targets = problem()
    losses, hits = losses_and_hits(x, weight, offset, targets)
    assert (losses - plain(x, weight, offset, targets)).abs().max() < 1e-10
    assert torch.equal(hits, F.linear(x, weight, offset).argmax(-1) == targets)
    assert hits.any() and not losses.requires_grad


def test_nothing_to_score(size: int) -> None:
    x, weight, offset, targets = problem()
    assert losses_and_hits(x[:0], weight, offset, targets[:0])[0].shape == (0,)
    assert linear_cross_entropy(x[:0], weight, offset, targets[:0]).shape == (0,)
    nothing = torch.full_like(targets, IGNORE)
    linear_cross_entropy(x, weight, offset, nothing).sum().backward()
    assert x.grad is not None and (x.grad == 0).all()


def test_a_tied_head_adds_to_the_embedding(size: int) -> None:
    """The weight is read twice, and its gradient is the sum of both."""
    torch.manual_seed(0)
    ends = []
    for losses in (
        lambda head, x, targets: plain(x.flatten(0, 1), head.weight, None, targets.flatten()),
        token_losses,
    ):
        torch.manual_seed(0)
        embedding, head = nn.Embedding(V, D).double(), nn.Linear(D, V, bias=False)
        head.weight = embedding.weight
        tokens = torch.randint(V, (2, 12))
        losses(head, embedding(tokens), tokens.roll(1)).mean().backward()
        ends.append(embedding.weight.grad)
    assert (ends[0] - ends[1]).abs().max() < 1e-10


def test_bfloat16_autocast(size: int) -> None:
    """The product in bfloat16, losses and gradients float32: as from whole logits."""
    x, weight, offset, targets = problem(torch.float32)
    ends = []
    for losses in (plain, linear_cross_entropy):
        with torch.autocast("cpu", torch.bfloat16):
            loss = losses(x, weight, offset, targets)
        assert loss.dtype == torch.float32
        ends.append((loss.detach(), *torch.autograd.grad(loss.mean(), [x, weight])))
    assert torch.allclose(ends[0][0], ends[1][0], rtol=1e-6, atol=1e-6)
    for theirs, ours in zip(ends[0], ends[1], strict=True):
        assert ours.dtype == torch.float32
        assert (theirs - ours).abs().max() <= 2**-7 * theirs.abs().max()


def test_logits_are_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "BUDGET", 2000)
    positions, width, classes = 400, 8, 100
    x = torch.randn(positions, width, requires_grad=True)
    weight = torch.randn(classes, width, requires_grad=True)
    targets = torch.randint(classes, (positions,))
    with Shapes() as shapes:
        losses = linear_cross_entropy(x, weight, None, targets)
        losses.sum().backward()
        losses_and_hits(x, weight, None, targets)
        losses = linear_cross_entropy(x, weight, None, targets)
        losses.square().sum().backward()
    assert max(shape.numel() for shape in shapes.seen) == positions * width


def test_training_is_as_from_whole_logits(
    tmp_path: Path, gradients: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, with dropout and micro-batches: the gradients of three steps, and the weights."""
    options = (
        "trainer.precision=float64",
        "trainer.max_steps=3",
        "data.micro_batch_size=4",
        "model.dropout=0.2",
    )
    whole = train(config(*options), tmp_path / "whole")
    monkeypatch.setattr(cross_entropy, "chunk", lambda _: 5)
    chunked = train(config(*options), tmp_path / "chunked")
    for theirs, ours in zip(gradients[:3], gradients[3:], strict=True):
        for name, expected in theirs.items():
            assert (ours[name] - expected).abs().max() <= 1e-10 * expected.abs().max(), name
    for theirs, ours in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert torch.allclose(theirs, ours, rtol=1e-7, atol=1e-9)


def test_the_whole_model() -> None:
    """features and head are what forward is made of."""
    settings = config()
    model = model_of(settings).double()
    batch = open_source(settings.data).samples(0, 0, 4)
    tokens, targets = torch.from_numpy(batch.inputs_BL), torch.from_numpy(batch.targets_BL)
    logits = model(tokens)[0].flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), reduction="none")
    found = token_losses(model.head, model.features(tokens)[0], targets)
    assert found.shape == targets.shape
    assert (found.flatten() - expected).abs().max() < 1e-10


def test_a_second_derivative_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "chunk", lambda _: 5)
    x, *others = problem()
    loss = linear_cross_entropy(x, *others).sum()
    with pytest.raises(RuntimeError, match="first derivative only here, and create_graph=True"):
        torch.autograd.grad(loss, x, create_graph=True)
