"""Numbers of single channels: how long they remember, what they do at each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gateloop.inspection.subject import Subject
from gateloop.inspection.transitions import TURN, Layer


def memory(layer: Layer, counted_BL: np.ndarray) -> np.ndarray:
    """Steps until 1/e of a channel's state is left, (channels,) float64.

    −1 / the mean log-amplitude over the counted steps; infinite where nothing is forgotten.
    """
    decay_C = -layer.log_amplitude_BLC[counted_BL].mean(0)
    return np.divide(1, decay_C, out=np.full(decay_C.shape, np.inf), where=decay_C > 0)


def longest(layer: Layer, counted_BL: np.ndarray, number: int) -> np.ndarray:
    """The channels with the longest memory, longest first; of equals the lower number first."""
    return np.argsort(-memory(layer, counted_BL), kind="stable")[:number]


def circular(phase_N: np.ndarray) -> tuple[float, float]:
    """Mean in (−π, π] and standard deviation, √(−2 log R), of angles, both in radians."""
    mean = np.exp(1j * phase_N).mean()
    return float(np.angle(mean)), float(np.sqrt(max(0.0, -2 * np.log(max(abs(mean), 1e-300)))))


@dataclass(frozen=True)
class Channel:
    """One channel over a subject. memory, amplitude (median): over the steps that are no reset.

    at_reset: median amplitude; None without resets. turns: for each value the circular mean of the
    phase in units of 2π/modulus, in (−modulus/2, modulus/2]; spreads: its circular standard
    deviation in the same unit; of a text, one of each, in radians, over all steps.
    distance: from ``turns`` to the nearest whole number, the mean over values (0.25 is what no
    relation gives). step: the whole number s for which s · value is nearest to ``turns``, modulo
    the modulus; residual: the root mean square of what is left.
    """

    layer: int
    channel: int
    memory: float
    amplitude: float
    at_reset: float | None
    turns: tuple[float, ...]
    spreads: tuple[float, ...]
    distance: float | None = None
    step: int | None = None
    residual: float | None = None


def channel(number: int, layer: Layer, index: int, subject: Subject) -> Channel:
    """What channel ``index`` of ``layer``, the model's ``number``-th, does on the subject."""
    log_BL, phase_BL = layer.log_amplitude_BLC[..., index], layer.phase_BLC[..., index]
    counted_BL = subject.counted_BL
    resets_N = log_BL[~counted_BL]
    facts: dict[str, Any] = {
        "layer": number,
        "channel": int(index),
        "memory": float(memory(layer, counted_BL)[index]),
        "amplitude": float(np.median(np.exp(log_BL[counted_BL]))),
        "at_reset": float(np.median(np.exp(resets_N))) if len(resets_N) else None,
    }
    if subject.modulus is None:
        mean, spread = circular(phase_BL[counted_BL])
        return Channel(**facts, turns=(mean,), spreads=(spread,))
    by_value = [circular(phase_BL[subject.tokens_BL == value]) for value in range(subject.values)]
    unit = TURN / subject.modulus
    turns = np.array([mean / unit for mean, _ in by_value])
    step, residual = best_step(turns, subject.modulus)
    return Channel(
        **facts,
        turns=tuple(turns.tolist()),
        spreads=tuple(spread / unit for _, spread in by_value),
        distance=float(np.abs(turns - turns.round()).mean()),
        step=step,
        residual=residual,
    )


def best_step(turns_V: np.ndarray, modulus: int) -> tuple[int, float]:
    """(s, root mean square of turns − s · value modulo the modulus) with the least of the latter.

    s is in (−modulus/2, modulus/2]; of equals the one nearest to 0.
    """
    steps_S = np.array(sorted(range(-((modulus - 1) // 2), modulus // 2 + 1), key=abs))
    left_SV = turns_V - steps_S[:, None] * np.arange(len(turns_V))
    left_SV = np.remainder(left_SV + modulus / 2, modulus) - modulus / 2
    residual_S = np.sqrt((left_SV**2).mean(1))
    best = int(residual_S.argmin())
    return int(steps_S[best]), float(residual_S[best])
