"""The transitions that a trained GateLoop makes of sequences: looked at, and changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gateloop.models.gateloop import GateLoop
from gateloop.models.language_model import LanguageModel
from gateloop.recurrence.operator import LEAST_LOG_AMPLITUDE

TURN = 2 * math.pi
ATTENTION = 1024  # steps up to which the attention matrix is made

Made = tuple[Tensor, "Tensor | None"]  # log-amplitude; phase, half turns (bool) or None
# (layer, tokens (batch, length), log-amplitude, phase) → what takes their place
Change = Callable[[int, Tensor, Tensor, "Tensor | None"], Made]


@dataclass(frozen=True)
class Layer:
    """What the recurrence of one layer was given, in the model's own precision.

    log_amplitude_BLHK: at most 0, unless the run's activation has no bound; at least −100, where
    the recurrence cuts it off. phase_BLHK: radians, not wrapped; 0 in a real model, π where a
    signed one changes sign. q_BLHK, k_BLHK, v_BLHV: after the short convolution, if there is one.
    """

    log_amplitude_BLHK: np.ndarray
    phase_BLHK: np.ndarray
    q_BLHK: np.ndarray
    k_BLHK: np.ndarray
    v_BLHV: np.ndarray

    @property
    def log_amplitude_BLC(self) -> np.ndarray:
        """float64; a channel is a head's key: channel = head · d_key + key."""
        return self.log_amplitude_BLHK.reshape(*self.log_amplitude_BLHK.shape[:2], -1).astype(float)

    @property
    def phase_BLC(self) -> np.ndarray:
        """float64, channels as in log_amplitude_BLC."""
        return self.phase_BLHK.reshape(*self.phase_BLHK.shape[:2], -1).astype(float)


def mixers(model: LanguageModel) -> list[GateLoop]:
    """The GateLoop of each layer; ValueError where a layer is something else."""
    if not all(isinstance(mixer, GateLoop) for mixer in model.mixers):
        raise ValueError("not every layer is a GateLoop")
    return [mixer for mixer in model.mixers if isinstance(mixer, GateLoop)]


@contextmanager
def changed(model: LanguageModel, change: Change) -> Iterator[None]:
    """While inside, every layer's recurrence is given what ``change`` makes of its transitions."""
    tokens: list[Tensor] = []

    def note(_: Any, arguments: tuple[Tensor, ...]) -> None:
        tokens[:] = arguments[:1]

    def hook(layer: int) -> Callable[..., Made]:
        return lambda _, __, made: change(layer, tokens[0], *made)

    with ExitStack() as stack:
        stack.callback(model.embedding.register_forward_pre_hook(note).remove)
        for layer, mixer in enumerate(mixers(model)):
            stack.callback(mixer.transition.register_forward_hook(hook(layer)).remove)
        yield


@torch.no_grad()
def observe(model: LanguageModel, tokens_BL: np.ndarray) -> list[Layer]:
    """Every layer's transitions, queries, keys and values in one pass over tokens (B, L)."""
    made: list[Made] = []
    mixed: list[Tensor] = []
    with ExitStack() as stack:
        for mixer in mixers(model):
            seen = mixer.transition.register_forward_hook(lambda *call: made.append(call[2]))
            stack.callback(seen.remove)
            if mixer.convolution is None:
                after = mixer.query_key_value.register_forward_hook(
                    lambda *call: mixed.append(call[2])
                )
            else:
                after = mixer.convolution.register_forward_hook(
                    lambda *call: mixed.append(call[2][0])
                )
            stack.callback(after.remove)
        model(torch.as_tensor(tokens_BL))
    return [_layer(*parts) for parts in zip(mixers(model), made, mixed, strict=True)]


def _layer(mixer: GateLoop, made: Made, mixed_BLE: Tensor) -> Layer:
    q, k, v = (
        part.unflatten(-1, (mixer.heads, -1)) for part in mixed_BLE.split(mixer.widths, dim=-1)
    )
    log_amplitude, phase = made
    log_amplitude = log_amplitude.clamp(
        LEAST_LOG_AMPLITUDE, None if mixer.transition.growth else 0.0
    )
    if phase is None:
        phase = torch.zeros_like(log_amplitude)
    elif phase.dtype == torch.bool:
        phase = phase * math.pi
    parts = (log_amplitude.expand(k.shape), phase.expand(k.shape), q, k, v)
    return Layer(*(np.ascontiguousarray(part.numpy()) for part in parts))


def surrogate(layer: Layer, sequence: int, head: int, steps: int | None = None) -> np.ndarray:
    """One head's surrogate attention (L, L) float64 over its first ``steps``: y = matrix @ v.

    Entry (n, m) is Σ over keys of Re(q_n k_m a_{m+1} … a_n), 0 for m > n; the state before the
    first step is zero.
    """
    own = (sequence, slice(None, steps), head)
    decay_LK = layer.log_amplitude_BLHK[own].astype(float).cumsum(0)
    turn_LK = layer.phase_BLHK[own].astype(float).cumsum(0)
    q_LK, k_LK = layer.q_BLHK[own].astype(float), layer.k_BLHK[own].astype(float)
    later_LL = np.triu(np.ones((len(q_LK), len(q_LK)), dtype=bool), 1)
    total_LL = np.zeros(later_LL.shape)
    for key in range(q_LK.shape[1]):
        left_LL = decay_LK[:, None, key] - decay_LK[None, :, key]
        left_LL[later_LL] = -np.inf
        turned_LL = np.cos(turn_LK[:, None, key] - turn_LK[None, :, key])
        total_LL += q_LK[:, None, key] * k_LK[None, :, key] * np.exp(left_LL) * turned_LL
    return total_LL


def mean_attention(layer: Layer, sequence: int, steps: int | None = None) -> np.ndarray:
    """The mean over heads of the absolute surrogate attention, (L, L) float64."""
    heads = range(layer.q_BLHK.shape[2])
    return sum(np.abs(surrogate(layer, sequence, head, steps)) for head in heads) / len(heads)
