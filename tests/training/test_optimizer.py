"""Optimiser groups by what is in them, and the schedule by numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from gateloop.config import Config
from gateloop.model_config import GateLoopConfig
from gateloop.models import build
from gateloop.models.gateloop import GateLoop
from gateloop.registry import MODELS
from gateloop.training.optimizer import learning_rate_factor, make_optimizer, parameter_groups
from tests.training.small import config, model_of

RATES = ("optimizer.lr=0.01", "optimizer.transition_lr_factor=0.25", "optimizer.weight_decay=0.3")


def by_name(model: nn.Module, settings: Config) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["name"]: {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(model, settings)
    }


def test_every_parameter_once_and_where_it_belongs() -> None:
    settings = config(*RATES, "model.short_convolution=3", "model.output_norm=group")
    model = model_of(settings)
    groups = parameter_groups(model, settings)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in model.parameters()}
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {"transition": (0.0025, 0.0), "undecayed": (0.01, 0.0), "decayed": (0.01, 0.3)}
    found = by_name(model, settings)
    for name in (name for name, _ in model.named_parameters()):
        if ".transition." in name:
            expected = "transition"
        elif "norm" in name or name.endswith("bias") or name.startswith("embedding"):
            expected = "undecayed"
        else:
            expected = "decayed"
        assert name in found[expected], name
    assert "blocks.1.time_mixing.query_key_value.weight" in found["decayed"]
    assert "head.weight" in found["decayed"]


APART = {
    "gateloop": (1.0, None),
    "s4": (1.0, {"log_step_D", "log_decay_SM", "frequency_SM", "p_SM2", "b_SM2"}),
    "s4d": (1.0, {"log_step_D", "log_decay_SN", "frequency_SN", "b_SNP"}),
    "s5": (0.25, {"eigenvalue_real_S", "eigenvalue_imaginary_S", "log_step_S", "b_SD2"}),
    "lru": (0.5, {"nu_S", "theta_S", "log_gamma_S", "b_SD2"}),
    "rglru": (1.0, {"lambda_C"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_a_paper_trains_apart_has_its_factor_and_no_decay(name: str) -> None:
    settings = config(f"model={name}", "optimizer.lr=0.01", "optimizer.weight_decay=0.3")
    model = model_of(settings)
    groups = {group["name"]: group for group in parameter_groups(model, settings)}
    if name not in APART:
        assert "transition" not in groups
        return
    factor, names = APART[name]
    assert groups["transition"]["lr"] == pytest.approx(0.01 * factor)
    assert groups["transition"]["weight_decay"] == 0
    found = {full.rpartition(".")[2] for full in by_name(model, settings)["transition"]}
    if names is not None:
        assert found == names
    given = config(f"model={name}", "optimizer.lr=0.01", "optimizer.transition_lr_factor=0.7")
    rate = next(g["lr"] for g in parameter_groups(model, given) if g["name"] == "transition")
    assert rate == pytest.approx(0.007)


def test_the_read_out_of_state_spaces_decays_as_any_weight() -> None:
    for name, read_out in (("s4", "c_DM2"), ("s4d", "c_DNP"), ("s5", "c_DS2"), ("lru", "c_DS2")):
        settings = config(f"model={name}")
        decayed = by_name(model_of(settings), settings)["decayed"]
        assert f"blocks.0.time_mixing.{read_out}" in decayed


def test_a_tied_head_is_an_embedding() -> None:
    model = build(GateLoopConfig(d_model=8, tied=True), 5, 5)
    found = by_name(model, config())
    assert "embedding.weight" in found["undecayed"]
    assert not any("head" in name for names in found.values() for name in names)
    assert sum(map(len, found.values())) == len(list(model.parameters()))


def test_fixed_transitions_are_transitions_and_none_is_no_group() -> None:
    fixed = "model.transition.amplitude.control=fixed model.transition.phase.control=fixed".split()
    assert by_name(model_of(config(*fixed)), config())["transition"] == {
        f"blocks.{n}.time_mixing.transition.{name}"
        for n in (0, 1)
        for name in ("amplitude.logit_HK", "phase.log_phase_HK")
    }
    nothing = "model.transition.amplitude.control=one model.transition.phase.control=none".split()
    assert set(by_name(model_of(config(*nothing)), config())) == {"undecayed", "decayed"}


def test_a_layer_alone() -> None:
    """The layer in somebody's own module, or as the whole model."""
    layer = GateLoop(8)
    assert by_name(layer, config())["transition"] == {
        name for name, _ in layer.named_parameters() if name.startswith("transition.")
    }


def test_decay_and_rates_reach_the_weights() -> None:
    """One step with zero gradients moves only what decays, by lr · weight_decay."""
    settings = config(*RATES, "optimizer.warmup_steps=0")
    model = model_of(settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, _ = make_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = by_name(model, settings)["decayed"]
    for name, parameter in model.named_parameters():
        factor = 1 - 0.01 * 0.3 if name in decayed else 1.0
        assert torch.allclose(parameter, factor * before[name], rtol=1e-6, atol=0), name


def factors(*overrides: str) -> list[float]:
    settings = config(*overrides)
    return [learning_rate_factor(step, settings) for step in range(settings.trainer.max_steps + 1)]


def test_schedule_by_hand() -> None:
    found = factors(
        "trainer.max_steps=10", "optimizer.warmup_steps=2", "optimizer.final_lr_factor=0.1"
    )
    half = math.sqrt(0.5)
    expected = {
        0: 0.5,
        1: 1.0,
        2: 1.0,
        4: 0.1 + 0.9 * (1 + half) / 2,  # an eighth of a turn of eight steps
        6: 0.55,
        8: 0.1 + 0.9 * (1 - half) / 2,
        10: 0.1,
    }
    for step, value in expected.items():
        assert found[step] == pytest.approx(value, abs=1e-12), step
    assert all(later < earlier for earlier, later in itertools.pairwise(found[2:]))


def test_warmup_defaults_to_a_tenth_and_may_be_nothing_or_all() -> None:
    assert factors("trainer.max_steps=40")[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors("trainer.max_steps=4", "optimizer.warmup_steps=0")[0] == 1.0
    assert factors("trainer.max_steps=4", "optimizer.warmup_steps=4")[:4] == [0.25, 0.5, 0.75, 1.0]
    constant = factors(
        "trainer.max_steps=6", "optimizer.warmup_steps=2", "optimizer.schedule=constant"
    )
    assert constant == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_the_optimiser_follows_the_schedule() -> None:
    settings = config(*RATES, "trainer.max_steps=10", "optimizer.warmup_steps=2")
    optimizer, schedule = make_optimizer(model_of(settings), settings)
    seen = []
    for _ in range(10):
        seen.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        schedule.step()
    for step, rates in enumerate(seen):
        factor = learning_rate_factor(step, settings)
        assert rates["decayed"] == rates["undecayed"] == pytest.approx(0.01 * factor)
        assert rates["transition"] == pytest.approx(0.0025 * factor)
    assert optimizer.defaults["betas"] == (0.9, 0.98)


def test_one_kernel_is_as_one_tensor_at_a_time() -> None:
    settings = config(*RATES, "trainer.max_steps=10", "optimizer.warmup_steps=2")
    ends = []
    for fused in (True, False):
        model = model_of(settings)
        optimizer, schedule = make_optimizer(model, settings)
        assert all(group["fused"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group.update(fused=fused, foreach=False)
        noise = torch.Generator().manual_seed(0)
        for _ in range(10):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=noise)
            optimizer.step()
            schedule.step()
        ends.append(list(model.parameters()))
    for ours, plain in zip(*ends, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-5, atol=1e-7)
