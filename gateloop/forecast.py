"""What a run would be, without running it: ``dry_run=true``."""

from __future__ import annotations

import time
from functools import cache

import torch

from gateloop.config import Config, TextConfig
from gateloop.data import fingerprint, locate, open_source
from gateloop.derived import accumulation, micro_batch, sequences, tokens_per_step
from gateloop.errors import InputError
from gateloop.identity import run_id
from gateloop.keys import config_yaml
from gateloop.models import build, time_mixing
from gateloop.models.language_model import LanguageModel
from gateloop.models.size import channel_width, count, counted
from gateloop.names import LineEnd, TokenizerName
from gateloop.training.cross_entropy import chunk


def forecast(config: Config) -> str:
    """Config, id, parameters, tokens and FLOPs per step, memory, and whether the data are there.

    The memory is an estimate made on GateLoop: models with a matrix for a state keep up to three
    times as much.
    """
    inputs, classes = vocabulary(config)
    model = on_meta(config, inputs, classes)
    total, body = count(model), counted(model)
    flops = flops_per_step(config)
    try:
        source = locate(config.data, fetch=False)
        mark = fingerprint(config.data, fetch=False)
        data, name = f"{source}, found", run_id(config, mark, source)
    except InputError as error:
        data, name = f"not found: {error}", "known once the data are there"
    width = channel_width(config.model, time_mixing(config.model))
    where = "the layers and the position table" if model.positions else "the layers"
    rows = {
        "run": name,
        "data": data,
        "parameters": f"{total:,} ({body:,} in {where}; channel mixing {width} wide)",
        "batch": f"{sequences(config)} sequences = {tokens_per_step(config):,} tokens, "
        f"{micro_batch(config)} at once, accumulated {accumulation(config)} times",
        "FLOPs per step": f"{flops:.3g}, in all {flops * config.trainer.max_steps:.3g}",
        "memory": f"about {memory(config, total, classes) / 2**30:.2f} GiB",
    }
    lines = [f"{title + ':':<16} {text}" for title, text in rows.items()]
    return config_yaml(config) + "\n" + "\n".join(lines)


def on_meta(config: Config, inputs: int, classes: int) -> LanguageModel:
    """The model, without memory for its weights."""
    with torch.device("meta"):
        return build(config.model, inputs, classes)


def flops_per_step(config: Config) -> float:
    """Two for each multiplication of a weight, three times over for the gradients; the recurrence,
    attention's weights and the embedding's look-up are left out."""
    inputs, classes = vocabulary(config)
    model = on_meta(config, inputs, classes)
    return 6 * tokens_per_step(config) * (count(model.blocks) + config.model.d_model * classes)


@cache
def matrix_product_rate() -> float:
    """FLOP/s of a float32 matrix product on this machine, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(1024, 1024, device=device)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(times)


def vocabulary(config: Config) -> tuple[int, int]:
    """(input classes, output classes), without reading the data."""
    data = config.data
    if isinstance(data, TextConfig):
        size = {
            TokenizerName.gpt2: 50257,
            TokenizerName.sentencepiece: data.vocabulary,
            TokenizerName.byte: 257 if data.line_end is LineEnd.end_of_text else 256,
            # the official train splits' words with the line end; of another text, a guess
            TokenizerName.word: 33278 if data.name == "wt2" else 267735,
        }[data.tokenizer]
        return size, size
    source = open_source(config.data)
    return source.inputs, source.classes


def memory(config: Config, parameters: int, classes: int) -> float:
    """Bytes: weights, gradients and AdamW's two moments, and what a backward pass keeps.

    Activations: about 40 values a token, layer and channel (projections, complex transitions and
    states, the channel mixing), and the logits of one chunk with their gradient.
    """
    width = 8 if config.trainer.precision.value == "float64" else 4
    at_once = micro_batch(config) * config.data.length
    kept = 40 * config.model.layers * config.model.d_model
    head_VD = torch.empty(classes, config.model.d_model, device="meta")
    logits = min(at_once, chunk(head_VD)) * classes
    return width * (4 * parameters + at_once * kept + 3 * logits)
