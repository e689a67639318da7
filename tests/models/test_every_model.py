"""What every model owes: modes that agree, causality, a state that goes on where it ended."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from gateloop.models import build, time_mixing
from gateloop.models.time_mixer import TimeMixer
from gateloop.names import ModeName, Position
from gateloop.registry import MODELS
from tests.models.options import far

WIDTH, LENGTH, BATCH = 16, 13, 2
# Models by label: (name, keys that differ from the defaults). Small states, to be quick.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in MODELS},
    "gateloop-heads": ("gateloop", {"heads": 4, "short_convolution": 3}),
    "s4": ("s4", {"d_state": 8}),
    "s4-copies": ("s4", {"d_state": 6, "ssms": 4}),
    "s4d": ("s4d", {"d_state": 8}),
    "s5": ("s5", {"d_state": 12}),
    "transformer-none": ("transformer", {"position": Position.none}),
    "transformer-data": ("transformer", {"position": Position.data_controlled}),
    "transformer-window": ("transformer", {"window": 5}),
    "transformer-data-window": (
        "transformer",
        {"position": Position.data_controlled, "window": 5},
    ),
}
CASES = [
    pytest.param(label, mode, id=f"{label}-{mode.name}")
    for label, (name, _) in VARIANTS.items()
    for mode in MODELS[name].modes
]
ABLE_TO_RESET = [
    pytest.param(label, mode, id=f"{label}-{mode.name}")
    for label, (name, _) in VARIANTS.items()
    for mode in MODELS[name].modes
    if MODELS[name].resets and mode is not ModeName.convolution
]
every_mode = pytest.mark.parametrize(("label", "mode"), CASES)
every_model = pytest.mark.parametrize("label", VARIANTS)


def mixer(label: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> TimeMixer:
    """A seeded time mixer whose every parameter has been moved off its special initial value."""
    torch.manual_seed(seed)
    name, options = VARIANTS[label]
    config = MODELS[name].config(name=name, d_model=WIDTH, layers=2, **options)
    layer = time_mixing(config)()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return layer.to(dtype)


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def weighted(parts: tuple[Tensor, ...]) -> Tensor:
    """A sum in which every number of every tensor counts differently."""
    total = noise(1).new_zeros(())
    for index, part in enumerate(parts):
        flat = torch.view_as_real(part) if part.is_complex() else part
        if flat.is_floating_point():
            total = total + (flat * noise(*flat.shape, seed=10 + index, dtype=flat.dtype)).sum()
    return total


def stepwise(layer: TimeMixer, x_BLD: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The layer one step at a time, as text is generated."""
    steps = []
    for x_B1D in x_BLD.split(1, dim=1):
        y_B1D, state = layer(x_B1D, state)
        steps.append(y_B1D)
    return torch.cat(steps, dim=1), state


