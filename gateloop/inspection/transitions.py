"""The transitions that a trained GateLoop makes of a sequence, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gateloop.models.gateloop import GateLoop
from gateloop.models.language_model import LanguageModel

TURN = 2 * math.pi

# (log-amplitude, phase or None or half turns) of a layer → the same, changed
Change = Callable[[int, Tensor, "Tensor | None"], "tuple[Tensor, Tensor | None]"]


@dataclass(frozen=True)
class Layer:
    """One layer's transitions over a sequence: log-amplitude ≤ 0 and phase in radians.

    Both (length, channels), a channel being a head's key; ``attention_LL``: how much each step
    reads from each earlier one, the mean over channels of |Re(q_n k_m Π a)|.
    """

    log_amplitude_LC: np.ndarray
    phase_LC: np.ndarray
    attention_LL: np.ndarray

    @property
    def amplitude_LC(self) -> np.ndarray:
        return np.exp(self.log_amplitude_LC)

    def memory_C(self, steps_L: np.ndarray) -> np.ndarray:
        """Steps after which a channel has 1/e of its state left, over the given steps only.

        −1 / mean log-amplitude; infinite for a channel that never forgets.
        """
        decay_C = -self.log_amplitude_LC[steps_L].mean(0)
        with np.errstate(divide="ignore"):
            return 1 / decay_C


def mixers(model: LanguageModel) -> list[GateLoop]:
    """The GateLoop of each layer, or none where the model is another."""
    return [mixer for mixer in model.mixers if isinstance(mixer, GateLoop)]


@contextmanager
def changed(model: LanguageModel, change: Change) -> Iterator[None]:
    """While inside, every layer's transitions go through ``change`` first."""

    def hook(layer: int) -> Callable[..., tuple[Tensor, Tensor | None]]:
        def after(_: nn.Module, __: object, made: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
            return change(layer, *made)

        return after

    handles = [
        mixer.transition.register_forward_hook(hook(layer))
        for layer, mixer in enumerate(mixers(model))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def observe(model: LanguageModel, tokens_L: np.ndarray) -> list[Layer]:
    """Every layer's transitions on one sequence of tokens (length,)."""
    found: list[Layer] = []

    def look(mixer: GateLoop) -> Callable[..., None]:
        def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found.append(_layer(mixer, arguments[0]))

        return before

    handles = [mixer.register_forward_pre_hook(look(mixer)) for mixer in mixers(model)]
    try:
        model(torch.as_tensor(tokens_L)[None])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _layer(mixer: GateLoop, x_1LD: Tensor) -> Layer:
    log_amplitude, phase = mixer.transition(x_1LD)
    mixed = mixer.query_key_value(x_1LD)
    if mixer.convolution is not None:
        mixed, _ = mixer.convolution(mixed, mixer.init_state(1)[1], None)
    q, k, _ = mixed.split(mixer.widths, dim=-1)
    shape = (1, x_1LD.shape[1], mixer.heads, mixer.d_key)
    if phase is None:
        phase = torch.zeros_like(log_amplitude)
    elif phase.dtype == torch.bool:
        phase = phase * math.pi
    log_LC, phase_LC, q_LC, k_LC = (
        part.double().expand(shape) if part.ndim == 4 else part.double().unflatten(-1, shape[2:])
        for part in (log_amplitude, phase, q, k)
    )
    log_LC, phase_LC, q_LC, k_LC = (
        part.reshape(shape[1], -1) for part in (log_LC, phase_LC, q_LC, k_LC)
    )
    return Layer(log_LC.numpy(), phase_LC.numpy(), _attention(log_LC, phase_LC, q_LC, k_LC))


def _attention(log_LC: Tensor, phase_LC: Tensor, q_LC: Tensor, k_LC: Tensor) -> np.ndarray:
    """The surrogate attention matrix, a channel at a time: they would not fit all at once."""
    length, channels = log_LC.shape
    lower = torch.ones(length, length, dtype=torch.bool).tril()
    total = torch.zeros(length, length, dtype=torch.float64)
    for channel in range(channels):
        a, turn = log_LC[:, channel].cumsum(0), phase_LC[:, channel].cumsum(0)
        fading = (a[:, None] - a[None]).masked_fill(~lower, -torch.inf).exp()
        weight = fading * torch.cos(turn[:, None] - turn[None])
        total += (weight * q_LC[:, channel, None] * k_LC[None, :, channel]).abs()
    return (total / channels).numpy()
