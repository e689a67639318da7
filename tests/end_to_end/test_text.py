"""Real WikiText through every tokeniser, from the command line to generated text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from gateloop import load
from gateloop.data import open_source
from gateloop.models import build
from gateloop.names import ModeName
from gateloop.training.evaluation import evaluate
from tests.end_to_end.processes import Run

TOKENIZERS = ("word", "gpt2", "byte", "sentencepiece")
LINES = {"train": 400, "valid": 60, "test": 60}  # of each split: the whole is tests/data's


@pytest.fixture(scope="module")
def wikitext(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of WikiText-103, in its official files' names."""
    folder = tmp_path_factory.mktemp("wikitext-103")
    for split, number in LINES.items():
        name = f"wiki.{split}.tokens"
        lines = (shared_data / "wikitext-103" / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join(lines[:number]))
    return folder


def command(data: Path, wikitext: Path, tokenizer: str) -> list[str]:
    files = [f"data.tokenizer_path={data / 'gpt2'}"] if tokenizer == "gpt2" else []
    return [
        "data=wt103",
        f"data.path={wikitext}",
        f"data.tokenizer={tokenizer}",
        *files,
        "size=tiny",
        "model.d_model=32",
        "model.parameters=null",
        "data.length=64",
        "data.vocabulary=1000",
        "trainer.max_steps=30",
        "trainer.validate_every=30",
        "optimizer.lr=1e-2",
        "tracker=none",
    ]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_partial_wikitext_103(
    shared_data: Path, wikitext: Path, tmp_path: Path, tokenizer: str
) -> None:
    run = Run(tmp_path, *command(shared_data, wikitext, tokenizer))
    ended = run.finish()
    assert ended.returncode == 0, ended.stderr
    summary = run.summary()
    metrics = summary["metrics"]
    assert summary["data"] == "wt103-partial"
    assert run.path.name.startswith("gateloop-wt103-partial-s0-")

    facts = json.loads((run.path / "manifest.json").read_text())["data"]
    assert metrics["test/tokens"] == facts["test"]["tokens"] - 1

    # Word perplexity and bits per byte by hand, from the summed loss and the raw file.
    raw = (wikitext / "wiki.test.tokens").read_bytes()
    words = len(raw.split()) + raw.count(b"\n")
    total = metrics["test/loss"] * metrics["test/tokens"]
    assert metrics["test/word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-9)
    bits = total / math.log(2) / len(raw)
    assert metrics["test/bits_per_byte"] == pytest.approx(bits, rel=1e-9)
    assert metrics["test/perplexity"] == pytest.approx(math.exp(metrics["test/loss"]), rel=1e-9)
    assert summary["causal"] and metrics["test/causality_gap"] < 1e-5

    # The same test with the weights of step 0.
    loaded = load(run.path)
    source = open_source(loaded.config.data)
    torch.manual_seed(0)
    fresh = build(loaded.config.model, source.inputs, source.classes)
    (test,) = source.evaluations("test")
    before = evaluate(fresh, test, mode=ModeName.scan, sequences=32).metrics["perplexity"]
    assert metrics["test/perplexity"] < 0.7 * before

    # The run's own model and tokeniser write text, the same text twice.
    arguments = (str(run.path), "--prompt", " The", "--tokens", "30", "--top-k", "50")
    first = Run(tmp_path, *arguments, module="gateloop.generate").finish()
    again = Run(tmp_path, *arguments, module="gateloop.generate").finish()
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(" The") and len(first.stdout) > 20
    assert first.stdout == again.stdout


def test_look_ahead_is_found(shared_data: Path, wikitext: Path, tmp_path: Path) -> None:
    look_ahead = "model.output_norm=group_over_time"
    run = Run(tmp_path, *command(shared_data, wikitext, "byte"), look_ahead)
    ended = run.finish()
    assert ended.returncode == 0, ended.stderr
    assert run.summary()["metrics"]["test/causality_gap"] > 1e-3
    assert run.summary()["causal"] is False
    assert "NOT CAUSAL" in ended.stdout
