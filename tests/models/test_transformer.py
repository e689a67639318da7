"""Softmax attention against its equations written out; positions that go on where they ended."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gateloop.models.transformer as module
from gateloop.baseline_config import GPT2Config, TransformerConfig
from gateloop.config import Config, MemoryHorizonConfig
from gateloop.errors import InputError
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from gateloop.models.position import DataControlledGates
from gateloop.models.size import count, counted
from gateloop.models.transformer import Attention
from gateloop.names import Position
from gateloop.training.optimizer import parameter_groups
from tests.models.options import WIDTH, far, inputs

LENGTH, HEADS = 11, 4
PAIRS = WIDTH // HEADS // 2
positions = pytest.mark.parametrize("position", [position.value for position in Position])


def layer(position: str = "rope", dtype: torch.dtype = torch.float64, **options: Any) -> Attention:
    """A seeded layer, its every parameter moved off a special initial value."""
    torch.manual_seed(0)
    mixer = Attention(WIDTH, heads=HEADS, position=position, **options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return mixer.to(dtype)


def resets(*places: tuple[int, int], length: int = LENGTH) -> Tensor:
    """(2, length) bool, true at (sequence, step)."""
    reset = torch.zeros(2, length, dtype=torch.bool)
    for row, step in places:
        reset[row, step] = True
    return reset


def gates(mixer: Attention, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
    """(log-amplitude (batch, length, heads), phase (batch, length, heads, pairs)), by hand."""
    batch, length, _ = x_BLD.shape
    if isinstance(mixer.gates, DataControlledGates):
        alpha = x_BLD @ mixer.gates.amplitude.weight.mT + mixer.gates.amplitude.bias
        beta = x_BLD @ mixer.gates.phase.weight.mT + mixer.gates.phase.bias
        return -torch.log1p(torch.exp(-alpha)), beta.view(batch, length, HEADS, PAIRS)
    frequency = [10000 ** (-2 * pair / (2 * PAIRS)) for pair in range(PAIRS)]
    beta = torch.tensor(frequency, dtype=torch.float64).expand(batch, length, HEADS, PAIRS)
    return torch.zeros(batch, length, HEADS, dtype=torch.float64), beta * (mixer.gates is not None)


def literal(mixer: Attention, x_BLD: Tensor, reset: Tensor | None = None) -> Tensor:
    """The equations, one step, head and sequence at a time, with rotations as complex numbers."""
    batch, length, width = x_BLD.shape
    mixed = x_BLD @ mixer.query_key_value.weight.mT
    if mixer.query_key_value.bias is not None:
        mixed = mixed + mixer.query_key_value.bias
    log_amplitude, phase = gates(mixer, x_BLD)
    d_head = width // HEADS
    rows = []
    for b, n in product(range(batch), range(length)):
        first = max((m for m in range(n + 1) if reset is not None and reset[b, m]), default=0)
        if mixer.window is not None:
            first = max(first, n - mixer.window + 1)
        heads = []
        for h in range(HEADS):
            q, k, v = (
                mixed[b, :, part * width + h * d_head : part * width + (h + 1) * d_head]
                for part in range(3)
            )
            logits = []
            for m in range(first, n + 1):
                turn = phase[b, m + 1 : n + 1, h].sum(0)
                left = torch.complex(q[n, :PAIRS], q[n, PAIRS:])
                right = torch.complex(k[m, :PAIRS], k[m, PAIRS:])
                turned = (left * torch.exp(1j * turn) * right.conj()).real.sum()
                fading = log_amplitude[b, m + 1 : n + 1, h].sum()
                logits.append(turned / math.sqrt(d_head) + fading)
            weight = torch.stack(logits).exp()
            heads.append((weight / weight.sum()) @ v[first : n + 1])
        rows.append(torch.cat(heads))
    y = torch.stack(rows).view(batch, length, width) @ mixer.output.weight.mT
    return y if mixer.output.bias is None else y + mixer.output.bias


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four rows, the last one not full."""
    monkeypatch.setattr(module, "BUDGET", 1)
    monkeypatch.setattr(module, "ROWS", 4)


