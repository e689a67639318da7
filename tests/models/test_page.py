"""docs/model.md says what the code does: its snippet runs, its tables are those of the code."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from gateloop.compose import compose
from gateloop.config import Config
from gateloop.forecast import vocabulary
from gateloop.keys import keys, plain
from gateloop.models import build
from gateloop.models.size import count

PAGE = Path(__file__).resolve().parents[2] / "docs/model.md"


@cache
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_layer_in_a_model_of_your_own() -> None:
    snippets = re.findall(r"```python\n(.*?)```", page(), re.S)
    (own,) = [snippet for snippet in snippets if "class Block" in snippet]
    names: dict[str, Any] = {}
    exec(compile(own, str(PAGE), "exec"), names)
    assert names["packed"].shape == (2, 100, 64) and names["state"][0].shape == (2, 4, 16, 16)
    assert {id(p) for p in names["gates"]} == {
        id(p) for p in names["block"].mix.transition.parameters()
    }


SIZES = [
    ("Memory Horizon's default", []),
    ("`size=tiny`", ["data=wt103", "size=tiny"]),
    ("`size=small`", ["data=wt103", "size=small"]),
    ("`size=125m`", ["data=wt103", "size=125m"]),
]


@pytest.mark.parametrize(("label", "arguments"), SIZES, ids=[label for label, _ in SIZES])
def test_sizes(label: str, arguments: list[str]) -> None:
    config = compose(arguments)
    with torch.device("meta"):
        model = build(config.model, *vocabulary(config))
        state = model.init_state(1)
    width = model.blocks[0].channel_mixing.up.out_features
    size = sum(part.numel() * part.element_size() for part in state) // config.model.layers
    row = (
        f"| {label} | {config.model.d_model} × {config.model.layers} | {width} "
        f"| {count(model.blocks):,} | {count(model):,} | {size:,} bytes |"
    )
    assert row in page()


def test_every_option_is_in_the_table_with_its_choices_and_default() -> None:
    elsewhere = {"name", "d_model", "layers", "parameters"}
    rows = {
        name: row
        for row in re.findall(r"^\| `.*$", page(), re.M)
        for name in re.findall(r"`([\w.]+)`", row.split("|")[1])
    }
    for name, key in keys(Config()).items():
        node, _, short = name.partition(".")
        if node != "model" or short in elsewhere:
            continue
        short = short.replace("transition.", "T.")
        short = {"T.ring.outer": "outer", "T.ring.phase": "phase"}.get(short, short)
        assert short in rows, short
        _, _, choices, default, *_ = re.split(r"(?<!\\)\|", rows[short])
        for choice in key.choices:
            assert f"`{choice}`" in choices, (short, choice)
        value = plain(key.default)
        if isinstance(value, str):
            assert f"`{value}`" in default, (short, value)
        elif value is not None:
            assert str(value).lower() in default or f"{value:g}" in default, (short, value)
