"""The stack: placement of norms, tied heads, dropout, state handed through, widths that fit."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.model_config import AmplitudeConfig, GateLoopConfig, PhaseConfig, TransitionConfig
from gateloop.models import build, time_mixing
from gateloop.models.gateloop import GateLoop
from gateloop.models.language_model import LanguageModel
from gateloop.models.size import block_parameters, channel_width, count
from gateloop.names import AmplitudeControl, NormPlacement, PhaseControl
from gateloop.registry import MODELS

INPUTS, CLASSES = 7, 11


def make(classes: int = CLASSES, **options: object) -> LanguageModel:
    torch.manual_seed(0)
    return build(GateLoopConfig(d_model=16, layers=3, **options), INPUTS, classes)  # type: ignore[arg-type]


def tokens(length: int = 9) -> torch.Tensor:
    return torch.randint(INPUTS, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("placement", NormPlacement)
@pytest.mark.parametrize("width", [0, 3])
def test_shapes_states_and_splits(placement: NormPlacement, width: int) -> None:
    model = make(norm_placement=placement, short_convolution=width, heads=4).double()
    logits, state = model(tokens())
    assert logits.shape == (2, 9, CLASSES) and torch.isfinite(logits).all()
    start = model.init_state(2)
    assert [part.shape for part in state] == [part.shape for part in start]
    assert len(state) == 3 * (2 if width else 1)
    assert torch.equal(model(tokens(), start)[0], logits)
    first, middle = model(tokens()[:, :4])
    second, last = model(tokens()[:, 4:], middle)
    assert torch.allclose(torch.cat([first, second], 1), logits, rtol=0, atol=1e-10)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(last, state, strict=True))


@pytest.mark.parametrize("placement", NormPlacement)
def test_blocks_are_what_they_say(placement: NormPlacement) -> None:
    """Residual sums and norms of the first layer, written out."""
    model = make(norm_placement=placement).double()
    x = model.embedding(tokens())
    block = model.blocks[0]
    mixing, channel = block.time_mixing, block.channel_mixing
    first, second = block.time_norm, block.channel_norm

    def mlp(z: torch.Tensor) -> torch.Tensor:
        return channel.down(F.gelu(channel.up(z)))

    if placement is NormPlacement.pre:
        z = x + mixing(first(x))[0]
        expected = z + mlp(second(z))
    else:
        z = first(x + mixing(x)[0])
        expected = second(z + mlp(z))
    found, _ = block(x, None, None, None)
    assert torch.allclose(found, expected, atol=1e-12)
    assert isinstance(model.norm, torch.nn.LayerNorm) == (placement is NormPlacement.pre)


def test_every_layer_and_the_head_learn() -> None:
    for tied in (False, True):
        model = make(INPUTS if tied else CLASSES, tied=tied)
        model(tokens())[0].square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name


def test_tied_head() -> None:
    tied, untied = make(INPUTS, tied=True), make(INPUTS)
    assert tied.head.weight is tied.embedding.weight and tied.head.bias is None
    assert count(untied) - count(tied) == INPUTS * 16 + INPUTS
    with torch.no_grad():
        tied.embedding.weight.zero_()
    assert not tied(tokens())[0].any()


def test_logits_start_small() -> None:
    """The first loss is close to that of a uniform guess, whatever ties the head."""
    for tied in (False, True):
        torch.manual_seed(0)
        model = build(GateLoopConfig(d_model=64, layers=2, tied=tied), 500, 500)
        many = torch.randint(500, (4, 50))
        loss = F.cross_entropy(model(many)[0].flatten(0, 1), many.roll(1, 1).flatten())
        assert abs(loss.item() - math.log(500)) < 1.0


def test_dropout_is_random_in_training_only() -> None:
    model = make(dropout=0.5)
    model.eval()
    assert torch.equal(model(tokens())[0], model(tokens())[0])
    model.train()
    torch.manual_seed(1)
    first = model(tokens())[0]
    assert not torch.equal(first, model(tokens())[0])
    torch.manual_seed(1)
    assert torch.equal(first, model(tokens())[0])
    assert torch.equal(make().train()(tokens())[0], make().eval()(tokens())[0])


def test_reset_reaches_every_layer() -> None:
    model = make(short_convolution=3).double()
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[:, 5] = True
    with torch.no_grad():
        together = model(tokens(), reset=reset)[0][:, 5:]
        assert torch.allclose(together, model(tokens()[:, 5:])[0], atol=1e-10)
        assert not torch.allclose(together, model(tokens())[0][:, 5:], atol=1e-3)


# -- widths ------------------------------------------------------------------------------

ARMS = {
    f"{amplitude.value}-{phase.value}": TransitionConfig(
        amplitude=AmplitudeConfig(control=amplitude), phase=PhaseConfig(control=phase)
    )
    for amplitude in AmplitudeControl
    for phase in PhaseControl
}


def size(root: Path, name: str) -> dict[str, int]:
    values: dict[str, int] = yaml.safe_load((root / f"conf/size/{name}.yaml").read_text())["model"]
    return values


@pytest.mark.parametrize("name", ["tiny", "small", "125m"])
def test_every_arm_meets_the_budget_of_a_size(root: Path, name: str) -> None:
    given = size(root, name)
    for transition in ARMS.values():
        for heads in (None, 16):
            config = GateLoopConfig(**given, transition=transition, heads=heads)
            with torch.device("meta"):
                model = build(config, INPUTS, CLASSES)
            assert abs(count(model.blocks) / given["parameters"] - 1) < 0.02


def test_the_default_arm_has_a_channel_mixing_of_three_widths(root: Path) -> None:
    for name in ("tiny", "small", "125m"):
        config = GateLoopConfig(**size(root, name))
        width = channel_width(config, partial(GateLoop.from_config, config))
        assert abs(width - 3 * config.d_model) <= 10


def test_widths_that_are_given() -> None:
    mixing = partial(GateLoop, 16)
    assert channel_width(GateLoopConfig(d_model=16), mixing) == 32
    assert channel_width(GateLoopConfig(d_model=16, d_channel=5), mixing) == 5
    assert channel_width(GateLoopConfig(d_model=16, d_channel=5, parameters=10), mixing) == 5
    config = GateLoopConfig(d_model=16, d_channel=5)
    assert count(make(d_channel=5).blocks[0]) == block_parameters(config, mixing, 5)


@pytest.mark.parametrize("name", ["small", "125m"])
def test_no_model_of_a_larger_size_has_an_odd_width(root: Path, name: str) -> None:
    for model in MODELS:
        config = compose([f"model={model}", f"size={name}"]).model
        width = channel_width(config, time_mixing(config))
        assert width % 8 == 0, f"{model}: {width}"


def test_a_multiple_is_the_nearest_and_at_least_one() -> None:
    mixing = partial(GateLoop, 16)

    def solved(parameters: int, multiple: int) -> int:
        config = GateLoopConfig(d_model=16, parameters=parameters, d_channel_multiple=multiple)
        return channel_width(config, mixing)

    for width, multiples in {1: 8, 3: 8, 11: 8, 13: 16, 101: 104}.items():
        budget = 2 * block_parameters(GateLoopConfig(d_model=16), mixing, width)
        assert (solved(budget, 1), solved(budget, 8)) == (width, multiples)


def test_the_least_budget() -> None:
    mixing = partial(GateLoop, 16)
    least = 2 * block_parameters(GateLoopConfig(d_model=16), mixing, 1)
    assert channel_width(GateLoopConfig(d_model=16, parameters=least), mixing) == 1
    with pytest.raises(InputError, match=f"model.parameters=100 .*{least:,}.*raise it") as caught:
        channel_width(GateLoopConfig(d_model=16, parameters=100), mixing)
    assert "\n" not in str(caught.value)
