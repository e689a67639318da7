"""Text from a trained run, step by step, from a recurrence's state or attention's cache.

python -m gateloop.generate runs/<id> --prompt "…" --tokens 200
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateloop.command import Parser, run_command
from gateloop.errors import FINISHED, InputError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from gateloop.model_config import ModelConfig
    from gateloop.models.language_model import LanguageModel
    from gateloop.models.time_mixer import State

COLDEST = 1e-45  # what is below is 0 in float32
PREFILL = 1024  # prompt tokens read at once; the state between two pieces is all that is kept


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m gateloop.generate", description=__doc__)
    parser.add_argument("run", help="the run's folder, runs/<id>")
    parser.add_argument("--prompt", default="\n", help="text to go on from (default: a new line)")
    parser.add_argument("--tokens", type=int, default=200, help="how many to write (200)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest (1)")
    parser.add_argument("--top-k", type=int, help="only among the k likeliest")
    parser.add_argument("--top-p", type=float, help="only among the likeliest that sum to p")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same text (0)")
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        help="continuations in one batch; the i-th is that of --seed + i alone (1)",
    )
    options = parser.parse_args(argv)
    checks = {
        "--tokens": (options.tokens, options.tokens >= 1, "at least 1"),
        "--temperature": (options.temperature, 0 <= options.temperature < 1e6, "0 or more"),
        "--top-k": (options.top_k, options.top_k is None or options.top_k >= 1, "at least 1"),
        "--top-p": (
            options.top_p,
            options.top_p is None or 0 < options.top_p <= 1,
            "above 0 and at most 1",
        ),
        "--seed": (options.seed, 0 <= options.seed < 1 << 63, "0 or more, and below 2 to the 63rd"),
        "--samples": (options.samples, options.samples >= 1, "at least 1"),
        "--prompt": (repr(options.prompt), is_text(options.prompt), "UTF-8, and not empty"),
    }
    for name, (value, right, allowed) in checks.items():
        if not right:
            raise InputError(f"{name} {value}: must be {allowed}")
    if options.seed + options.samples > 1 << 63:
        raise InputError(
            f"--seed {options.seed}: with --samples {options.samples} the last seed must be below "
            "2 to the 63rd"
        )
    return options


def is_text(prompt: str) -> bool:
    """Whether it is anything, and free of the bytes that no UTF-8 has."""
    return bool(prompt) and not any("\ud800" <= character <= "\udfff" for character in prompt)


def sample(logits_V: Tensor, options: argparse.Namespace, generator: Generator) -> int:
    """One token from logits (vocabulary,), by temperature, then top-k, then top-p."""
    import torch

    if options.temperature < COLDEST:
        return int(logits_V.argmax())
    # Their differences alone count; the largest at 0 stays finite at any temperature.
    logits_V = (logits_V.float() - logits_V.max().float()) / options.temperature
    if options.top_k is not None and options.top_k < len(logits_V):
        likeliest, places = logits_V.topk(options.top_k)
        logits_V = torch.full_like(logits_V, -torch.inf).scatter(0, places, likeliest)
    probabilities_V = logits_V.softmax(-1)
    if options.top_p is not None:
        ordered, order = probabilities_V.sort(descending=True)
        # A token stays while those before it sum to less than p: the likeliest always does.
        unlikely = ordered.cumsum(0) - ordered >= options.top_p
        probabilities_V[order[unlikely]] = 0
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def read(model: LanguageModel, prompt: list[int]) -> tuple[Tensor, State]:
    """Logits (1, vocabulary) of what follows ``prompt``, and the state after it, of batch 1."""
    import torch

    *pieces, last = torch.tensor([prompt]).split(PREFILL, dim=1)
    state: State | None = None
    for piece in pieces:
        _, state = model.features(piece, state)
    x_BLD, after = model.features(last, state)
    return model.head(x_BLD[:, -1]), after


def batches(
    model: LanguageModel, prompt: list[int], options: argparse.Namespace
) -> Iterator[list[int]]:
    """Endless tokens after ``prompt``, of each of ``options.samples`` continuations.

    Memory and time per token do not grow. Attention is the exception where model.window is null:
    it keeps and looks at all there was. Learned positions end, with a ValueError. Continuation i
    draws from a generator of its own, of seed ``options.seed`` + i.
    """
    import torch

    count = options.samples
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(count)]
    with torch.inference_mode():
        logits_BV, state = read(model, prompt)
        logits_BV = logits_BV.expand(count, -1)
        state = tuple(part.expand(count, *part.shape[1:]).contiguous() for part in state)
        while True:
            pairs = zip(logits_BV, generators, strict=True)
            drawn = [sample(logits_V, options, generator) for logits_V, generator in pairs]
            yield drawn
            x_BLD, state = model.features(torch.tensor(drawn)[:, None], state)
            logits_BV = model.head(x_BLD[:, -1])


def tokens(model: LanguageModel, prompt: list[int], options: argparse.Namespace) -> Iterator[int]:
    """The first continuation of ``batches``, token by token."""
    return (drawn[0] for drawn in batches(model, prompt, options))


def check_positions(model: ModelConfig, prompt: int, steps: int) -> None:
    """Raise InputError where ``steps`` in all, with a prompt of ``prompt``, pass the last
    learned position."""
    last = model.learned_positions()
    if last and prompt > last:
        raise InputError(
            f"--prompt: its {prompt} tokens pass the run's {last} learned positions "
            f"(model.max_length={last}); give at most {last} tokens"
        )
    if last and steps > last:
        raise InputError(
            f"--tokens {steps - prompt + 1}: after a prompt of {prompt} tokens they pass the run's "
            f"{last} learned positions (model.max_length={last}); take at most {last - prompt + 1}"
        )


def main(argv: list[str]) -> int:
    options = parse(argv)
    from itertools import islice

    from gateloop.config import TextConfig
    from gateloop.data import encode_prompt
    from gateloop.loading import load
    from gateloop.recurrence.memory import keep_freed_pages

    keep_freed_pages()
    model, tokenizer, config = load(options.run)
    if tokenizer is None:
        raise InputError(f"{options.run} was trained on {config.data.name}, which is no text")
    assert isinstance(config.data, TextConfig)
    read = encode_prompt(tokenizer, options.prompt, config.data.line_end)
    prompt = [int(token) for token in read]
    if not prompt:
        raise InputError(f"--prompt {options.prompt!r}: no {tokenizer.name} token; give more text")
    # the last token is written and not read
    check_positions(config.model, len(prompt), len(prompt) + options.tokens - 1)
    if options.samples > 1:
        drawn = zip(*islice(batches(model, prompt, options), options.tokens), strict=True)
        for number, sequence in enumerate(drawn):
            text = "".join(tokenizer.decode_stream(sequence))
            print(f"--- sample {number}, seed {options.seed + number}\n{options.prompt}{text}")
        return FINISHED
    stream = islice(tokens(model, prompt, options), options.tokens)
    sys.stdout.write(options.prompt)
    for text in tokenizer.decode_stream(stream):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return FINISHED


if __name__ == "__main__":
    run_command(main, ends_with_reader=True)
