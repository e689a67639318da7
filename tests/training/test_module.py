"""Training steps through the real Trainer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gateloop.models.gateloop as gateloop_module
from gateloop.data import open_source
from gateloop.errors import Diverged
from gateloop.recurrence import gated_linear_recurrence
from gateloop.training.module import Training
from tests.training.small import config, model_of, train

Steps = list[dict[str, Tensor]]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: part.detach().clone() for name, part in model.state_dict().items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max()
        assert (found[name] - expected[name]).abs().max() <= tolerance * scale, name


def test_accumulation_gives_the_whole_batch(tmp_path: Path, gradients: Steps) -> None:
    """In float64: the same gradients, norms and weights, however the batch is cut."""
    ends = []
    for micro in ("8", "4", "1"):
        options = (f"data.micro_batch_size={micro}", "trainer.precision=float64")
        ends.append(weights(train(config(*options), tmp_path / micro)))
    assert len(gradients) == 6
    for step in (0, 1):
        for other in (2 + step, 4 + step):
            same(gradients[other], gradients[step], 1e-11)
    same(ends[1], ends[0], 1e-8)
    same(ends[2], ends[0], 1e-8)


def test_the_gradient_is_that_of_the_mean_loss(tmp_path: Path, gradients: Steps) -> None:
    settings = config("trainer.precision=float64", "trainer.max_steps=1")
    model = model_of(settings).double()
    batch = open_source(settings.data).samples(settings.seed, 0, 8)
    logits = model(torch.from_numpy(batch.inputs_BL))[0]
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets_BL).flatten())
    loss.backward()
    train(settings, tmp_path)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    # Lightning turns the float32 initial weights into float64 as .double() does
    same(gradients[0], expected, 1e-10)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if "train/loss" in row]
    assert row["train/loss"] == pytest.approx(loss.item(), rel=1e-6)
    norm = torch.stack([g.norm() for g in expected.values()]).norm().item()
    assert row["train/gradient_norm"] == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float64", "float32"])
def test_precisions(
    precision: str, tmp_path: Path, gradients: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[torch.dtype, ...]] = set()

    def watched(*arguments: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            seen.add(tuple(argument.dtype for argument in arguments))
        return gated_linear_recurrence(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(gateloop_module, "gated_linear_recurrence", watched)
    settings = config(f"trainer.precision={precision}")
    before = weights(model_of(settings))
    model = train(settings, tmp_path)
    wide = torch.float64 if precision == "float64" else torch.float32
    inner = {"bfloat16": torch.bfloat16}.get(precision, wide)
    assert seen == {(inner, inner, inner, wide, wide)}
    assert len(gradients) == 2
    for name, part in model.named_parameters():
        assert part.dtype == wide and torch.isfinite(part).all()
        assert not torch.equal(part.float(), before[name]), name


@pytest.mark.slow
def test_compile(tmp_path: Path, gradients: Steps) -> None:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        pytest.skip("torch.compile needs a C++ compiler, and none is found")
    one = ("trainer.max_steps=1", "model.layers=1")
    plain = weights(train(config(*one), tmp_path / "plain"))
    compiled = train(config(*one, "trainer.compile=true"), tmp_path / "compiled")
    same(gradients[1], gradients[0], 1e-4)
    assert weights(compiled).keys() == plain.keys()


def test_dropout_is_a_function_of_seed_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was drawn before, a validation or an interrupted session."""
    ends = []
    for name, noise in (("a", 1), ("b", 2), ("none", 3)):
        dropout = 0.0 if name == "none" else 0.3
        monkeypatch.setattr(
            Training, "on_train_start", lambda _, noise=noise: torch.manual_seed(noise)
        )
        ends.append(weights(train(config(f"model.dropout={dropout}"), tmp_path / name)))
    same(ends[1], ends[0], 0.0)
    assert not torch.equal(ends[2]["head.weight"], ends[0]["head.weight"])


def test_clipping(tmp_path: Path) -> None:
    model = model_of(config())
    for limit, expected in (("0.5", 0.5), ("0", 13.0)):
        module = Training(config(f"trainer.gradient_clip={limit}"), model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight = model.head.bias
        weight.grad = torch.zeros_like(weight)
        weight.grad[0], weight.grad[1] = 5.0, 12.0
        module.configure_gradient_clipping()
        assert module.gradient_norm == 13.0
        assert weight.grad.norm().item() == pytest.approx(expected, rel=1e-5)


def test_divergence_names_the_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(config())
    module = Training(config(), model)
    module.step_loss = torch.tensor(float("nan"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weight = model.blocks[1].time_mixing.output.weight
    weight.grad[2, 3] = float("inf")
    name = "blocks.1.time_mixing.output.weight"
    with pytest.raises(Diverged, match=f"at step 1: the gradient of {name} is not finite"):
        module.configure_gradient_clipping()
    weight.grad.zero_()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e38)
    with pytest.raises(Diverged, match="at step 1: the gradient's norm overflows"):
        module.configure_gradient_clipping()


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [
        ("0", "lower optimizer.lr or set trainer.gradient_clip"),
        ("2", "lower optimizer.lr or trainer.gradient_clip"),
    ],
)
def test_the_remedy_of_a_divergence(limit: str, remedy: str) -> None:
    model = model_of(config())
    module = Training(config(f"trainer.gradient_clip={limit}"), model)
    model.head.bias.grad = torch.full_like(model.head.bias, float("nan"))
    with pytest.raises(Diverged) as caught:
        module.configure_gradient_clipping()
    assert str(caught.value).endswith(f"; {remedy}")


def test_divergence_in_the_last_update(tmp_path: Path) -> None:
    """Its gradient was finite, and no gradient follows that would tell."""
    with pytest.raises(Diverged, match="at step 1: the loss of its last validation is nan"):
        train(config("trainer.max_steps=1", "optimizer.lr=1e30"), tmp_path)
    assert not list((tmp_path / "run").glob("checkpoints/*")), "there is nothing good to keep"


def test_what_a_checkpoint_holds_is_the_model_once(tmp_path: Path) -> None:
    settings = config()
    model = train(settings, tmp_path)
    (path,) = (tmp_path / "run/checkpoints").glob("step-00000002-*")
    content = torch.load(path, weights_only=True)["state_dict"]
    same(content, {f"model.{name}": part for name, part in weights(model).items()}, 0.0)
