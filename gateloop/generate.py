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
        "--prompt": (repr(options.prompt), is_text(options.prompt), "UTF-8, and not empty"),
    }
    for name, (value, right, allowed) in checks.items():
        if not right:
            raise InputError(f"{name} {value}: must be {allowed}")
    return options


def is_text(prompt: str) -> bool:
    """Whether it is anything, and free of the bytes that no UTF-8 has."""
    return bool(prompt) and not any("\ud800" <= character <= "\udfff" for character in prompt)


def sample(logits_V: Tensor, options: argparse.Namespace, generator: Generator) -> int:
    """One token from logits (vocabulary,), by temperature, then top-k, then top-p."""
    import torch

    if options.temperature == 0:
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


def tokens(model: LanguageModel, prompt: list[int], options: argparse.Namespace) -> Iterator[int]:
    """Endless samples after ``prompt``; memory and time per token do not grow.

    Attention is the exception where model.window is null: it keeps and looks at all there was.
    Learned positions end, with a ValueError.
    """
    import torch

    generator = torch.Generator().manual_seed(options.seed)
    state = None
    unread = torch.tensor([prompt])
    with torch.inference_mode():
        while True:
            *pieces, last = unread.split(PREFILL, dim=1)
            for piece in pieces:
                state = model(piece, state)[1]
            logits_BLV, state = model(last, state)
            token = sample(logits_BLV[0, -1], options, generator)
            yield token
            unread = torch.tensor([[token]])


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

    from gateloop.loading import load

    model, tokenizer, config = load(options.run)
    if tokenizer is None:
        raise InputError(f"{options.run} was trained on {config.data.name}, which is no text")
    prompt = [int(token) for token in tokenizer.encode(options.prompt)]
    if not prompt:
        raise InputError(f"--prompt {options.prompt!r}: no {tokenizer.name} token; give more text")
    # the last token is written and not read
    check_positions(config.model, len(prompt), len(prompt) + options.tokens - 1)
    stream = islice(tokens(model, prompt, options), options.tokens)
    sys.stdout.write(options.prompt)
    for text in tokenizer.decode_stream(stream):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return FINISHED


if __name__ == "__main__":
    run_command(main)