@cache
def before(label: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """A state that has seen something."""
    with torch.no_grad():
        return stepwise(mixer(label, dtype), noise(BATCH, 7, WIDTH, seed=2, dtype=dtype), None)[1]


def run(
    label: str, dtype: torch.dtype, mode: ModeName | None
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """((y, *state), gradients of a weighted sum of them) from a state; mode None: step by step."""
    layer = mixer(label, dtype)
    x_BLD = noise(BATCH, LENGTH, WIDTH, dtype=dtype).requires_grad_()
    state = tuple(
        part.clone().requires_grad_(part.is_floating_point() or part.is_complex())
        for part in before(label, dtype)
    )
    y_BLD, after = stepwise(layer, x_BLD, state) if mode is None else layer(x_BLD, state, mode=mode)
    leaves = [x_BLD, *(part for part in state if part.requires_grad), *layer.parameters()]
    gradients = torch.autograd.grad(weighted((y_BLD, *after)), leaves, materialize_grads=True)
    return (y_BLD.detach(), *(part.detach() for part in after)), list(gradients)


@cache
def expected(label: str) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    return run(label, torch.float64, None)


@every_mode
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_modes_agree_with_single_steps(
    label: str, mode: ModeName, dtype: torch.dtype, tolerance: float
) -> None:
    """Outputs, state and every gradient, from a state that is not zero."""
    values, gradients = run(label, dtype, mode)
    right_values, right_gradients = expected(label)
    for found, right in zip(values, right_values, strict=True):
        wide = torch.complex128 if right.is_complex() else right.dtype
        assert far(found.to(wide), right) <= tolerance
    scale = max(float(right.abs().max()) for right in right_gradients)
    for found, right in zip(gradients, right_gradients, strict=True):
        difference = (found.to(right.dtype) - right).abs().max()
        # one that vanishes by cancellation is held to the size of its neighbours
        assert float(difference) <= tolerance * max(float(right.abs().max()), 1e-2 * scale)


@every_mode
def test_handing_the_state_over_changes_nothing(label: str, mode: ModeName) -> None:
    layer, x_BLD = mixer(label), noise(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        whole, last = layer(x_BLD, mode=mode)
        for split in range(1, LENGTH):
            first, state = layer(x_BLD[:, :split], mode=mode)
            second, state = layer(x_BLD[:, split:], state, mode=mode)
            assert far(torch.cat([first, second], dim=1), whole) <= 1e-10
            for found, right in zip(state, last, strict=True):
                assert far(found, right) <= 1e-10


@every_mode
def test_an_empty_batch(label: str, mode: ModeName) -> None:
    """An empty result with the state of none, and gradients that are zero."""
    layer = mixer(label)
    x_BLD = noise(0, LENGTH, WIDTH).requires_grad_()
    y_BLD, state = layer(x_BLD, mode=mode)
    more_BLD, state = layer(x_BLD, state, mode=mode)
    assert y_BLD.shape == more_BLD.shape == x_BLD.shape
    expected = layer(noise(1, LENGTH, WIDTH), mode=mode)[1]
    assert [part.shape[1:] for part in layer(x_BLD, mode=mode)[1]] == [
        part.shape[1:] for part in expected
    ]
    assert [len(part) for part in state] == [0] * len(state)
    weighted((y_BLD, more_BLD, *state)).backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or not parameter.grad.any()


@every_model
def test_float64_as_the_default(label: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        name, options = VARIANTS[label]
        layer = time_mixing(MODELS[name].config(name=name, d_model=WIDTH, layers=2, **options))()
        y_BLD, _ = layer(noise(BATCH, LENGTH, WIDTH))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float64}
    assert y_BLD.dtype == torch.float64


@pytest.mark.parametrize(("label", "mode"), ABLE_TO_RESET)
def test_packed_sequences_are_as_if_apart(label: str, mode: ModeName) -> None:
    layer, x_BLD = mixer(label), noise(BATCH, LENGTH, WIDTH)
    reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    places = [[4, 5], [0, 9]]
    for row, found in enumerate(places):
        reset[row, found] = True
    with torch.no_grad():
        state = before(label, torch.float64)
        y_BLD, after = layer(x_BLD, state, reset=reset, mode=mode)
        more, last = layer(x_BLD, after, mode=mode)
        for row, found in enumerate(places):
            one = slice(row, row + 1)
            ends = [0, *(place for place in found if place), LENGTH]
            going_on = None if 0 in found else tuple(part[one] for part in state)
            for start, end in pairwise(ends):
                alone, going_on = layer(x_BLD[one, start:end], going_on, mode=mode)
                assert far(y_BLD[one, start:end], alone) <= 1e-10, (row, start)
                if end < LENGTH:
                    going_on = None
            # the state after it, by what it gives: a cache may hold what is never looked at
            assert far(more[one], layer(x_BLD[one], going_on, mode=mode)[0]) <= 1e-10
        assert all(part.shape[0] == BATCH for part in last)


@every_mode
def test_no_mode_looks_ahead(label: str, mode: ModeName) -> None:
    """By the values before a change: an FFT's rounding would show in gradients."""
    layer, x_BLD = mixer(label), noise(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        before_it, _ = layer(x_BLD, mode=mode)
        for step in (1, 6, LENGTH - 1):
            changed = x_BLD.clone()
            changed[:, step:] += noise(BATCH, LENGTH - step, WIDTH, seed=5)
            after_it, _ = layer(changed, mode=mode)
            scale = float(before_it.abs().max())
            assert float((after_it - before_it)[:, :step].abs().max()) <= 1e-13 * scale
            assert float((after_it - before_it)[:, step].abs().min()) > 0


@every_model
def test_shapes_dtypes_and_gradients(label: str) -> None:
    layer = mixer(label, torch.float32)
    x_BLD = noise(BATCH, LENGTH, WIDTH, dtype=torch.float32).requires_grad_()
    y_BLD, state = layer(x_BLD)
    assert y_BLD.shape == x_BLD.shape and y_BLD.dtype == torch.float32
    for part, first in zip(state, layer.init_state(BATCH), strict=True):
        assert part.dtype == first.dtype and part.shape[0] == first.shape[0] == BATCH
    weighted((y_BLD,)).backward()
    for name, leaf in {"x": x_BLD, **dict(layer.named_parameters())}.items():
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all(), name
        assert leaf.grad.any(), name


@every_model
def test_under_bfloat16_the_state_stays_wide(label: str) -> None:
    layer = mixer(label, torch.float32)
    x_BLD = noise(BATCH, LENGTH, WIDTH, dtype=torch.float32)
    with torch.no_grad():
        right, _ = layer(x_BLD)
        with torch.autocast("cpu", torch.bfloat16):
            y_BLD, state = layer(x_BLD)
    # a cache of keys and values may be as narrow as they are
    if VARIANTS[label][0] not in ("transformer", "gpt2"):
        for part in state:
            assert part.dtype in (torch.float32, torch.complex64)
    assert far(y_BLD.float(), right) <= 0.05


@every_model
def test_the_same_seed_gives_the_same_layer(label: str) -> None:
    first, second, other = mixer(label), mixer(label), mixer(label, seed=1)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    different = zip(first.parameters(), other.parameters(), strict=True)
    assert all(not torch.equal(one, two) for one, two in different)


@every_model
def test_groups_name_parameters_that_exist(label: str) -> None:
    layer = mixer(label)
    names = {name for name, _ in layer.named_parameters()}
    for group, found in layer.parameter_groups().items():
        assert group == "transition" and set(found) <= names and len(found) == len(set(found))


@every_model
def test_the_whole_model_steps_as_it_reads(label: str) -> None:
    name, options = VARIANTS[label]
    config = MODELS[name].config(name=name, d_model=WIDTH, layers=2, **options)
    torch.manual_seed(0)
    model = build(config, 7, 5).double().eval()
    tokens_BL = torch.randint(0, 7, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, _ = model(tokens_BL)
        steps, state = [], None
        for token_B1 in tokens_BL.split(1, dim=1):
            logits, state = model(token_B1, state)
            steps.append(logits)
        first, state = model(tokens_BL[:, :4])
        second, _ = model(tokens_BL[:, 4:], state)
    assert far(torch.cat(steps, dim=1), whole) <= 1e-10
    assert far(torch.cat([first, second], dim=1), whole) <= 1e-10


@pytest.mark.cuda
@every_mode
def test_a_gpu_gives_what_the_cpu_gives(label: str, mode: ModeName) -> None:
    layer, x_BLD = mixer(label), noise(BATCH, LENGTH, WIDTH)
    state = before(label, torch.float64)
    with torch.no_grad():
        right, right_state = layer(x_BLD, state, mode=mode)
        found, found_state = layer.cuda()(
            x_BLD.cuda(), tuple(part.cuda() for part in state), mode=mode
        )
    assert far(found.cpu(), right) <= 1e-10
    for one, two in zip(found_state, right_state, strict=True):
        assert far(one.cpu(), two) <= 1e-10


CONSTANT = [label for label, (name, _) in VARIANTS.items() if name not in ("transformer", "gpt2")]


@pytest.mark.parametrize("label", CONSTANT)
def test_the_state_does_not_grow(label: str) -> None:
    layer = mixer(label)
    with torch.no_grad():
        sizes = [
            [part.shape for part in layer(noise(1, length, WIDTH))[1]] for length in (1, 3, 30)
        ]
    assert sizes[0] == sizes[1] == sizes[2] == [part.shape for part in layer.init_state(1)]


# -- sizes -------------------------------------------------------------------------------

SIZES = {"tiny": (128, 2, 425_984), "small": (256, 6, 5_111_808), "125m": (624, 12, 60_742_656)}


def layers_parameters(config: Any) -> int:
    with torch.device("meta"):
        model = build(config, 10, 10)
    embedding = 10 * config.d_model
    head = 10 * config.d_model + 10
    return sum(parameter.numel() for parameter in model.parameters()) - embedding - head


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("label", MODELS)
def test_every_model_has_the_same_number_of_parameters(label: str, size: str) -> None:
    width, layers, budget = SIZES[size]
    config = partial(MODELS[label].config, name=label)(
        d_model=width, layers=layers, parameters=budget
    )
    assert abs(layers_parameters(config) / budget - 1) <= 0.02
