"""docs/one-recurrence.md, row by row: a model's parameters put into the recurrence by hand give its
output, and GateLoop with constant transitions is the fixed model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gateloop.model_config import AmplitudeConfig, PhaseConfig, TransitionConfig
from gateloop.models.gateloop import GateLoop
from gateloop.models.linear_attention import LinearAttention
from gateloop.models.retnet import Retention
from gateloop.models.time_mixer import TimeMixer
from gateloop.names import AmplitudeControl, Domain, ModeName, PhaseControl
from gateloop.recurrence import gated_linear_recurrence
from gateloop.registry import MODELS
from tests.models.options import far
from tests.models.test_every_model import BATCH, LENGTH, WIDTH, mixer, noise

PAGE = Path(__file__).resolve().parents[2] / "docs/one-recurrence.md"
OUTSIDE = ("s4", "transformer", "gpt2", "lstm", "gru")

Parameters = dict[str, Tensor]


def heads(x: Tensor, number: int) -> Tensor:
    return x.unflatten(-1, (number, -1))


def ones(number: int) -> Tensor:
    return torch.ones(BATCH, LENGTH, number, 1, dtype=torch.float64)


def rms(x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, *, complex_output: bool = False
) -> Tensor:
    """y of the operator, from the transition itself, of the shape of k or constant."""
    y, _ = gated_linear_recurrence(
        q,
        k,
        v,
        a.abs().log(),
        a.angle() if a.is_complex() else None,
        mode="recurrent",
        complex_output=complex_output,
    )
    return y


# -- the rows ----------------------------------------------------------------------------


def gateloop(p: Parameters, x: Tensor) -> Tensor:
    q, k, v = (x @ p["query_key_value.weight"].mT).unflatten(-1, (3, WIDTH)).unbind(-2)
    alpha = x @ p["transition.amplitude.projection.weight"].mT
    beta = x @ p["transition.phase.projection.weight"].mT
    alpha = alpha + p["transition.amplitude.projection.bias"]
    beta = beta + p["transition.phase.projection.bias"]
    a = torch.polar(alpha.sigmoid(), beta)
    y = recurrence(*(heads(part, WIDTH) for part in (q, k, v, a))).flatten(-2)
    y = F.layer_norm(y, (WIDTH,), p["norm.weight"], p["norm.bias"])
    return (y * F.silu(x @ p["gate.weight"].mT)) @ p["output.weight"].mT


def retnet(p: Parameters, x: Tensor) -> Tensor:
    q, k = (heads(x @ p[f"{name}.weight"].mT, 4) for name in ("query", "key"))
    v = heads(x @ p["value.weight"].mT, 4)
    d_key = k.shape[-1]
    gamma = 1 - 2.0 ** -(5 + torch.arange(4.0, dtype=torch.float64))
    theta = 10000.0 ** -torch.linspace(0, 1, d_key // 2, dtype=torch.float64)
    a = torch.polar(gamma[:, None].expand(-1, d_key // 2), -theta.expand(4, -1))[None, None]
    q = torch.complex(q[..., 0::2], -q[..., 1::2])
    k = torch.complex(k[..., 0::2], k[..., 1::2]) / math.sqrt(d_key)
    y = rms(recurrence(q, k, v, a), 1e-6).flatten(-2)
    return (F.silu(x @ p["gate.weight"].mT) * y) @ p["output.weight"].mT


def linear_attention(p: Parameters, x: Tensor) -> Tensor:
    q, k, v = (
        heads(x @ p[f"{name}.weight"].mT + p[f"{name}.bias"], 4)
        for name in ("query", "key", "value")
    )
    q, k = F.elu(q) + 1, F.elu(k) + 1
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    above = recurrence(q, k, v, one)
    below = recurrence(q, k, torch.ones_like(v[..., :1]), one)
    return (above / (below + 1e-6)).flatten(-2) @ p["output.weight"].mT + p["output.bias"]


def gla(p: Parameters, x: Tensor) -> Tensor:
    q, k, v = (heads(x @ p[f"{name}.weight"].mT, 4) for name in ("query", "key", "value"))
    logit = x @ p["decay.0.weight"].mT @ p["decay.1.weight"].mT + p["decay.1.bias"]
    a = heads(logit.sigmoid() ** (1 / 16), 4)
    y = rms(recurrence(q / math.sqrt(q.shape[-1]), k, v, a), 1e-5) * p["norm.weight"]
    return (y.flatten(-2) * F.silu(x @ p["gate.weight"].mT)) @ p["output.weight"].mT


def hgrn2(p: Parameters, x: Tensor) -> Tensor:
    q, f, v = (heads(x @ p[f"{name}.weight"].mT, 4) for name in ("query", "forget", "value"))
    a = f.sigmoid()
    y = recurrence(F.silu(q) / math.sqrt(q.shape[-1]), 1 - a, v, a).flatten(-2)
    return (rms(y, 1e-5) * p["norm.weight"]) @ p["output.weight"].mT


def rglru(p: Parameters, x: Tensor) -> Tensor:
    inner = x @ p["input.weight"].mT + p["input.bias"]
    padded = F.pad(inner, (0, 0, 3, 0))
    taps = p["convolution.taps_WC"]
    u = sum(taps[back] * padded[:, 3 - back : 3 - back + LENGTH] for back in range(4))
    u = u + p["convolution_bias_C"]

    def gate(name: str) -> Tensor:
        blocks = torch.block_diag(*p[f"{name}.weight_GIO"])
        return (u @ blocks + p[f"{name}.bias_C"]).sigmoid()

    a = torch.exp(-8 * F.softplus(p["lambda_C"]) * gate("recurrence_gate"))
    room = torch.sqrt(1 - a**2)
    room[:, 0] = 1
    v = room * gate("input_gate") * u
    y = recurrence(ones(WIDTH), ones(WIDTH), v[..., None], a[..., None]).squeeze(-1)
    y = y * F.gelu(x @ p["gate.weight"].mT + p["gate.bias"])
    return y @ p["output.weight"].mT + p["output.bias"]


def mingru(p: Parameters, x: Tensor) -> Tensor:
    z = (x @ p["gate.weight"].mT + p["gate.bias"]).sigmoid()
    candidate = x @ p["candidate.weight"].mT + p["candidate.bias"]
    v = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
    y = recurrence(ones(WIDTH), z[..., None], v[..., None], (1 - z)[..., None]).squeeze(-1)
    return y @ p["output.weight"].mT + p["output.bias"]


def lru(p: Parameters, x: Tensor) -> Tensor:
    a = torch.polar(torch.exp(-p["nu_S"].exp()), p["theta_S"].exp())
    b = torch.view_as_complex(p["b_SD2"])
    v = p["log_gamma_S"].exp() * (x.to(b.dtype) @ b.mT)
    states = len(a)
    h = recurrence(
        ones(states), ones(states), v[..., None], a[None, None, :, None], complex_output=True
    ).squeeze(-1)
    y = (h @ torch.view_as_complex(p["c_DS2"]).mT).real + p["d_D"] * x
    left, right = (F.gelu(y) @ p["output.weight"].mT + p["output.bias"]).chunk(2, dim=-1)
    return left * right.sigmoid()


def s5(p: Parameters, x: Tensor) -> Tensor:
    eigenvalue = torch.complex(p["eigenvalue_real_S"], p["eigenvalue_imaginary_S"])
    a = torch.exp(eigenvalue * p["log_step_S"].exp())
    b = ((a - 1) / eigenvalue)[:, None] * torch.view_as_complex(p["b_SD2"])
    v = x.to(b.dtype) @ b.mT
    states = len(a)
    h = recurrence(
        ones(states), ones(states), v[..., None], a[None, None, :, None], complex_output=True
    ).squeeze(-1)
    y = F.gelu(2 * (h @ torch.view_as_complex(p["c_DS2"]).mT).real + p["d_D"] * x)
    return y * (y @ p["gate.weight"].mT + p["gate.bias"]).sigmoid()


def s4d(p: Parameters, x: Tensor) -> Tensor:
    eigenvalue = torch.complex(-p["log_decay_SN"].exp(), p["frequency_SN"])
    a = torch.exp(p["log_step_D"].exp()[:, None] * eigenvalue)
    k = (a - 1) / eigenvalue * torch.view_as_complex(p["b_SNP"])
    q = 2 * torch.view_as_complex(p["c_DNP"])
    q, k = (part.expand(BATCH, LENGTH, -1, -1) for part in (q, k))
    y = recurrence(q, k, x[..., None], a[None, None]).squeeze(-1) + p["skip_D"] * x
    left, right = (F.gelu(y) @ p["output.weight"].mT + p["output.bias"]).chunk(2, dim=-1)
    return left * right.sigmoid()


ROWS: dict[str, Callable[[Parameters, Tensor], Tensor]] = {
    "gateloop": gateloop,
    "retnet": retnet,
    "linear_attention": linear_attention,
    "s4d": s4d,
    "s5": s5,
    "lru": lru,
    "gla": gla,
    "hgrn2": hgrn2,
    "rglru": rglru,
    "mingru": mingru,
}


@pytest.mark.parametrize("name", ROWS)
def test_a_models_parameters_in_the_recurrence_give_its_output(name: str) -> None:
    layer, x_BLD = mixer(name), noise(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        by_hand = ROWS[name](dict(layer.named_parameters()), x_BLD)
        for mode in MODELS[name].modes:
            assert far(layer(x_BLD, mode=mode)[0], by_hand) <= 1e-10


def test_every_model_has_its_row() -> None:
    assert set(ROWS) == set(MODELS) - set(OUTSIDE)
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(MODELS)


# -- the reverse -------------------------------------------------------------------------


def copy(target: TimeMixer, **values: Tensor) -> None:
    with torch.no_grad():
        for name, value in values.items():
            target.get_parameter(name.replace("__", ".")).copy_(value)


def constant(amplitude: Tensor, phase: Tensor | None, d_value: int, **options: str) -> GateLoop:
    """A data-controlled GateLoop of 4 heads whose transitions the input does not reach."""
    domain = Domain.real if phase is None else Domain.complex
    layer = GateLoop(
        WIDTH,
        heads=4,
        d_key=amplitude.shape[-1],
        d_value=d_value,
        transition=TransitionConfig(domain=domain),
        **options,  # type: ignore[arg-type]
    ).double()
    projections = {"amplitude": torch.logit(amplitude)}
    if phase is not None:
        projections["phase"] = phase
    for part, bias in projections.items():
        copy(layer, **{f"transition__{part}__projection__bias": bias.flatten()})
        weight = layer.get_parameter(f"transition.{part}.projection.weight")
        copy(layer, **{f"transition__{part}__projection__weight": torch.zeros_like(weight)})
    return layer


def test_gateloop_with_constant_transitions_is_retention() -> None:
    """GateLoop's q and k are real, so it is the retention whose odd channels are zero."""
    torch.manual_seed(0)
    retention = Retention(WIDTH, heads=4, d_key=4, d_value=4).double()
    pairs = 2
    with torch.no_grad():
        for name in ("query", "key"):
            retention.get_parameter(f"{name}.weight")[1::2] = 0
    gamma = retention.log_decay.exp().expand(1, 1, 4, pairs).squeeze()
    layer = constant(
        gamma, -retention.angle.expand(1, 1, 4, pairs).squeeze(), 4, output_norm="none"
    )
    named = dict(retention.named_parameters())
    scale = retention.d_key**-0.5
    copy(
        layer,
        query_key_value__weight=torch.cat(
            [
                named["query.weight"][0::2],
                named["key.weight"][0::2] * scale,
                named["value.weight"],
            ]
        ),
        gate__weight=named["gate.weight"],
        output__weight=named["output.weight"],
    )
    layer.norm = PerHead(retention.norm)
    x_BLD = noise(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        for mode in MODELS["gateloop"].modes:
            assert far(layer(x_BLD, mode=mode)[0], retention(x_BLD)[0]) <= 1e-10


class PerHead(torch.nn.Module):
    """A norm of one head, on (…, heads · d_value) of four heads."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, y: Tensor) -> Tensor:
        return self.norm(heads(y, 4)).flatten(-2)


def test_gateloop_at_amplitude_one_is_linear_attention() -> None:
    """With positive features for q and k: the numerator by v, the denominator by ones for v."""
    torch.manual_seed(0)
    linear = LinearAttention(WIDTH, heads=4).double()
    one = TransitionConfig(
        domain=Domain.real, amplitude=AmplitudeConfig(control=AmplitudeControl.one)
    )
    options = {"heads": 4, "output_norm": "none", "gate": False, "transition": one}
    above = GateLoop(WIDTH, **options).double()  # type: ignore[arg-type]
    below = GateLoop(WIDTH, **options).double()  # type: ignore[arg-type]
    x_BLD = noise(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        q, k, v = (getattr(linear, name)(x_BLD) for name in ("query", "key", "value"))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        for layer, value in ((above, v), (below, torch.ones_like(v))):
            layer.query_key_value = Given(torch.cat([q, k, value], dim=-1))
            layer.output = torch.nn.Identity()
            # init_state asks for the weights' dtype
            layer.output.register_buffer("weight", torch.zeros(1, dtype=torch.float64))
        for mode in MODELS["gateloop"].modes:
            ratio = above(x_BLD, mode=mode)[0] / (below(x_BLD, mode=mode)[0] + 1e-6)
            assert far(linear.output(ratio), linear(x_BLD)[0]) <= 1e-10


class Given(torch.nn.Module):
    """A projection whose output is given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.given = output

    def forward(self, x: Tensor) -> Tensor:
        return self.given


@pytest.mark.parametrize("mode", [ModeName.scan, ModeName.recurrent])
def test_gateloop_that_ignores_its_input_is_gateloop_with_fixed_transitions(mode: ModeName) -> None:
    torch.manual_seed(0)
    fixed = GateLoop(
        WIDTH,
        heads=4,
        d_key=3,
        d_value=4,
        transition=TransitionConfig(
            amplitude=AmplitudeConfig(control=AmplitudeControl.fixed),
            phase=PhaseConfig(control=PhaseControl.fixed),
        ),
    ).double()
    amplitude = torch.exp(-fixed.get_parameter("transition.amplitude.logit_HK").exp())
    phase = fixed.get_parameter("transition.phase.log_phase_HK").exp()
    layer = constant(amplitude.detach(), phase.detach(), 4)
    shared = {n: p for n, p in fixed.named_parameters() if not n.startswith("transition")}
    copy(layer, **{name.replace(".", "__"): value for name, value in shared.items()})
    x_BLD = noise(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        assert far(layer(x_BLD, mode=mode)[0], fixed(x_BLD, mode=mode)[0]) <= 1e-10
