"""What a time mixer has without writing it: its construction, its state, its gates' precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gateloop.model_config import ModelConfig
from gateloop.models.gateloop import GateLoop
from gateloop.models.time_mixer import State, TimeMixer, gate_logits
from gateloop.setting import setting


@dataclass
class Config(ModelConfig):
    heads: int = setting(4, "")
    dropout: float = setting(0.5, "")  # a key of every model's, with another default


class Mixer(TimeMixer):
    def __init__(self, d_model: int, *, heads: int) -> None:
        super().__init__()
        self.state_shape = (heads, 3, d_model // heads)
        self.projection = nn.Linear(d_model, d_model)

    def forward(self, x_BLD: Tensor, state: State | None = None, **given: object) -> object:
        raise NotImplementedError


class ComplexMixer(Mixer):
    state_dtype = torch.complex64


def test_it_is_built_from_the_keys_that_its_config_adds() -> None:
    mixer = Mixer.from_config(Config(name="mixer", d_model=8, heads=2))
    assert type(mixer) is Mixer and mixer.state_shape == (2, 3, 4)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [Mixer, ComplexMixer])
def test_its_state_is_zeros_of_its_shape_and_precision(
    kind: type[Mixer], precision: torch.dtype
) -> None:
    (state,) = kind(8, heads=2).to(precision).init_state(5)
    assert state.shape == (5, 2, 3, 4) and not state.any()
    assert state.dtype == (precision.to_complex() if kind is ComplexMixer else precision)


def test_its_state_is_where_its_parameters_are() -> None:
    with torch.device("meta"):
        (state,) = Mixer(8, heads=2).init_state(1)
    assert state.device.type == "meta"


def test_gates_keep_their_precision_under_autocast() -> None:
    projection, x_BLD = nn.Linear(6, 6), torch.randn(2, 3, 6)
    exact = projection(x_BLD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert projection(x_BLD).dtype == torch.bfloat16
        torch.testing.assert_close(gate_logits(projection, x_BLD), exact, rtol=0, atol=0)
        assert gate_logits(projection, x_BLD.bfloat16()).dtype == torch.float32
    assert gate_logits(projection.double(), x_BLD.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_of_16_bits_are_refused(dtype: torch.dtype) -> None:
    x_BLD = torch.randn(2, 3, 6, dtype=dtype)
    for layer in (GateLoop(6), partial(gate_logits, nn.Linear(6, 6).to(dtype))):
        with pytest.raises(TypeError, match=r"gates' weights are .* under torch.autocast"):
            (layer.to(dtype) if isinstance(layer, nn.Module) else layer)(x_BLD)
