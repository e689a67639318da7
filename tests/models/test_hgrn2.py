"""HGRN2 against its equations, and the lower bounds that its layers share."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import gateloop.models.hgrn2 as module
from gateloop.baseline_config import HGRN2Config
from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.models import build
from gateloop.models.hgrn2 import HGRN2
from gateloop.models.language_model import LanguageModel
from gateloop.names import ChannelMixingName, NormName
from gateloop.recurrence import gated_linear_recurrence
from tests.models.options import WIDTH, far, inputs

Array = NDArray[np.float64]
HEADS, D_KEY, D_VALUE, LENGTH, LAYERS = 3, 6, 5, 17, 4
SPREAD = (0.0, -20.0, 15.0, 3.0)


def model(layers: int = LAYERS, moved: bool = True) -> LanguageModel:
    """A stack whose rows of Γ are, if ``moved``, far from their zeros."""
    torch.manual_seed(0)
    sizes = {"heads": HEADS, "d_key": D_KEY, "d_value": D_VALUE}
    whole = build(HGRN2Config(name="hgrn2", d_model=WIDTH, layers=layers, **sizes), 7, 5)
    with torch.no_grad():
        for mixer in hgrn2s(whole):
            for parameter in mixer.parameters():
                if moved:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
            if moved and mixer.lower_bound is not None:
                mixer.lower_bound.mul_(30)
    return whole


def hgrn2s(whole: LanguageModel) -> list[HGRN2]:
    return [mixer for mixer in whole.mixers if isinstance(mixer, HGRN2)]


def lower_bounds(whole: LanguageModel) -> Array:
    """cumsum(softmax Γ) less its first row, (layers, heads, d_key)."""
    rows = [mixer.lower_bound for mixer in hgrn2s(whole)]
    gamma = np.stack([row.detach().double().numpy() for row in rows if row is not None])
    share = np.exp(gamma) / np.exp(gamma).sum(0)
    return share.cumsum(0) - share[0]


def spread(whole: LanguageModel, values: tuple[float, ...] = SPREAD) -> None:
    """Rows of Γ that make bounds of every size."""
    for mixer, value in zip(hgrn2s(whole), values, strict=True):
        assert mixer.lower_bound is not None
        torch.nn.init.constant_(mixer.lower_bound, value)


def by_steps(mixer: HGRN2, least: Array, x_LD: Array) -> Array:
    w = {name: p.detach().double().numpy() for name, p in mixer.named_parameters()}
    state, outputs = np.zeros((HEADS, D_KEY, D_VALUE)), []
    for x in x_LD:
        f = 1 / (1 + np.exp(-(w["forget.weight"] @ x).reshape(HEADS, D_KEY)))
        f = least + (1 - least) * f
        q = (w["query.weight"] @ x).reshape(HEADS, D_KEY)
        q = q / (1 + np.exp(-q)) / math.sqrt(D_KEY)
        v = (w["value.weight"] @ x).reshape(HEADS, D_VALUE)
        state = f[..., None] * state + (1 - f)[..., None] * v[:, None]
        y = np.einsum("hk,hkv->hv", q, state).reshape(-1)
        y = y / np.sqrt((y**2).mean() + 1e-5) * w["norm.weight"]
        outputs.append(w["output.weight"] @ y)
    return np.stack(outputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_recurrence_step_by_step(layer: int, dtype: torch.dtype, tolerance: float) -> None:
    whole, x_BLD = model().to(dtype), inputs(LENGTH, dtype=torch.float32).to(dtype)
    mixer, least = hgrn2s(whole)[layer], lower_bounds(whole)[layer]
    with torch.no_grad():
        y_BLD = mixer(x_BLD)[0].double()
    expected = np.stack([by_steps(mixer, least, x_LD.double().numpy()) for x_LD in x_BLD])
    assert far(y_BLD, torch.from_numpy(expected)) <= tolerance


def test_lower_bounds_start_evenly_and_rise_with_depth() -> None:
    for layer, mixer in enumerate(hgrn2s(model(moved=False))):
        least, rest = mixer.bounds()
        assert torch.allclose(least, torch.full((HEADS, D_KEY), layer / LAYERS))
        assert torch.allclose(rest, 1 - least)
    bounds = [mixer.bounds()[0] for mixer in hgrn2s(model())]
    assert not bounds[0].any()
    assert all((below < above).all() for below, above in pairwise(bounds))
    assert (bounds[-1] < 1).all()


@pytest.mark.parametrize("layer", range(LAYERS))
def test_gates_are_exact_at_both_ends(layer: int) -> None:
    """In float32, with log f → 0 and f → its bound: 0, 6e-16 or nearly one."""
    whole = model()
    spread(whole)
    mixer = hgrn2s(whole)[layer]
    logits = torch.linspace(-60, 60, 121)
    with torch.no_grad():
        mixer.forget.weight.zero_()
        mixer.forget.weight[:, 0] = 1.0
        x_BLD = torch.zeros(1, len(logits), WIDTH)
        x_BLD[0, :, 0] = logits
        log_f, k = (gate[0, :, 0, 0].double().numpy() for gate in mixer.gates(x_BLD))
    gamma = np.array(SPREAD, dtype=np.longdouble)
    share = np.exp(gamma) / np.exp(gamma).sum()
    z = logits.numpy().astype(np.longdouble)
    least, rest = share[1 : layer + 1].sum(), share[0] + share[layer + 1 :].sum()
    right_k = rest / (1 + np.exp(z))
    right_f = least + rest / (1 + np.exp(-z))
    right = np.where(right_k < 0.5, np.log1p(-np.minimum(right_k, 0.5)), np.log(right_f))
    assert np.abs(log_f / right - 1).max() <= 2e-6
    assert np.abs(k / right_k - 1).max() <= 2e-6


@pytest.mark.parametrize("values", [SPREAD, (40.0, 0.0, -20.0, -20.0)], ids=["spread", "tiny"])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_gates_have_a_gradient_at_both_ends(layer: int, values: tuple[float, ...]) -> None:
    """d log f / d logit = (1 − lb) σ (1 − σ) / f, also where 1 − f rounds to one."""
    whole = model()
    spread(whole, values)
    mixer, share = hgrn2s(whole)[layer], np.exp(values) / np.exp(values).sum()
    least, kept = share[1 : layer + 1].sum(), share[0] + share[layer + 1 :].sum()
    z = torch.linspace(-40, 40, 81)
    with torch.no_grad():
        mixer.forget.weight.zero_()
        mixer.forget.weight[0, 0] = 1.0
    x_BLD = torch.zeros(1, len(z), WIDTH)
    x_BLD[0, :, 0] = z
    x_BLD.requires_grad_()
    (gradient,) = torch.autograd.grad(mixer.gates(x_BLD)[0][0, :, 0, 0].sum(), x_BLD)
    sigma, rest = 1 / (1 + np.exp(-z.double().numpy())), 1 / (1 + np.exp(z.double().numpy()))
    right = kept * sigma * rest / (least + kept * sigma)
    assert np.abs(gradient[0, :, 0].double().numpy() - right).max() <= 1e-6 * right.max()


def test_every_row_of_the_bounds_is_trained() -> None:
    whole = model()
    logits, _ = whole(torch.arange(7)[None])
    logits.square().sum().backward()
    for mixer in hgrn2s(whole):
        assert mixer.lower_bound is not None and mixer.lower_bound.shape == (HEADS, D_KEY)
        assert mixer.lower_bound.grad is not None and mixer.lower_bound.grad.abs().min() > 0


def test_a_layer_alone_has_no_lower_bound() -> None:
    torch.manual_seed(0)
    alone = HGRN2(WIDTH, heads=HEADS, d_key=D_KEY, d_value=D_VALUE)
    single = hgrn2s(model(layers=1, moved=False))[0]
    for mixer in (alone, single):
        assert "lower_bound" not in dict(mixer.named_parameters())
        x_BLD = inputs(LENGTH, dtype=torch.float32)
        with torch.no_grad():
            y_BLD = mixer(x_BLD)[0].double()
        expected = [by_steps(mixer, np.zeros((HEADS, D_KEY)), x.double().numpy()) for x in x_BLD]
        assert far(y_BLD, torch.from_numpy(np.stack(expected))) <= 1e-5


def test_a_copy_and_a_loaded_model_have_their_own_bounds() -> None:
    whole, tokens = model().eval(), torch.arange(7)[None]
    with torch.no_grad():
        before = whole(tokens)[0]
        copied = copy.deepcopy(whole)
        loaded = model(moved=False).eval()
        loaded.load_state_dict(whole.state_dict())
        for other in (copied, loaded):
            assert torch.equal(other(tokens)[0], before)
            row = hgrn2s(other)[1].lower_bound
            assert row is not None
            row.add_(5)
            assert not torch.equal(other(tokens)[0], before)
            assert torch.equal(whole(tokens)[0], before)


def test_gates_are_not_rounded_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, ...]] = []

    def watched(*arguments: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        seen.append(arguments)
        return gated_linear_recurrence(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "gated_linear_recurrence", watched)
    mixer, x_BLD = hgrn2s(model())[2], inputs(4, dtype=torch.float32)
    with torch.no_grad():
        mixer(x_BLD)
        with torch.autocast("cpu", torch.bfloat16):
            mixer(x_BLD)
    exact, rounded = seen
    assert rounded[0].dtype == rounded[2].dtype == torch.bfloat16
    for at in (1, 3):  # the key is one minus the gate
        assert rounded[at].dtype == torch.float32 and torch.equal(rounded[at], exact[at])


def test_initial_weights() -> None:
    torch.manual_seed(0)
    for name, parameter in HGRN2(256).named_parameters():
        if parameter.ndim == 2:
            bound = 2**-2.5 * math.sqrt(6 / sum(parameter.shape))
            assert 0.99 * bound < float(parameter.detach().abs().max()) <= bound * (1 + 1e-6), name
        else:
            assert (parameter == 1).all()


def test_nothing_has_a_rate_of_its_own() -> None:
    assert hgrn2s(model())[1].parameter_groups() == {}


def test_sizes_and_block_of_the_config() -> None:
    config = compose(["model=hgrn2", "size=125m"]).model
    mixer = HGRN2.from_config(config)
    assert isinstance(mixer, HGRN2)
    assert (mixer.heads, mixer.d_key, mixer.d_value) == (4, 156, 156)
    assert config.channel_mixing is ChannelMixingName.swiglu and config.norm is NormName.rms


def test_keys_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"model.heads=3 does not divide the 64 .*nearest: [24]"):
        compose(["model=hgrn2", "model.heads=3"])
