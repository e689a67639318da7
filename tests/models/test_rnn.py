"""LSTM and GRU against their gates written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gateloop.baseline_config import GRUConfig, LSTMConfig
from gateloop.models.rnn import GRU, LSTM, TorchRNN
from tests.models.options import WIDTH, far, inputs

LENGTH = 7
networks = pytest.mark.parametrize("network", [LSTM, GRU])
hidden = pytest.mark.parametrize("d_hidden", [None, 5])


def layer(
    network: type[TorchRNN], d_hidden: int | None = None, dtype: torch.dtype = torch.float64
) -> TorchRNN:
    torch.manual_seed(0)
    return network(WIDTH, d_hidden=d_hidden).to(dtype)


def gates(mixer: TorchRNN, x_BD: Tensor, h_BH: Tensor, number: int) -> list[tuple[Tensor, Tensor]]:
    """(W x + b, U h + b) of each gate."""
    weights = {name: p.chunk(number) for name, p in mixer.recurrent.named_parameters()}
    return [
        (
            x_BD @ weights["weight_ih_l0"][gate].mT + weights["bias_ih_l0"][gate],
            h_BH @ weights["weight_hh_l0"][gate].mT + weights["bias_hh_l0"][gate],
        )
        for gate in range(number)
    ]


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def tanh(x: Tensor) -> Tensor:
    return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))


def literal(mixer: TorchRNN, x_BLD: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(y, *state) by the equations, step after step."""
    h, c, steps = state[0], state[-1], []
    for x_BD in x_BLD.unbind(1):
        if isinstance(mixer, LSTM):
            i, f, g, o = (a + b for a, b in gates(mixer, x_BD, h, 4))
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            h = sigmoid(o) * tanh(c)
        else:
            (r, r_h), (z, z_h), (n, n_h) = gates(mixer, x_BD, h, 3)
            z = sigmoid(z + z_h)
            h = (1 - z) * tanh(n + sigmoid(r + r_h) * n_h) + z * h
        steps.append(h)
    y = torch.stack(steps, 1)
    if isinstance(mixer.output, torch.nn.Linear):
        y = y @ mixer.output.weight.mT + mixer.output.bias
    return (y, h, c) if isinstance(mixer, LSTM) else (y, h)


@networks
@hidden
def test_the_equations(network: type[TorchRNN], d_hidden: int | None) -> None:
    mixer, x = layer(network, d_hidden), inputs(LENGTH)
    noise = torch.Generator().manual_seed(2)
    start = tuple(
        torch.randn(part.shape, generator=noise, dtype=part.dtype) for part in mixer.init_state(2)
    )
    narrow = layer(network, d_hidden, torch.float32)
    with torch.no_grad():
        for state in (mixer.init_state(2), start):
            expected = literal(mixer, x, state)
            y, after = mixer(x, state)
            for found, right in zip((y, *after), expected, strict=True):
                assert far(found, right) <= 1e-10
            y, after = narrow(x.float(), tuple(part.float() for part in state))
            for found, right in zip((y, *after), expected, strict=True):
                assert far(found.double(), right) <= 1e-5
        assert torch.equal(mixer(x)[0], mixer(x, mixer.init_state(2))[0])


@networks
@hidden
def test_the_state_is_handed_over(network: type[TorchRNN], d_hidden: int | None) -> None:
    mixer, x = layer(network, d_hidden), inputs(LENGTH)
    sizes = [(2, d_hidden or WIDTH)] * (2 if network is LSTM else 1)
    with torch.no_grad():
        whole, last = mixer(x)
        first, state = mixer(x[:, :3])
        second, state = mixer(x[:, 3:], state)
    assert [part.shape for part in mixer.init_state(2)] == sizes
    assert [part.shape for part in last] == sizes
    assert far(torch.cat([first, second], 1), whole) <= 1e-12
    assert all(far(a, b) <= 1e-12 for a, b in zip(state, last, strict=True))


@networks
def test_a_reset_is_refused(network: type[TorchRNN]) -> None:
    mixer, x = layer(network), inputs(LENGTH)
    reset = torch.zeros(2, LENGTH, dtype=torch.bool)
    assert torch.equal(mixer(x, reset=reset)[0], mixer(x)[0])
    reset[1, 4] = True
    with pytest.raises(ValueError, match=f"{network.__name__} cannot reset"):
        mixer(x, reset=reset)


@networks
def test_modes(network: type[TorchRNN]) -> None:
    mixer, x = layer(network), inputs(LENGTH)
    for mode in (None, "auto", "recurrent"):
        assert torch.equal(mixer(x, mode=mode)[0], mixer(x)[0])
    with pytest.raises(ValueError, match=r"mode scan: .* take auto, recurrent"):
        mixer(x, mode="scan")


@networks
def test_autocast_does_not_reach_inside(network: type[TorchRNN]) -> None:
    mixer, x = layer(network, dtype=torch.float32), inputs(LENGTH, dtype=torch.float32)
    with torch.no_grad():
        right, last = mixer(x)
        with torch.autocast("cpu", torch.bfloat16):
            y, state = mixer(x.bfloat16().float())
            assert all(part.dtype == torch.float32 for part in state)
            assert torch.equal(mixer(x)[0], right)
            narrow, _ = mixer(x.bfloat16())
    assert torch.equal(narrow, y)
    assert all(0 < far(a, b) < 0.02 for a, b in zip(state, last, strict=True))


@networks
def test_from_config(network: type[TorchRNN]) -> None:
    config = LSTMConfig if network is LSTM else GRUConfig
    plain = network.from_config(config(d_model=8))
    assert plain.d_hidden == 8 and not list(plain.output.parameters())
    wide = network.from_config(config(d_model=8, d_hidden=12))
    assert wide(torch.randn(1, 3, 8))[0].shape == (1, 3, 8) and wide.d_hidden == 12
    assert wide.parameter_groups() == {}
