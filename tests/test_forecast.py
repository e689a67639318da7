"""What ``dry_run=true`` says, against the model as it is really built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from gateloop.compose import compose
from gateloop.data import open_source
from gateloop.forecast import forecast, vocabulary
from gateloop.models import build
from gateloop.models.size import count


def lines(text: str) -> dict[str, str]:
    """The forecast's own lines, below the config."""
    below = text.rsplit("\n\n", 1)[1]
    return {name: value.strip() for name, value in re.findall(r"^([\w ]+):\s+(.*)$", below, re.M)}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def parameters(arguments: str) -> tuple[int, int, int]:
    """(all, those of the layers, channel-mixing width)."""
    said = lines(forecast(compose(arguments.split())))["parameters"]
    found = re.fullmatch(r"([\d,]+) \(([\d,]+) in the layers; channel mixing (\d+) wide\)", said)
    assert found is not None, said
    return number(found[1]), number(found[2]), number(found[3])


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "data.task=hold model.layers=3",
        "size=tiny model.heads=16 model.transition.phase.control=none",
        "model.d_channel=7 model.short_convolution=4 model.gate=false",
    ],
)
def test_parameters_are_those_of_the_model(arguments: str) -> None:
    config = compose(arguments.split())
    source = open_source(config.data)
    assert vocabulary(config) == (source.inputs, source.classes)
    model = build(config.model, source.inputs, source.classes)
    width = model.blocks[0].channel_mixing.up.out_features
    assert parameters(arguments) == (count(model), count(model.blocks), width)


def test_the_paper_size_on_wikitext_103() -> None:
    config = compose("data=wt103 size=125m".split())
    with torch.device("meta"):
        model = build(config.model, 50257, 50257)
    total, layers, width = parameters("data=wt103 size=125m")
    assert (total, layers) == (count(model), count(model.blocks))
    assert abs(layers / 60_742_656 - 1) < 0.02 and abs(width - 3 * 624) <= 10
    # layers, embedding, head with its bias, last norm
    assert total == layers + 50257 * 624 + 50257 * 625 + 2 * 624
    tied, _, _ = parameters("data=wt103 size=125m model.tied=true")
    assert total - tied == 50257 * 625


def test_flops_by_hand() -> None:
    given = (
        "model.d_model=8 model.layers=1 data.batch_size=3 data.length=10 data.test_lengths=[10] "
        "data.test_resets=[4] trainer.max_steps=7"
    )
    config = compose(given.split())
    # q, k, v, gate and output of 8·8; α and β with bias; LayerNorm; then 8 → 16 → 8; two norms
    layers = 5 * 64 + 2 * (64 + 8) + 16 + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 16
    head = 8 * 50
    step = 2 * 3 * (3 * 10) * (layers + head)
    said = lines(forecast(config))
    assert said["FLOPs per step"] == f"{step:.3g}, in all {7 * step:.3g}"
    assert said["batch"] == "3 sequences = 30 tokens, 3 at once, accumulated 1 times"


@pytest.mark.parametrize(
    ("tokenizer", "line_end", "size"),
    [
        ("gpt2", "newline", 50257),
        ("byte", "newline", 256),
        ("byte", "end_of_text", 257),
        ("sentencepiece", "newline", 1000),
        ("word", "newline", 267735),
    ],
)
def test_vocabularies(tokenizer: str, line_end: str, size: int) -> None:
    given = f"data=wt103 data.tokenizer={tokenizer} data.line_end={line_end} data.vocabulary=1000"
    assert vocabulary(compose(given.split())) == (size, size)


def test_vocabulary_of_wikitext_2_words(shared_data: Path, tmp_path: Path) -> None:
    given = f"data=wt2 data.tokenizer=word data.path={shared_data / 'wikitext-2'}"
    config = compose([*given.split(), f"data.cache_dir={tmp_path}"])
    source = open_source(config.data)
    assert vocabulary(config) == (source.inputs, source.classes)


def test_missing_data_are_said_and_do_not_stop_it(tmp_path: Path) -> None:
    said = lines(forecast(compose(["data=text", f"data.path={tmp_path / 'nowhere.txt'}"])))
    assert said["data"].startswith("not found: ") and "nowhere.txt" in said["data"]
    assert said["run"] == "known once the data are there"
    text = tmp_path / "a.txt"
    text.write_text("one two\n" * 50)
    given = [f"data.path={text}", f"data.cache_dir={tmp_path / 'cache'}"]
    said = lines(forecast(compose(["data=text", "data.tokenizer=gpt2", *given])))
    assert "the gpt2 tokeniser is not on this machine yet" in said["data"]  # and nobody fetches it
    found = lines(forecast(compose([])))
    assert found["data"] == "memory_horizon, found"
    assert re.fullmatch(r"gateloop-memory_horizon-s0-[0-9a-f]{8}", found["run"])
