"""An inspection as files: tables in Markdown and JSON, arrays as npz."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict

import numpy as np

from gateloop.inspection.changes import AS_TRAINED
from gateloop.inspection.channels import Channel
from gateloop.inspection.interventions import Effect
from gateloop.inspection.transitions import ATTENTION, Layer, mean_attention


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its columns padded so that it also reads as plain text."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |\n"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|\n"
    return line(head) + rule + "".join(map(line, rows))


def channel_table(channels: list[Channel], modulus: int | None) -> str:
    """``modulus`` None: a text, with the phase in radians."""
    rows = []
    for one in channels:
        row = [str(one.layer), str(one.channel), _steps(one.memory), f"{one.amplitude:.4f}"]
        if modulus is None:
            rows.append([*row, f"{one.turns[0]:.2f}", f"{one.spreads[0]:.2f}"])
            continue
        row.append("" if one.at_reset is None else f"{one.at_reset:.4f}")
        row += [" ".join(f"{turn:.2f}" for turn in one.turns), f"{max(one.spreads):.2f}"]
        rows.append([*row, f"{one.distance:.3f}", str(one.step), f"{one.residual:.2f}"])
    head = ["layer", "channel", "memory", "amplitude"]
    if modulus is None:
        return table([*head, "phase, radians", "spread"], rows)
    phases = f"phase at value 0 1 2 … in 2π/{modulus}"
    return table([*head, "at reset", phases, "spread", "to integer", "step", "residual"], rows)


def _steps(memory: float) -> str:
    if math.isinf(memory):
        return "∞"
    return f"{memory:.0f}" if memory >= 100 else f"{memory:.1f}"


def effects_table(effects: list[Effect]) -> str:
    """Accuracy and loss on each test, and in brackets what they lost; then layer by layer."""
    base = {e.test: e for e in effects if e.intervention == AS_TRAINED}

    def cell(effect: Effect) -> list[str]:
        was = base[effect.test]
        if effect is was:
            return [f"{effect.accuracy:.4f}", f"{effect.loss:.4f}"]
        return [
            f"{effect.accuracy:.4f} ({_signed(effect.accuracy - was.accuracy)})",
            f"{effect.loss:.4f} ({_signed(effect.loss - was.loss)})",
        ]

    def part(places: list[tuple[str, int | None]], names: list[str]) -> str:
        by_place = {(e.intervention, e.test, e.layer): e for e in effects}
        head, rows = ["intervention"], []
        for test, layer in places:
            where = test if layer is None else f"layer {layer} only"
            head += [f"{what} {where}".strip() for what in ("accuracy", "loss")]
        for name in names:
            cells = [cell(by_place[(name, *place)]) for place in places]
            rows.append([name, *(text for pair in cells for text in pair)])
        return table(head, rows)

    names = list(dict.fromkeys(e.intervention for e in effects))
    text = part([(test, None) for test in base], names)
    layers = sorted({e.layer for e in effects if e.layer is not None})
    if layers:
        main = next(iter(base))
        text += "\n" + part([(main, layer) for layer in layers], names[1:])
    return text


def _signed(difference: float) -> str:
    return f"{round(difference, 4) + 0.0:+.4f}"  # never -0.0000


def scope(effects: list[Effect]) -> str:
    """What they were measured on: "main test (the first 8 sequences, 96 tokens), …"."""
    counts = {effect.test: (effect.sequences, effect.tokens) for effect in effects}
    return ", ".join(
        f"{name or 'main'} test (the first {sequences} sequences, {tokens} tokens)"
        for name, (sequences, tokens) in counts.items()
    )


def effects_page(run: str, effects: list[Effect]) -> str:
    return (
        f"# Interventions in {run}\n\n"
        "With the weights of the best validation. Measured on the "
        f"{scope(effects)}. In brackets: the difference from as trained. Loss is in nats per "
        "token.\n\n" + effects_table(effects)
    )


def effects_json(run: str, effects: list[Effect]) -> bytes:
    content = {"run": run, "effects": [asdict(effect) for effect in effects]}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def arrays(layers: list[Layer], tokens_L: np.ndarray, resets_L: np.ndarray) -> bytes:
    """Sequence 0 as npz, read with np.load(…, allow_pickle=False); names and shapes in
    docs/inspect.md."""
    parts: dict[str, np.ndarray] = {"tokens": tokens_L, "resets": resets_L}
    for number, layer in enumerate(layers):
        own = {
            "log_amplitude": layer.log_amplitude_BLHK,
            "phase": layer.phase_BLHK,
            "query": layer.q_BLHK,
            "key": layer.k_BLHK,
            "value": layer.v_BLHV,
        }
        parts |= {f"layer{number}_{name}": part[0] for name, part in own.items()}
        parts[f"layer{number}_attention"] = mean_attention(layer, 0, ATTENTION)
    file = io.BytesIO()
    np.savez_compressed(file, **parts)  # type: ignore[arg-type]
    return file.getvalue()
