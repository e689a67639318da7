"""The layer in all its kinds: what goes in, what comes out, and what it may look at."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import gateloop.models.gateloop as module
from gateloop.errors import InputError
from gateloop.model_config import AmplitudeConfig, PhaseConfig, TransitionConfig
from gateloop.models.gateloop import GateLoop
from gateloop.recurrence import MODES, gated_linear_recurrence
from tests.models.options import HEADS, NORMS, TRANSITIONS, far, inputs, layer

LENGTH = 11
transitions = pytest.mark.parametrize("transition", TRANSITIONS.values(), ids=TRANSITIONS.keys())


def weighted_sum(y: Tensor) -> Tensor:
    noise = torch.Generator().manual_seed(3)
    return (y * torch.randn(y.shape, generator=noise, dtype=y.dtype)).sum()


def check_shapes_and_gradients(mixer: GateLoop) -> None:
    x = inputs(LENGTH, dtype=torch.float32).requires_grad_()
    y, state = mixer(x)
    assert y.shape == x.shape and y.dtype == torch.float32 and torch.isfinite(y).all()
    for part, first in zip(state, mixer.init_state(2), strict=True):
        assert part.shape == first.shape and part.dtype == first.dtype
        assert torch.isfinite(torch.view_as_real(part) if part.is_complex() else part).all()
    weighted_sum(y).backward()
    named = {"x": x, **dict(mixer.named_parameters())}
    for name, leaf in named.items():
        assert leaf.grad is not None, name
        assert torch.isfinite(leaf.grad).all() and leaf.grad.any(), name


@transitions
def test_every_transition(transition: TransitionConfig) -> None:
    for heads, width in product(HEADS, (0, 3)):
        check_shapes_and_gradients(layer(heads, transition=transition, short_convolution=width))


@pytest.mark.parametrize("norm", NORMS)
def test_every_other_option(norm: str) -> None:
    for heads, width, gate in product(HEADS, (0, 2, 4), (True, False)):
        options = {"output_norm": norm, "gate": gate, "short_convolution": width}
        check_shapes_and_gradients(layer(heads, **options))


def gradient_at(mixer: GateLoop, step: int, mode: str) -> Tensor:
    """|∂ y_step / ∂ x_m| summed over channels, by m."""
    x = inputs(LENGTH).requires_grad_()
    (gradient,) = torch.autograd.grad(
        weighted_sum(mixer(x, mode=mode)[0][:, step]), x, materialize_grads=True
    )
    return gradient.abs().sum((0, 2))


@transitions
def test_no_transition_looks_ahead(transition: TransitionConfig) -> None:
    mixer = layer("uneven", torch.float64, transition=transition, short_convolution=3)
    by_step = gradient_at(mixer, 6, "auto")
    assert by_step[:7].all() and not by_step[7:].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "group_over_time"])
def test_no_norm_and_no_mode_looks_ahead(norm: str, mode: str) -> None:
    mixer = layer("sixteen", torch.float64, output_norm=norm, short_convolution=3)
    for step in range(LENGTH):
        by_step = gradient_at(mixer, step, mode)
        assert by_step[: step + 1].all() and not by_step[step + 1 :].any()


def test_group_norm_over_time_does_look_ahead() -> None:
    mixer = layer("max", torch.float64, output_norm="group_over_time")
    assert gradient_at(mixer, 4, "scan")[5:].all()


def results(mixer: GateLoop, mode: str, reset: Tensor) -> dict[str, Tensor]:
    x = inputs(LENGTH).requires_grad_()
    mixer.zero_grad()
    y, state = mixer(x, reset=reset, mode=mode)
    last = torch.cat([torch.view_as_real(p).flatten() if p.is_complex() else p.flatten()
                      for p in state])  # fmt: skip
    (weighted_sum(y) + weighted_sum(last)).backward()
    found = {name: p.grad for name, p in mixer.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"y": y.detach(), "state": last.detach(), "x": x.grad, **found}


@transitions
def test_modes_agree(transition: TransitionConfig) -> None:
    reset = torch.zeros(2, LENGTH, dtype=torch.bool)
    reset[1, 5] = True
    for heads in ("max", "uneven"):
        mixer = layer(heads, torch.float64, transition=transition)
        expected = results(mixer, "recurrent", reset)
        for mode in MODES[1:]:
            found = results(mixer, mode, reset)
            assert found.keys() == expected.keys()
            distances = {name: far(found[name], expected[name]) for name in expected}
            assert max(distances.values()) <= 1e-10, (mode, distances)


@transitions
@pytest.mark.parametrize("resets", [False, True], ids=["whole", "resets"])
def test_split_with_the_state_handed_over(transition: TransitionConfig, resets: bool) -> None:
    reset = torch.zeros(2, LENGTH, dtype=torch.bool)
    reset[0, 2] = reset[0, 8] = reset[1, 0] = reset[1, 9] = resets
    x = inputs(LENGTH)
    with torch.no_grad():
        for heads, width in (("max", 0), ("uneven", 4)):
            mixer = layer(heads, torch.float64, transition=transition, short_convolution=width)
            whole = mixer(x, reset=reset)
            for at in range(1, LENGTH):
                first, state = mixer(x[:, :at], reset=reset[:, :at])
                second, state = mixer(x[:, at:], state, reset=reset[:, at:])
                assert far(torch.cat([first, second], 1), whole[0]) <= 1e-10, (heads, at)
                for part, expected in zip(state, whole[1], strict=True):
                    assert far(part, expected) <= 1e-10, (heads, at)


@transitions
def test_step_by_step(transition: TransitionConfig) -> None:
    x, reset = inputs(LENGTH), torch.zeros(2, LENGTH, dtype=torch.bool)
    reset[0, 4] = True
    mixer = layer("uneven", torch.float64, transition=transition, short_convolution=3)
    with torch.no_grad():
        whole, last = mixer(x, reset=reset, mode="scan")
        state, steps = None, []
        for n in range(LENGTH):
            y, state = mixer(x[:, n : n + 1], state, reset=reset[:, n : n + 1])
            steps.append(y)
    assert state is not None
    assert far(torch.cat(steps, 1), whole) <= 1e-10
    assert all(far(a, b) <= 1e-10 for a, b in zip(state, last, strict=True))


def test_the_state_handed_over_is_differentiable() -> None:
    """The loss behind a split reaches the first half's inputs as if there were no split."""
    mixer = layer("uneven", torch.float64, short_convolution=4)
    gradients = []
    for at in (None, 1, 7):
        x = inputs(LENGTH).requires_grad_()
        y = mixer(x)[0]
        if at is not None:
            first, state = mixer(x[:, :at])
            y = torch.cat([first, mixer(x[:, at:], state)[0]], 1)
        gradients += torch.autograd.grad(weighted_sum(y), x)
    assert all(far(gradient, gradients[0]) <= 1e-10 for gradient in gradients[1:])