RESET = resets((0, 3), (0, 4), (1, 0), (1, 8))


@positions
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"window": 4}, {"window": 1}], ids=str)
@pytest.mark.parametrize("reset", [None, RESET], ids=["whole", "resets"])
def test_the_equations(
    position: str, options: dict[str, Any], reset: Tensor | None, few_rows: None
) -> None:
    mixer, x = layer(position, **options), inputs(LENGTH).requires_grad_()
    leaves = [x, *mixer.parameters()]
    noise = inputs(LENGTH, seed=9)
    expected = literal(mixer, x, reset)
    found, _ = mixer(x, reset=reset)
    assert far(found, expected) <= 1e-10
    wanted = torch.autograd.grad((expected * noise).sum(), leaves, materialize_grads=True)
    given = torch.autograd.grad((found * noise).sum(), leaves, materialize_grads=True)
    scale = max(float(gradient.abs().max()) for gradient in wanted)
    for one, other in zip(given, wanted, strict=True):
        assert float((one - other).abs().max()) <= 1e-10 * scale
    narrow, _ = layer(position, torch.float32, **options)(x.detach().float(), reset=reset)
    assert far(narrow.double(), expected.detach()) <= 1e-5


@positions
@pytest.mark.parametrize("window", [None, 1, 3, LENGTH])
@pytest.mark.parametrize("reset", [None, RESET], ids=["whole", "resets"])
def test_any_split_continues_the_equations(
    position: str, window: int | None, reset: Tensor | None, few_rows: None
) -> None:
    mixer, x = layer(position, window=window), inputs(LENGTH)
    with torch.no_grad():
        expected = literal(mixer, x, reset)
        pieces = [[at, LENGTH - at] for at in range(1, LENGTH)]
        for lengths in (*pieces, [2, 5, 1, 3], [1] * LENGTH):
            state, found, start = None, [], 0
            for length in lengths:
                some = slice(start, start + length)
                y, state = mixer(x[:, some], state, reset=None if reset is None else reset[:, some])
                found.append(y)
                start += length
                kept = start if window is None else min(start, window - 1)
                assert state[0].shape == state[1].shape == (2, HEADS, kept, WIDTH // HEADS)
                assert len(state) == len(mixer.init_state(2))
            assert far(torch.cat(found, 1), expected) <= 1e-10, lengths


def test_a_reset_known_from_the_cache_alone() -> None:
    """Nothing tells the second call of the reset but the state."""
    for position in ("none", "data_controlled"):
        for window in (None, 4):
            mixer, x = layer(position, window=window), inputs(LENGTH)
            reset = resets((0, 2), (1, 5))
            with torch.no_grad():
                first, state = mixer(x[:, :6], reset=reset[:, :6])
                second, _ = mixer(x[:, 6:], state)
                assert far(torch.cat([first, second], 1), literal(mixer, x, reset)) <= 1e-10
            assert state[2].tolist() == [min(4, 3 if window else 4), 1]


# -- relative positions ------------------------------------------------------------------


def test_positions_are_relative() -> None:
    """Where the turning starts does not matter."""
    for position in ("rope", "data_controlled"):
        mixer, x = layer(position), inputs(LENGTH)
        state = list(mixer.init_state(2))
        state[3] = 6 * torch.rand(state[3].shape, dtype=torch.float64)
        with torch.no_grad():
            assert far(mixer(x, tuple(state))[0], mixer(x)[0]) <= 1e-12


def test_constant_gates_are_rope() -> None:
    """The paper's position with constant phases and no fading is RoPE, its cache included."""
    rope, controlled = layer("rope"), layer("data_controlled")
    x, gate = inputs(LENGTH), controlled.gates
    assert isinstance(gate, DataControlledGates)
    with torch.no_grad():
        gate.amplitude.weight.zero_()
        gate.amplitude.bias.fill_(60.0)
        gate.phase.weight.zero_()
        controlled.query_key_value.load_state_dict(rope.query_key_value.state_dict())
        controlled.output.load_state_dict(rope.output.state_dict())
        gate.phase.bias.copy_(
            10000 ** (-torch.arange(PAIRS, dtype=torch.float64) / PAIRS).repeat(HEADS)
        )
        expected, state = rope(x)
        found, after = controlled(x)
    assert far(found, expected) <= 1e-10
    assert far(after[0], state[0]) <= 1e-10


# -- data-controlled position at length 2048 ---------------------------------------------

LONG = 2048


def dense(mixer: Attention, x_LD: Tensor, log_amplitude: Tensor, phase: Tensor) -> Tensor:
    """The equations as whole matrices in float64, for one sequence."""
    length = len(x_LD)
    q, k, v = (x_LD @ mixer.query_key_value.weight.mT).view(length, 3, HEADS, -1).unbind(1)
    sums, turn = log_amplitude[0].cumsum(0), phase[0].cumsum(0)
    left, right = (
        torch.complex(t[..., :PAIRS], t[..., PAIRS:]) * torch.exp(1j * turn) for t in (q, k)
    )
    logits = torch.einsum("nhp,mhp->hnm", left, right.conj()).real / math.sqrt(2 * PAIRS)
    logits = logits + (sums[:, None] - sums[None]).permute(2, 0, 1)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    weight = logits.masked_fill(later, -math.inf).softmax(-1)
    return torch.einsum("hnm,mhv->nhv", weight, v).flatten(1) @ mixer.output.weight.mT


def extreme(dtype: torch.dtype) -> tuple[Attention, Tensor]:
    """Gate logits read off the first channels of x: for each head −30, 8, and noise, mixed."""
    mixer = layer("data_controlled", torch.float64)
    gate = mixer.gates
    assert isinstance(gate, DataControlledGates)
    x = inputs(LONG, batch=1)
    noise = torch.Generator().manual_seed(4)
    draw = torch.rand(1, LONG, HEADS, generator=noise)
    x[..., :HEADS] = torch.where(draw < 0.9, 8.0, x[..., :HEADS] * 4)
    x[..., :HEADS] = torch.where(draw < 0.02, -30.0, x[..., :HEADS])
    with torch.no_grad():
        mixer.query_key_value.weight[:, :HEADS] = 0
        gate.phase.weight[:, :HEADS] = 0
        gate.phase.weight *= 3
        gate.amplitude.weight.zero_().fill_diagonal_(1.0)
        gate.amplitude.bias.zero_()
        # both precisions have the same numbers
        for parameter in mixer.parameters():
            parameter.copy_(parameter.float())
    return mixer.to(dtype), x.float().to(dtype)


def test_data_controlled_position_at_length_2048(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 to 1e-5 of float64: outputs, gradients of inputs, of gates and of parameters."""
    wide, x_wide = extreme(torch.float64)
    narrow, x_narrow = extreme(torch.float32)
    x_wide.requires_grad_()
    x_narrow.requires_grad_()
    noise = inputs(LONG, batch=1, seed=9)
    given: list[Tensor] = []
    forward = DataControlledGates.forward

    def watched(gate: DataControlledGates, x: Tensor) -> tuple[Tensor, Tensor]:
        given.extend(forward(gate, x))
        return given[0], given[1]

    monkeypatch.setattr(DataControlledGates, "forward", watched)
    literal_gates = gates(wide, x_wide)
    expected = dense(wide, x_wide[0], *literal_gates)[None]
    found, _ = narrow(x_narrow)
    for gate in (*given, *literal_gates):
        gate.retain_grad()
    assert far(found.double(), expected) <= 1e-5
    (expected * noise).sum().backward()
    (found * noise).sum().backward()
    leaves = {"x": (x_narrow, x_wide), "log-amplitude": (given[0], literal_gates[0])}
    leaves["phase"] = (given[1], literal_gates[1])
    others = dict(wide.named_parameters())
    leaves |= {name: (p, others[name]) for name, p in narrow.named_parameters()}
    for name, (one, other) in leaves.items():
        assert one.grad is not None and other.grad is not None
        difference = float((one.grad.double() - other.grad).abs().max())
        scale = float(other.grad.abs().max())
        if name.startswith("gates.phase"):
            # A sum over all steps that cancels: beside the same sum of what has no sign.
            assert literal_gates[1].grad is not None
            steps = literal_gates[1].grad.abs().flatten(2).mT
            read = x_wide.abs() if name.endswith("weight") else torch.ones_like(x_wide[..., :1])
            scale = float((steps @ read).detach().max())
            assert scale < 10 * float(other.grad.abs().max())
        assert difference <= 1e-5 * scale, name
    assert x_narrow.grad is not None and x_wide.grad is not None
    # the gates' logits apart: the other channels' gradients are larger
    logits = slice(0, HEADS)
    assert far(x_narrow.grad[..., logits].double(), x_wide.grad[..., logits]) <= 1e-5


class Largest(TorchDispatchMode):
    """The most elements that any tensor has that an operation gives, by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for part in given if isinstance(given, (tuple, list)) else [given]:
            if isinstance(part, Tensor):
                most = max(self.elements.get(part.dtype, 0), part.numel())
                self.elements[part.dtype] = most
        return given


def test_weights_between_all_steps_are_never_whole() -> None:
    mixer, x = extreme(torch.float32)
    with Largest() as largest:
        mixer(x.requires_grad_())[0].sum().backward()
    assert set(largest.elements) >= {torch.float32, torch.float64}
    assert max(largest.elements.values()) <= module.BUDGET < HEADS * LONG**2 / 8


@pytest.mark.parametrize("position", ["rope", "none", "learned"])
def test_the_plain_case_builds_no_mask(position: str) -> None:
    """Nothing has as many elements as there are pairs of steps."""
    for window in (None, 300):
        mixer = layer(position, torch.float32, window=window)
        x = inputs(300, batch=1, dtype=torch.float32).requires_grad_()
        with Largest() as largest:
            mixer(x)[0].sum().backward()
        assert max(largest.elements.values()) < 300**2
        with Largest() as largest:
            mixer(x, reset=torch.zeros(1, 300, dtype=torch.bool))
        assert max(largest.elements.values()) >= 300**2


# -- initial values, groups, precision, refusals -----------------------------------------


def test_initial_values() -> None:
    torch.manual_seed(0)
    mixer = Attention(64, position="data_controlled", bias=True)
    gate = mixer.gates
    assert isinstance(gate, DataControlledGates)
    assert torch.allclose(gate.amplitude.bias.sigmoid(), torch.tensor(0.999))
    assert not gate.phase.bias.any()
    largest = float(gate.phase.weight.detach().abs().max())
    assert 0.09 / math.sqrt(64) < largest <= 0.1 / math.sqrt(64)
    for linear in (mixer.query_key_value, mixer.output):
        assert not linear.bias.any()
        assert abs(float(linear.weight.detach().std()) * math.sqrt(3 * 64) - 1) < 0.05
    other = Attention(64, position="data_controlled", initial_amplitude=0.5, phase_scale=0.0)
    assert isinstance(other.gates, DataControlledGates)
    assert not other.gates.amplitude.bias.any() and not other.gates.phase.weight.any()


def test_only_data_controlled_positions_are_transitions() -> None:
    for position in ("rope", "none", "learned"):
        assert layer(position).parameter_groups() == {"transition": []}
    names = layer("data_controlled").parameter_groups()["transition"]
    assert sorted(names) == [
        "gates.amplitude.bias", "gates.amplitude.weight", "gates.phase.bias", "gates.phase.weight",
    ]  # fmt: skip


@positions
def test_under_bfloat16(position: str) -> None:
    """Gates and sums stay wide, keys and values are as narrow as they were computed."""
    mixer = layer(position, torch.float32, window=8)
    x = inputs(LENGTH, dtype=torch.float32)
    with torch.no_grad():
        right, exact = mixer(x)
        with torch.autocast("cpu", torch.bfloat16):
            y, state = mixer(x)
            again, _ = mixer(x, state)
        on, _ = mixer(x, state)
    assert y.dtype == again.dtype == torch.bfloat16 and on.dtype == torch.float32
    assert 0 < far(y.float(), right) <= 0.03
    assert 0 < far(again.float(), mixer(x, exact)[0]) <= 0.03
    assert 0 < far(on, mixer(x, exact)[0]) <= 0.03
    assert state[0].dtype == state[1].dtype == torch.bfloat16
    for part, wide in zip(state[3:], exact[3:], strict=True):
        assert part.dtype == torch.float64 and torch.equal(part, wide)


def test_data_controlled_logits_are_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fading, a difference of gates, reaches the softmax in float32 under bfloat16."""
    seen: list[torch.dtype] = []
    attention = nn.functional.scaled_dot_product_attention

    def watched(*tensors: Tensor, attn_mask: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.extend(tensor.dtype for tensor in (*tensors, attn_mask))
        return attention(*tensors, attn_mask=attn_mask)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    with torch.autocast("cpu", torch.bfloat16):
        layer("data_controlled", torch.float32)(inputs(3, dtype=torch.float32))
    assert set(seen) == {torch.float32}


def test_modes() -> None:
    mixer, x = layer(), inputs(3)
    for mode in (None, "auto", "attention"):
        assert torch.equal(mixer(x, mode=mode)[0], mixer(x)[0])
    with pytest.raises(ValueError, match=r"mode scan: Attention .* take auto, attention"):
        mixer(x, mode="scan")
    with pytest.raises(ValueError, match="quick"):
        mixer(x, mode="quick")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"d_model": 64, "heads": 7}, "model.heads=7 does not divide .* nearest: 8"),
        ({"d_model": 60, "heads": 4}, "model.heads=4 leaves 15 channels a head.*nearest: 3"),
        ({"d_model": 7, "heads": 1}, "heads=1 leaves 7 .*take an even model.d_model"),
        (
            {"d_model": 6, "heads": 2, "position": Position.data_controlled},
            "model.position=data_controlled turns pairs of them; nearest: 1",
        ),
    ],
)
def test_heads_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TransformerConfig(name="transformer", **keys).check()
    assert "\n" not in str(caught.value)


def test_heads_that_fit() -> None:
    TransformerConfig(d_model=60, heads=4, position=Position.none).check()
    GPT2Config(d_model=60, heads=4).check()
    TransformerConfig(d_model=60, heads=3).check()


# -- learned positions -------------------------------------------------------------------


def gpt2(**keys: Any) -> LanguageModel:
    torch.manual_seed(0)
    config = GPT2Config(name="gpt2", d_model=16, layers=2, max_length=10, **keys)
    return build(config, 7, 5)


def tokens(length: int = 10) -> Tensor:
    return torch.randint(7, (2, length), generator=torch.Generator().manual_seed(1))


def test_learned_positions_are_added_to_the_embedding() -> None:
    model, plain = gpt2().double(), gpt2(position=Position.none).double()
    assert model.positions is not None and plain.positions is None
    table = model.positions.table.weight
    assert table.shape == (10, 16)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("positions.")}
    plain.load_state_dict(weights)
    with torch.no_grad():
        seen = model(tokens(6))[0]
        assert not torch.allclose(plain(tokens(6))[0], seen, atol=1e-3)
        # a vocabulary of pairs (token, place) does without positions
        place = torch.arange(6)
        both = plain.embedding.weight[:, None] + table[None]
        plain.embedding = nn.Embedding.from_pretrained(both.flatten(0, 1))
        assert far(seen, plain(tokens(6) * 10 + place)[0]) <= 1e-12


def test_learned_positions_go_on_across_splits_and_resets() -> None:
    model = gpt2().double()
    reset = resets((0, 3), (1, 7), length=10)
    with torch.no_grad():
        whole, last = model(tokens(), reset=reset)
        assert not torch.allclose(whole[0, 3:], model(tokens()[:, 3:])[0][0], atol=1e-3)
        for lengths in ([1] * 10, [4, 6], [9, 1], [3, 3, 3, 1]):
            state, found = model.init_state(2), []
            for part, some in zip(tokens().split(lengths, 1), reset.split(lengths, 1), strict=True):
                y, state = model(part, state, reset=some)
                found.append(y)
            assert far(torch.cat(found, 1), whole) <= 1e-10
            assert state[-1].tolist() == last[-1].tolist() == [10, 10]
    assert len(last) == len(model.init_state(2)) == 2 * 3 + 1
    assert last[-1].dtype == torch.int64


def test_each_sequence_has_its_own_place() -> None:
    model = gpt2().double()
    with torch.no_grad():
        _, one = model(tokens()[:1, :2])
        _, two = model(tokens()[1:, :5])
        width = two[0].shape[2] - one[0].shape[2]

        def join(first: Tensor, second: Tensor) -> Tensor:
            if first.ndim < 3:
                return torch.cat([first, second])
            pad = torch.full_like(first[:, :, :1], 9.0).expand(-1, -1, width, -1)
            return torch.cat([torch.cat([pad, first], 2), second])

        state = tuple(join(a, b) for a, b in zip(one, two, strict=True))
        together, _ = model(tokens()[:, 5:], state)
        assert far(together[:1], model(tokens()[:1, 5:], one)[0]) <= 1e-10
        assert far(together[1:], model(tokens()[1:, 5:], two)[0]) <= 1e-10


def test_learned_positions_end() -> None:
    model = gpt2()
    _, state = model(tokens())
    with pytest.raises(ValueError, match=r"step 11 is beyond the 10 .*\(model.max_length\)"):
        model(tokens(1), state)
    with pytest.raises(ValueError, match="step 11 is beyond"):
        model(tokens(11))


def test_the_table_starts_as_the_embedding_does() -> None:
    config = GPT2Config(name="gpt2", d_model=64, layers=1)
    torch.manual_seed(0)
    model = build(config, 2000, 5)
    assert model.positions is not None
    ratio = (model.positions.table.weight.std() / model.embedding.weight.std()).detach()
    assert abs(float(ratio) - 1) < 0.02


def test_the_table_counts_against_the_budget() -> None:
    keys: dict[str, Any] = {"name": "gpt2", "d_model": 32, "layers": 2, "heads": 2}
    for rows in (10, 500):
        model = build(GPT2Config(**keys, max_length=rows, parameters=40_000), 7, 5)
        assert counted(model) == count(model.blocks) + rows * 32
        assert abs(counted(model) / 40_000 - 1) < 0.01
    with pytest.raises(InputError, match=r"position table have .* or model.max_length") as caught:
        build(GPT2Config(**keys, max_length=2000, parameters=40_000), 7, 5)
    assert "\n" not in str(caught.value)


def test_the_table_is_not_decayed() -> None:
    model = gpt2()
    assert model.positions is not None
    config = Config(model=GPT2Config(name="gpt2"), data=MemoryHorizonConfig(batch_size=4))
    groups = {group["name"]: group["params"] for group in parameter_groups(model, config)}
    assert any(p is model.positions.table.weight for p in groups["undecayed"])  # type: ignore[attr-defined]
