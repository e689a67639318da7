"""Transitions as pictures: over time, by token, as memory, as attention."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from gateloop.inspection.transitions import TURN, Layer

CHANNELS = 12  # shown of each layer: those with the longest memory
LABELS = 48  # steps up to which each is labelled with its token


def longest(layer: Layer, steps_L: np.ndarray) -> np.ndarray:
    """The numbers of the CHANNELS channels that remember longest, longest first."""
    return np.argsort(-layer.memory_C(steps_L), kind="stable")[:CHANNELS]


def over_time(layers: list[Layer], labels: list[str], resets_L: np.ndarray) -> dict[str, bytes]:
    """Amplitude and phase of each layer's longest channels at every step, resets as lines."""
    figure = _figure((11, 2.6 * len(layers)))
    grid = figure.subplots(len(layers), 2, squeeze=False, sharex=True)
    for number, (axes, layer) in enumerate(zip(grid, layers, strict=True)):
        shown = longest(layer, ~resets_L)
        amplitude = layer.amplitude_LC[:, shown].T
        phase = np.remainder(layer.phase_LC[:, shown].T, TURN)
        for axis, values, title, colours, top in (
            (axes[0], amplitude, "amplitude", "viridis", 1.0),
            (axes[1], phase, "phase, radians", "twilight", TURN),
        ):
            image = axis.imshow(
                values, aspect="auto", interpolation="nearest", cmap=colours, vmin=0, vmax=top
            )
            figure.colorbar(image, ax=axis, pad=0.01)
            axis.set_title(f"layer {number}: {title}", fontsize=9)
            axis.set_yticks(range(len(shown)), [str(c) for c in shown], fontsize=7)
            axis.set_ylabel("channel", fontsize=8)
            for step in np.flatnonzero(resets_L):
                axis.axvline(step, color="red", lw=0.8, alpha=0.8)
            if len(labels) <= LABELS:
                axis.set_xticks(range(len(labels)), labels, fontsize=7, rotation=90)
    return _files(figure, "transitions")


def by_token(
    layers: list[Layer], tokens_L: np.ndarray, names: dict[int, str], modulus: int
) -> dict[str, bytes]:
    """Amplitude against the token, and phase in units of a full turn / modulus.

    A layer that counts modulo M turns by a multiple of 2π/M for each value.
    """
    figure = _figure((11, 2.8 * len(layers)))
    grid = figure.subplots(len(layers), 2, squeeze=False)
    resets_L = tokens_L == max(names)
    for number, (axes, layer) in enumerate(zip(grid, layers, strict=True)):
        shown = longest(layer, ~resets_L)[:6]
        for place, channel in enumerate(shown):
            amplitude = [layer.amplitude_LC[tokens_L == token, channel] for token in names]
            turns = layer.phase_LC[:, channel] / TURN * modulus
            turns = np.remainder(turns + modulus / 2, modulus) - modulus / 2
            colour = f"C{place}"
            for axis, values in ((axes[0], amplitude), (axes[1], [turns[tokens_L == t] for t in names])):
                means = [part.mean() if len(part) else np.nan for part in values]
                axis.plot(range(len(names)), means, "o-", color=colour, ms=4, lw=1, label=f"{channel}")
                for at, part in enumerate(values):
                    axis.plot([at] * len(part), part, ".", color=colour, alpha=0.25, ms=3)
        axes[0].set_title(f"layer {number}: amplitude", fontsize=9)
        axes[1].set_title(f"layer {number}: phase, in turns / {modulus}", fontsize=9)
        axes[0].legend(title="channel", fontsize=7, title_fontsize=7, frameon=False)
        for axis in axes:
            axis.set_xticks(range(len(names)), list(names.values()), fontsize=8)
            axis.grid(alpha=0.3)
    return _files(figure, "by_token")


def attention(layers: list[Layer]) -> dict[str, bytes]:
    """How much each step (down) reads from each earlier one (across), rows scaled to their sum."""
    figure = _figure((4.2 * len(layers), 3.8))
    for number, (axis, layer) in enumerate(
        zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True)
    ):
        rows = layer.attention_LL / np.maximum(layer.attention_LL.sum(1, keepdims=True), 1e-300)
        image = axis.imshow(rows, cmap="magma", vmin=0, vmax=np.quantile(rows, 0.995))
        figure.colorbar(image, ax=axis, pad=0.01)
        axis.set_title(f"layer {number}: surrogate attention", fontsize=9)
        axis.set_xlabel("read step", fontsize=8)
        axis.set_ylabel("reading step", fontsize=8)
    return _files(figure, "attention")


def memory(layers: list[Layer], steps_L: np.ndarray) -> dict[str, bytes]:
    """Every channel's memory in steps, sorted, a line for each layer."""
    figure = _figure((6, 3.4))
    axis = figure.subplots()
    for number, layer in enumerate(layers):
        axis.plot(np.sort(layer.memory_C(steps_L))[::-1], label=f"layer {number}")
    axis.set_yscale("log")
    axis.set_xlabel("channel, by memory", fontsize=8)
    axis.set_ylabel("steps until 1/e is left", fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    return _files(figure, "memory")


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _files(figure: Any, name: str) -> dict[str, bytes]:
    import matplotlib

    found = {}
    with matplotlib.rc_context({"svg.hashsalt": name}):
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            file = io.BytesIO()
            figure.savefig(file, format=form, dpi=110, metadata=metadata)
            found[f"{name}.{form}"] = file.getvalue()
    return found
