"""Transitions as pictures: over time, by token, as memory, as attention. PNG and SVG."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from gateloop.inspection.channels import longest, memory
from gateloop.inspection.subject import Subject
from gateloop.inspection.transitions import ATTENTION, TURN, Layer, mean_attention, surrogate

SHOWN = 12  # channels of each layer over time: those with the longest memory
BY_TOKEN = 6  # of them, those by token
LABELS = 64  # steps up to which each is labelled with its token
LONGEST = 1e6  # steps; a longer memory is drawn as this
RESET = "#d62728"


def over_time(
    layers: list[Layer], counted_BL: np.ndarray, labels: list[str], resets_L: np.ndarray
) -> dict[str, bytes]:
    """Amplitude and phase of each layer's longest channels at every step of sequence 0."""
    named = len(labels) <= LABELS
    figure = _figure((13, 2.9 * len(layers) + 0.4))
    grid = figure.subplots(len(layers), 2, squeeze=False)
    for number, (axes, layer) in enumerate(zip(grid, layers, strict=True)):
        shown = longest(layer, counted_BL, SHOWN)
        turned = np.remainder(layer.phase_BLC[0][:, shown] + TURN / 2, TURN) - TURN / 2
        for axis, values_LC, title, colours, limits in (
            (axes[0], np.exp(layer.log_amplitude_BLC[0][:, shown]), "amplitude", "viridis", (0, 1)),
            (axes[1], turned / np.pi, "phase modulo 2π, in units of π", "twilight", (-1, 1)),
        ):
            image = axis.imshow(
                values_LC.T,
                aspect="auto",
                interpolation="nearest",
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
            )
            bar = figure.colorbar(image, ax=axis, pad=0.01, aspect=15)
            bar.ax.tick_params(labelsize=8)
            axis.set_title(f"layer {number}: {title}", fontsize=10, pad=12)
            axis.set_yticks(range(len(shown)), [str(c) for c in shown], fontsize=8)
            axis.set_ylabel("channel, longest memory first", fontsize=8)
            _mark_resets(axis, resets_L)
            if named:
                axis.set_xticks(
                    range(len(labels)), labels, fontsize=7, rotation=90, parse_math=False
                )
            else:
                axis.set_xlabel("step" + (", ▼ reset" if resets_L.any() else ""), fontsize=8)
                axis.tick_params(axis="x", labelsize=8)
    return _files(figure, "transitions")


def by_token(layers: list[Layer], subject: Subject) -> dict[str, bytes]:
    """Amplitude and phase of each layer's longest channels against the value, and the reset.

    Dots are medians and circular means, bars run from the 10th to the 90th percentile; the
    distances are those of the means.
    """
    figure = _figure((13, 3.3 * len(layers)))
    grid = figure.subplots(len(layers), 3, squeeze=False, width_ratios=(1.1, 1, 1))
    tokens_BL, counted_BL = subject.tokens_BL, subject.counted_BL
    values, modulus, reset = subject.values, subject.modulus or 1, subject.reset
    resets = [reset] if not counted_BL.all() else []
    for number, (axes, layer) in enumerate(zip(grid, layers, strict=True)):
        for place, index in enumerate(longest(layer, counted_BL, BY_TOKEN)):
            shift = (place - (BY_TOKEN - 1) / 2) * 0.11
            style = {"color": f"C{place}", "ms": 4, "lw": 1, "label": str(index)}
            for token in [*range(values), *resets]:
                at = tokens_BL == token
                amplitude = np.exp(layer.log_amplitude_BLC[..., index][at])
                low, middle, high = np.quantile(amplitude, (0.1, 0.5, 0.9))
                x = token + shift
                _dot(axes[0], x, middle, low, high, style)
                if token != reset:
                    turns = layer.phase_BLC[..., index][at] * modulus / TURN
                    mean = float(np.angle(np.exp(1j * turns * TURN / modulus).mean()))
                    mean *= modulus / TURN
                    around = np.remainder(turns - mean + modulus / 2, modulus) - modulus / 2
                    low, high = np.quantile(around, (0.1, 0.9))
                    _dot(axes[1], x, mean, mean + low, mean + high, style)
                    axes[2].plot([x], [mean - round(mean)], "o", **style)
                style = {**style, "label": None}
        _by_token_axes(axes, number, values, bool(resets), modulus)
    return _files(figure, "by_token")


