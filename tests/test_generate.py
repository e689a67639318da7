"""Text from a trained run: what is sampled, in how much memory, and how it refuses."""

from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import gateloop
from gateloop import generate, run
from gateloop.baseline_config import TransformerConfig
from gateloop.errors import InputError
from gateloop.generate import batches, parse, sample, tokens
from gateloop.model_config import GateLoopConfig
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from gateloop.models.time_mixer import State
from gateloop.names import Position

LINES = "".join(f"the {word} is {word}.\n" for word in "red green blue grey ä".split() * 30)


def train_on_text(folder: Path, model: str) -> Path:
    """A text run of a few steps, made by the command's own main."""
    (folder / "text.txt").write_text(LINES, encoding="utf-8")
    arguments = (
        f"data=text data.path={folder / 'text.txt'} runs_dir={folder / 'runs'} tracker=none "
        f"data.cache_dir={folder / 'cache'} data.length=16 data.batch_size=4 model.d_model=16 "
        f"model.parameters=null {model} trainer.max_steps=5 trainer.threads=1 "
        "trainer.progress=false trainer.device=cpu"
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert run.main(arguments.split()) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    (made,) = (path for path in (folder / "runs").iterdir() if not path.name.startswith("."))
    return made


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_text(tmp_path_factory.mktemp("run"), "model.short_convolution=3")


@pytest.fixture(scope="module")
def model(text_run: Path) -> LanguageModel:
    return gateloop.load(text_run).model


# -- sampling ----------------------------------------------------------------------------


def options(*arguments: str) -> Namespace:
    return parse(["runs/x", *arguments])


def seen(logits: list[float], given: Namespace, times: int = 400) -> dict[int, float]:
    """How often each token comes."""
    generator = torch.Generator().manual_seed(0)
    drawn = [sample(torch.tensor(logits), given, generator) for _ in range(times)]
    return {token: drawn.count(token) / times for token in set(drawn)}


LOGITS = [math.log(p) for p in (0.05, 0.4, 0.15, 0.3, 0.1)]


def test_temperature() -> None:
    assert seen(LOGITS, options("--temperature", "0"), 20) == {1: 1.0}
    assert seen(LOGITS, options("--temperature", "1e-45"), 20) == {1: 1.0}
    for cold in ("1e-46", "1e-60", "1e-320"):
        assert seen(LOGITS, options("--temperature", cold), 20) == {1: 1.0}
    warm = seen(LOGITS, options(), 4000)
    for token, logit in enumerate(LOGITS):
        assert abs(warm[token] - math.exp(logit)) < 0.04
    hot = seen(LOGITS, options("--temperature", "1e5"), 4000)
    assert all(abs(share - 0.2) < 0.04 for share in hot.values()) and len(hot) == 5


@pytest.mark.parametrize(
    ("k", "kept"), [(1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (5, set(range(5))), (9, set(range(5)))]
)
def test_top_k(k: int, kept: set[int]) -> None:
    assert set(seen(LOGITS, options("--top-k", str(k)))) == kept


def test_top_k_of_equals() -> None:
    assert len(seen([0.0] * 6, options("--top-k", "2"))) == 2


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (0.01, {1}),
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {1, 2, 3}),
        (0.86, {1, 2, 3, 4}),
        (1.0, set(range(5))),
    ],
)
def test_top_p(p: float, kept: set[int]) -> None:
    assert set(seen(LOGITS, options("--top-p", str(p)))) == kept


def test_top_p_counts_what_temperature_and_top_k_left() -> None:
    both = seen(LOGITS, options("--top-k", "2", "--top-p", "0.5"))  # 0.4 of 0.7 is more than half
    assert set(both) == {1}
    cold = seen(LOGITS, options("--temperature", "0.1", "--top-p", "0.9"))
    assert set(cold) == {1}