@transitions
def test_packed_sequences_equal_separate_ones(transition: TransitionConfig) -> None:
    lengths = [4, 1, 6]
    x, reset = inputs(sum(lengths)), torch.zeros(2, sum(lengths), dtype=torch.bool)
    reset[:, [0, 4, 5]] = True
    with torch.no_grad():
        for heads, width in (("max", 4), ("uneven", 0)):
            mixer = layer(heads, torch.float64, transition=transition, short_convolution=width)
            stale = tuple(torch.ones_like(part) for part in mixer.init_state(2))
            together, last = mixer(x, stale, reset=reset)
            alone = [mixer(part) for part in x.split(lengths, dim=1)]
            assert far(together, torch.cat([y for y, _ in alone], 1)) <= 1e-10
            assert all(far(a, b) <= 1e-10 for a, b in zip(last, alone[-1][1], strict=True))


def test_the_state_does_not_grow() -> None:
    for heads, width in product(HEADS, (0, 3)):
        mixer = layer(heads, short_convolution=width)
        sizes = [part.shape for part in mixer.init_state(2)]
        for length in (1, 2, 40):
            state = mixer(inputs(length, dtype=torch.float32))[1]
            assert [part.shape for part in state] == sizes
        assert all(shape[0] == 2 for shape in sizes)
        assert sizes[0] == (2, mixer.heads, mixer.d_key, mixer.d_value)
        assert sizes[1:] == ([(2, width - 1, sum(mixer.widths))] if width else [])


@transitions
def test_gates_are_not_rounded_by_autocast(
    transition: TransitionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 reaches q, k and v and nothing else that the operator gets."""
    seen: list[tuple[Tensor | None, ...]] = []

    def watched(*arguments: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        seen.append(arguments)
        return gated_linear_recurrence(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "gated_linear_recurrence", watched)
    mixer = layer("sixteen", transition=transition)
    x = inputs(LENGTH, dtype=torch.float32)
    with torch.no_grad():
        full, last = mixer(x)
        with torch.autocast("cpu", torch.bfloat16):
            half, state = mixer(x)
    exact, rounded = seen
    for wide, narrow in zip(exact[:3], rounded[:3], strict=True):
        assert wide is not None and narrow is not None
        assert narrow.dtype == torch.bfloat16
        assert 0 < far(narrow.float(), wide) < 2**-7
    for wide, narrow in zip(exact[3:], rounded[3:], strict=True):
        if wide is None or narrow is None:
            assert wide is narrow
            continue
        assert narrow.dtype == wide.dtype and narrow.dtype in (torch.float32, torch.bool)
        assert torch.equal(narrow, wide)
    assert state[0].dtype == last[0].dtype
    assert 0 < far(half.float(), full) < 0.05


def test_the_operator_of_a_float64_layer_gets_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def watched(*arguments: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        seen.extend(argument.dtype for argument in arguments)
        return gated_linear_recurrence(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "gated_linear_recurrence", watched)
    layer("max", torch.float64)(inputs(3))
    assert set(seen) == {torch.float64}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="quick"):
        layer()(inputs(3, dtype=torch.float32), mode="quick")
    with pytest.raises(ValueError, match="batch"):
        layer(output_norm="batch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 0}, "model.heads=0: must be at least 1"),
        ({"heads": 5}, "model.heads=5 does not divide model.d_model=32; nearest: 4"),
        ({"output_norm": "group", "output_norm_groups": 32}, "one channel a group"),
        (
            {"transition": TransitionConfig(domain="real", phase=PhaseConfig(control="data"))},
            "model.transition.domain=real has no phase",
        ),
        (
            {
                "transition": TransitionConfig(
                    parametrisation="cartesian", amplitude=AmplitudeConfig(control="fixed")
                )
            },
            "parametrisation=cartesian: reads amplitude and phase off one projection",
        ),
    ],
)
def test_contradictions_are_refused_in_python_too(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GateLoop(32, **options)
