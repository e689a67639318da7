"""Parameters and states of every model at every size: the table of docs/models.md.

    python docs/sizes.py

Nothing is trained. Models are counted on the meta device, for data=wt103 with GPT-2's vocabulary.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from gateloop.compose import compose
from gateloop.forecast import vocabulary
from gateloop.model_config import ModelConfig
from gateloop.models import build, time_mixing
from gateloop.models.size import count, counted
from gateloop.names import ModeName
from gateloop.registry import MODELS

PAGE = Path(__file__).with_name("models.md")
SIZES = ("tiny", "small", "125m")
CONTROL = "model.transition"
ARMS = {
    "`gateloop`": "model=gateloop",
    "`gateloop`, 4 heads": "model=gateloop model.heads=4",
    "`gateloop`, real": f"model=gateloop {CONTROL}.domain=real",
    "`gateloop`, fixed × fixed": f"model=gateloop {CONTROL}.amplitude.control=fixed "
    f"{CONTROL}.phase.control=fixed",
    "`gateloop`, one × none": f"model=gateloop {CONTROL}.amplitude.control=one "
    f"{CONTROL}.phase.control=none",
    **{f"`{name}`": f"model={name}" for name in MODELS if name != "gateloop"},
    "`transformer`, data-controlled": "model=transformer model.position=data_controlled",
}


def sizes(arguments: str) -> list[str]:
    """Cells of a row: channel mixing, parameters that the size limits, all; then the states."""
    cells, states = [], []
    for size in SIZES:
        config = compose([*arguments.split(), "data=wt103", f"size={size}"])
        with torch.device("meta"):
            model = build(config.model, *vocabulary(config))
        width = model.blocks[0].channel_mixing.up.out_features
        limited = counted(model)
        assert config.model.parameters is not None
        off = 100 * (limited / config.model.parameters - 1)
        cells += [f"{width}", f"{limited:,} ({off:+.2f} %)"]
        if size == SIZES[-1]:
            cells.append(f"{count(model):,}")
        if model.mixers[0].modes == (ModeName.attention,):
            states.append(f"{growth(config.model):,} a step")
        else:
            states.append(f"{stored(model.mixers[0].init_state(1)):,}")
    return cells + states


def stored(state: tuple[torch.Tensor, ...]) -> int:
    return sum(part.numel() * part.element_size() for part in state)


def growth(config: ModelConfig) -> int:
    """Bytes that a step adds to a layer's cache."""
    mixer = time_mixing(config)()
    with torch.no_grad():
        one, two = (mixer(torch.zeros(1, length, config.d_model))[1] for length in (1, 2))
    return stored(two) - stored(one)


def table() -> str:
    heads = ["model"]
    for size in SIZES:
        heads += [f"{size}: width", "in the layers"]
    heads += ["all", *(f"state {size}" for size in SIZES)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {label} | {' | '.join(sizes(given))} |" for label, given in ARMS.items()]
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- sizes -->\n", "\n<!-- end of sizes -->"
    new = re.sub(f"(?s){begin}.*?{end}", lambda _: f"{begin}{table()}{end}", text)
    PAGE.write_text(new, encoding="utf-8")
    print(table())


if __name__ == "__main__":
    main()
