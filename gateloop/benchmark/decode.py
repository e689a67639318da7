"""Time per token and bytes of state after so many tokens: GateLoop's state, attention's cache."""

from __future__ import annotations

from typing import Any

import torch

from gateloop.benchmark.cell import BYTES, Cell
from gateloop.benchmark.clock import Run, until_done
from gateloop.benchmark.entry import Role, absent, entry, part
from gateloop.compose import compose
from gateloop.generate import PREFILL
from gateloop.models import build
from gateloop.models.language_model import LanguageModel
from gateloop.models.time_mixer import State
from gateloop.models.transformer import Attention

TOKENS = 8  # decoded in one call
# The noise, and the memory with room behind it that the first step makes of it.
COPIES = 3


def measure(cell: Cell) -> dict[str, Any]:
    batch, lengths = cell.sizes["batch"], cell.settings["lengths"]
    entries: list[dict[str, Any]] = []
    runs: dict[str, Run] = {}
    with torch.inference_mode():
        for name, title, role in (
            ("gateloop", "GateLoop", Role.ours),
            ("transformer", "Transformer", Role.peer),
        ):
            model = _model(name, cell)
            for length, state in zip(lengths, _states(model, batch, lengths), strict=True):
                label = f"{title} after {length:,} tokens"
                if state is None:
                    entries.append(absent(label, role, "its cache does not fit in memory"))
                    entries[-1]["facts"] = {"model": title, "after": length}
                    continue
                runs[label] = _decoding(model, batch, state)
                facts = {"model": title, "after": length, "state_bytes": size(state)}
                entries.append(entry(label, role, tokens=TOKENS, **facts))
        reference = entries[0]["label"]
        title = f"{TOKENS} tokens of each of {batch} sequences"
        done = part(
            title, entries, runs, cell.repeats, until_done(cell.device), reference=reference
        )
    return {"parts": [done]}


def _model(name: str, cell: Cell) -> LanguageModel:
    config = compose([f"model={name}", f"size={cell.settings['size']}", "tracker=none"])
    torch.manual_seed(0)
    return build(config.model, BYTES, BYTES).to(cell.device).eval()


def _states(model: LanguageModel, batch: int, lengths: list[int]) -> list[State | None]:
    if isinstance(model.mixers[0], Attention):
        return [_cache(model, batch, length) for length in lengths]
    return [
        tuple(part.expand(batch, *part.shape[1:]).contiguous() for part in state)
        for state in _read(model, lengths)
    ]


def _read(model: LanguageModel, lengths: list[int]) -> list[State]:
    """The state of one sequence after each of ``lengths`` random tokens."""
    device = model.embedding.weight.device
    state: State | None = None
    done, found = 0, []
    for length in lengths:
        while done < length:
            some = min(PREFILL, length - done)
            tokens_BL = torch.randint(0, BYTES, (1, some), device=device)
            state, done = model(tokens_BL, state)[1], done + some
        assert state is not None
        found.append(state)
    return found


def _cache(model: LanguageModel, batch: int, length: int) -> State | None:
    """A cache of so many steps, filled with noise: its time does not depend on what it holds.

    None where it does not fit, counting the copies that a step makes.
    """
    state: list[torch.Tensor] = []
    device = model.embedding.weight.device
    for mixer in model.mixers:
        assert isinstance(mixer, Attention)
        keys, values, live, *rest = mixer.init_state(batch)
        shape = (*keys.shape[:2], length, keys.shape[3])
        needed = 2 * len(model.mixers) * keys.element_size() * torch.Size(shape).numel()
        if COPIES * needed > available(device):
            return None
        cached = (torch.randn(shape, dtype=t.dtype, device=device) for t in (keys, values))
        state += [*cached, live + length, *rest]
    return tuple(state)


def available(device: torch.device) -> int:
    """Bytes of memory that are free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":") for line in file)
        return 1024 * int(facts["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 1 << 62  # nobody says


def _decoding(model: LanguageModel, batch: int, state: State) -> Run:
    after = state

    def tokens() -> None:
        """Goes on from where the last call ended, as generation does."""
        nonlocal after
        token_B1 = torch.zeros(batch, 1, dtype=torch.int64, device=model.embedding.weight.device)
        with torch.inference_mode():
            for _ in range(TOKENS):
                logits_B1V, after = model(token_B1, after)
                token_B1 = logits_B1V.argmax(-1)

    return tokens


def size(state: State) -> int:
    return sum(part.numel() * part.element_size() for part in state)