def test_seed(model: LanguageModel) -> None:
    def text(seed: int) -> list[int]:
        return list(islice(tokens(model, [1, 2], options("--seed", str(seed))), 30))

    assert text(3) == text(3) != text(4)


def test_greedy_is_the_argmax_of_the_whole_text(model: LanguageModel) -> None:
    text = [116, 104, 101]
    for token in islice(tokens(model, list(text), options("--temperature", "0")), 12):
        with torch.no_grad():
            assert token == int(model(torch.tensor([text]))[0][0, -1].argmax())
        text.append(token)


# -- the state ---------------------------------------------------------------------------


def test_prompt_in_pieces(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = list(LINES.encode()[:23])
    with torch.no_grad():
        whole, state = model(torch.tensor([prompt]))
    lengths: list[int] = []
    heads: list[torch.Size] = []
    features = model.norm.register_forward_hook(lambda *call: lengths.append(call[2].shape[1]))
    head = model.head.register_forward_hook(lambda *call: heads.append(call[2].shape))
    try:
        for piece, expected in ((5, [5, 5, 5, 5, 3]), (1, [1] * 23), (23, [23]), (22, [22, 1])):
            monkeypatch.setattr(generate, "PREFILL", piece)
            lengths.clear()
            with torch.no_grad():
                logits, after = generate.read(model, prompt)
            assert lengths == expected
            assert torch.allclose(logits[0], whole[0, -1], rtol=0, atol=1e-5)
            for found, right in zip(after, state, strict=True):
                assert torch.allclose(found, right, rtol=0, atol=1e-5)
    finally:
        features.remove()
        head.remove()
    assert heads == [(1, 256)] * 4  # the last position's alone


def watch_states(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """Fills with the state after each read."""
    seen: list[State] = []
    features = model.features

    def watched(*arguments: Any, **more: Any) -> tuple[torch.Tensor, State]:
        x_BLD, state = features(*arguments, **more)
        seen.append(state)
        return x_BLD, state

    monkeypatch.setattr(model, "features", watched)
    return seen


def test_the_state_does_not_grow(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    states = watch_states(model, monkeypatch)
    list(islice(tokens(model, list(range(40)), options()), 60))
    sizes = {tuple(part.shape for part in state) for state in states}
    assert len(states) == 60
    assert sizes == {tuple(part.shape for part in model.init_state(1))}


# -- attention ---------------------------------------------------------------------------


@pytest.mark.parametrize("position", [Position.rope, Position.data_controlled])
@pytest.mark.parametrize("window", [None, 6])
def test_attention_reads_from_its_cache(
    position: Position, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TransformerConfig(
        name="transformer", d_model=16, layers=2, position=position, window=window
    )
    torch.manual_seed(0)
    attention = build(config, 256, 256).eval()
    monkeypatch.setattr(generate, "PREFILL", 4)
    text, states = list(range(11)), watch_states(attention, monkeypatch)
    greedy = options("--temperature", "0")
    for token in islice(tokens(attention, list(text), greedy), 9):
        with torch.no_grad():
            assert token == int(attention(torch.tensor([text]))[0][0, -1].argmax())
        states.pop()
        text.append(token)
    cached = [state[0].shape[2] for state in states]
    reached = [4, 8, *range(11, 20)]
    assert cached == [min(steps, window - 1) if window else steps for steps in reached]


@pytest.fixture(scope="module")
def gpt2_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_text(tmp_path_factory.mktemp("gpt2"), "model=gpt2 model.max_length=20")


def test_text_up_to_the_last_learned_position(
    gpt2_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight bytes and thirteen more: the last one is not read."""
    assert generate.main([str(gpt2_run), "--prompt", "the red ", "--tokens", "13"]) == 0
    assert capsys.readouterr().out.startswith("the red ")
    assert generate.main([str(gpt2_run), "--prompt", "x" * 20, "--tokens", "1"]) == 0


@pytest.mark.parametrize(
    ("prompt", "number", "message"),
    [
        ("the red ", "14", "--tokens 14: after a prompt of 8 tokens .* at most 13"),
        ("x" * 20, "2", "--tokens 2: after a prompt of 20 tokens .* at most 1"),
        ("x" * 21, "1", "--prompt: its 21 tokens .*model.max_length=20.* at most 20"),
    ],
)
def test_learned_positions_end_before_anything_is_written(
    gpt2_run: Path, prompt: str, number: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        generate.main([str(gpt2_run), "--prompt", prompt, "--tokens", number])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


# -- several at once ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gateloop", "transformer", "gpt2"])
def float64(request: pytest.FixtureRequest) -> LanguageModel:
    """In float64, so that a batch's rounding cannot turn a draw."""
    kinds = {
        "gateloop": GateLoopConfig(name="gateloop", d_model=16, layers=2, short_convolution=3),
        "transformer": TransformerConfig(name="transformer", d_model=16, layers=2),
        "gpt2": TransformerConfig(
            name="gpt2", d_model=16, layers=2, position=Position.learned, max_length=64
        ),
    }
    torch.manual_seed(0)
    return build(kinds[request.param], 256, 256).double().eval()


@pytest.mark.parametrize("mode", [(), ("--temperature", "0"), ("--top-k", "9", "--top-p", "0.8")])
def test_a_batch_is_its_samples_alone(
    mode: tuple[str, ...], float64: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "PREFILL", 4)
    prompt, length = list(b"the red is"), 20
    together = list(
        zip(
            *islice(
                batches(float64, prompt, options("--samples", "3", "--seed", "5", *mode)), length
            ),
            strict=True,
        )
    )
    for number, found in enumerate(together):
        alone = options("--seed", str(5 + number), *mode)
        assert list(islice(tokens(float64, prompt, alone), length)) == list(found)
    assert len(set(together)) == (1 if "--temperature" in mode else 3)


def test_the_prompt_is_read_once(float64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    states = watch_states(float64, monkeypatch)
    list(islice(batches(float64, [1, 2, 3], options("--samples", "4")), 3))
    assert [len(state[0]) for state in states] == [1, 4, 4]


def test_the_prompt_is_as_step_by_step(
    float64: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "PREFILL", 7)
    prompt = list(range(30))
    with torch.no_grad():
        logits, after = generate.read(float64, prompt)
        state = None
        for token in prompt:
            step, state = float64(torch.tensor([[token]]), state)
    assert (logits - step[:, 0]).abs().max() < 1e-10
    for found, expected in zip(after, state or (), strict=True):
        assert (found - expected).abs().max() < 1e-10


def test_samples_are_told_apart(text_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(text_run), "--prompt", "the ä", "--tokens", "9", "--seed", "4"]
    assert generate.main([*command, "--samples", "2"]) == 0
    found = capsys.readouterr().out
    first, second = re.split(r"^--- sample \d, seed \d\n", found, flags=re.MULTILINE)[1:]
    assert found.startswith("--- sample 0, seed 4\nthe ä") and "--- sample 1, seed 5\n" in found
    assert generate.main(command) == 0
    assert capsys.readouterr().out == first != second


# -- the command -------------------------------------------------------------------------


def test_output(text_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(text_run), "--prompt", "the ä", "--tokens", "25", "--seed", "1"]
    assert generate.main(command) == 0
    first = capsys.readouterr().out
    assert first.startswith("the ä") and first.endswith("\n")
    assert generate.main(command) == 0
    assert capsys.readouterr().out == first
    tokenizer = gateloop.load(text_run).tokenizer
    assert tokenizer is not None
    prompt = [int(token) for token in tokenizer.encode("the ä")]
    drawn = islice(tokens(gateloop.load(text_run).model, prompt, options("--seed", "1")), 25)
    assert first == "the ä" + tokenizer.decode(drawn) + "\n"


@pytest.fixture(scope="module")
def marked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on lines that a mark, token 256, follows."""
    return train_on_text(tmp_path_factory.mktemp("marked"), "data.line_end=end_of_text")


@pytest.mark.parametrize(
    ("given", "read"),
    [([], [256]), (["--prompt", "a\n\nb\nc"], [97, 10, 256, 98, 10, 256, 99])],
)
def test_the_prompt_of_a_run_on_marked_lines(
    given: list[str], read: list[int], marked_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[1])
        return tokens(*arguments)

    monkeypatch.setattr(generate, "tokens", watched)
    assert generate.main([str(marked_run), "--tokens", "3", *given]) == 0
    assert seen == [read]


def test_the_page_loads_a_run(text_run: Path, root: Path) -> None:
    page = (root / "docs/model.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n([^`]*gateloop\.load[^`]*)```", page)
    names: dict[str, Any] = {}
    exec(snippet.replace("runs/<id>", str(text_run)), names)
    assert isinstance(names["model"], LanguageModel) and not names["model"].training
    assert names["tokenizer"].name == "byte" and names["config"].model.d_model == 16


def test_a_run_without_text(tmp_path: Path) -> None:
    from tests.training.small import config, train

    train(config("trainer.max_steps=1"), tmp_path)
    with pytest.raises(InputError, match="was trained on memory_horizon, which is no text"):
        generate.main([str(tmp_path / "run")])


def test_a_run_whose_parts_do_not_fit(text_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    text = (run / "config.yaml").read_text(encoding="utf-8")
    wider = re.sub(r"d_model: 16", "d_model: 32", text)
    (run / "config.yaml").write_text(wider, encoding="utf-8")
    with pytest.raises(InputError, match=r"does not describe the checkpoint \(size mismatch") as e:
        gateloop.load(run)
    assert "\n" not in str(e.value)
    (run / "config.yaml").write_text(text, encoding="utf-8")
    shutil.rmtree(run / "tokenizer")
    with pytest.raises(InputError, match=r"tokenizer\.json.* saved its tokeniser in") as e:
        gateloop.load(run)
    assert "\n" not in str(e.value)


def test_a_prompt_without_tokens(text_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = gateloop.load(text_run)
    assert loaded.tokenizer is not None
    monkeypatch.setattr(type(loaded.tokenizer), "encode", lambda *_: [])
    with pytest.raises(InputError, match="no byte token"):
        generate.main([str(text_run), "--prompt", " "])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tokens 0", "--tokens 0: must be at least 1"),
        ("--tokens many", "--tokens: invalid int value: 'many'"),
        ("--temperature -1", "--temperature -1.0: must be 0 or more"),
        ("--temperature nan", "--temperature nan: must be"),
        ("--temperature inf", "--temperature inf: must be"),
        ("--top-k 0", "--top-k 0: must be at least 1"),
        ("--top-p 0", "--top-p 0.0: must be above 0 and at most 1"),
        ("--top-p 1.01", "--top-p 1.01: must be"),
        ("--samples 0", "--samples 0: must be at least 1"),
        (f"--samples 2 --seed {2**63 - 1}", "--seed 9223372036854775807: with --samples 2"),
        ("--seed -1", "--seed -1: must be 0 or more"),
        (f"--seed {2**70}", "--seed 11805"),
        ("--prompt \udcff", "--prompt '.udcff': must be UTF-8"),
        ("--colour red", "unrecognized arguments: --colour red"),
    ],
)
def test_bad_arguments(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(["runs/x", *arguments.split(" ")])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not empty"):
        parse(["runs/x", "--prompt", ""])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is not a run's folder: it has no config.yaml"),
        (["nowhere", "--top-p", "2"], "--top-p 2.0: must be above 0 and at most 1"),
    ],
)
def test_the_command_refuses_in_one_line(
    arguments: list[str], said: str, root: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateloop.generate", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr == f"gateloop: {said}\n"