def _by_token_axes(axes: Any, number: int, values: int, resets: bool, modulus: int) -> None:
    names = [*map(str, range(values)), *(["reset"] if resets else [])]
    axes[0].set_title(f"layer {number}: amplitude", fontsize=10)
    axes[0].set_ylim(-0.03, 1.03)
    axes[0].legend(title="channel", fontsize=7, title_fontsize=7, loc="lower left")
    axes[0].set_xticks(range(len(names)), names, fontsize=8)
    axes[1].set_title(f"layer {number}: phase modulo 2π, in units of 2π/{modulus}", fontsize=10)
    axes[1].set_ylim(-modulus / 2 - 0.5, modulus / 2 + 0.5)
    for whole in range(-(modulus // 2), modulus // 2 + 1):
        axes[1].axhline(whole, color="black", lw=0.4, alpha=0.18, zorder=0)
    axes[2].set_title("the mean less its nearest multiple", fontsize=10)
    axes[2].set_ylim(-0.55, 0.55)
    axes[2].axhline(0, color="black", lw=0.8, zorder=0)
    for axis in axes[1:]:
        axis.set_xticks(range(values), names[:values], fontsize=8)
    for axis in axes:
        axis.set_xlabel("token", fontsize=8)
        axis.tick_params(axis="y", labelsize=8)
        for between in np.arange(0.5, len(axis.get_xticks()) - 1):
            axis.axvline(between, color="black", lw=0.5, alpha=0.25, zorder=0)


def _dot(axis: Any, x: float, y: float, low: float, high: float, style: dict[str, Any]) -> None:
    axis.plot([x], [y], "o", **style)
    axis.plot([x, x], [low, high], "-", color=style["color"], lw=1.2, alpha=0.6)


def attention(
    layers: list[Layer], counted_BL: np.ndarray, resets_L: np.ndarray
) -> dict[str, bytes]:
    """Each layer's surrogate attention on sequence 0: all heads, and the longest channel's head.

    Above, the mean over heads of the absolute value, each row divided by its sum; below, one head
    with its signs. Colours end at the 99th percentile.
    """
    steps = min(layers[0].q_BLHK.shape[1], ATTENTION)
    figure = _figure((4.6 * len(layers), 8.2))
    grid = figure.subplots(2, len(layers), squeeze=False)
    for number, layer in enumerate(layers):
        mean_LL = mean_attention(layer, 0, steps)
        mean_LL /= np.maximum(mean_LL.sum(1, keepdims=True), 1e-300)
        channel = int(longest(layer, counted_BL, 1)[0])
        one_LL = surrogate(layer, 0, channel // layer.q_BLHK.shape[3], steps)
        past = np.tril_indices(steps)
        bright = max(float(np.quantile(mean_LL[past], 0.99)), 1e-12)
        strong = max(float(np.quantile(np.abs(one_LL[past]), 0.99)), 1e-12)
        for axis, values_LL, title, look in (
            (
                grid[0, number],
                mean_LL,
                "surrogate attention, mean of heads",
                ("magma", 0.0, bright),
            ),
            (
                grid[1, number],
                one_LL,
                f"surrogate attention, channel {channel}",
                ("RdBu", -strong, strong),
            ),
        ):
            colours, lowest, highest = look
            image = axis.imshow(
                values_LL, cmap=colours, vmin=lowest, vmax=highest, interpolation="nearest"
            )
            figure.colorbar(image, ax=axis, pad=0.01, shrink=0.75).ax.tick_params(labelsize=8)
            axis.set_title(f"layer {number}: {title}", fontsize=10, pad=12)
            axis.set_xlabel("step read", fontsize=8)
            axis.set_ylabel("reading step", fontsize=8)
            axis.tick_params(labelsize=8)
            _mark_resets(axis, resets_L[:steps])
    return _files(figure, "attention")


def memories(layers: list[Layer], counted_BL: np.ndarray) -> dict[str, bytes]:
    """Every channel's memory in steps, longest first, a line for each layer."""
    figure = _figure((6.4, 3.8))
    axis = figure.subplots()
    for number, layer in enumerate(layers):
        steps_C = np.sort(memory(layer, counted_BL))[::-1]
        ranks = np.arange(1, len(steps_C) + 1)
        axis.plot(ranks, np.minimum(steps_C, LONGEST), ".-", ms=4, label=f"layer {number}")
    length = counted_BL.shape[1]
    axis.axhline(length, color="black", lw=0.8, ls="--", label=f"length {length}")
    axis.set_yscale("log")
    axis.set_xlabel("channels, longest memory first", fontsize=9)
    axis.set_ylabel("steps until 1/e is left", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=1 + len(layers) // 9)
    return _files(figure, "memory")


def _mark_resets(axis: Any, resets_L: np.ndarray) -> None:
    steps = np.flatnonzero(resets_L)
    if not len(steps):  # a line of no points has no place, and spoils the layout
        return
    across = axis.get_xaxis_transform()
    axis.plot(steps, [1.015] * len(steps), "v", color=RESET, ms=5, transform=across, clip_on=False)


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _files(figure: Any, name: str) -> dict[str, bytes]:
    """{"name.png": …, "name.svg": …}: the same figure, the same bytes."""
    import matplotlib

    found = {}
    with (
        matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}),
        warnings.catch_warnings(),
    ):
        # a text may hold characters that the font lacks; they are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            file = io.BytesIO()
            figure.savefig(file, format=form, dpi=100, metadata=metadata)
            found[f"{name}.{form}"] = file.getvalue()
            figure.set_layout_engine("none")  # it is laid out
    return found
