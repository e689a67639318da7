"""A cell: what one process measures. Which cells a benchmark has, and how a cell gets its process.

Knows no torch: the process that plans and draws does not measure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from gateloop.benchmark.entry import without_paths

LENGTHS = tuple(512 << i for i in range(8))  # 512 … 65,536
STEP_TOKENS = 4096  # at least: the weights' own cost, whatever the length, is shared by as many
DECODED = (256, 2048, 8192, 65536)
BYTES, GPT2 = 256, 50257  # vocabularies


class What(Enum):
    """The benchmarks, by the name of ``--what``."""

    recurrence = "recurrence"
    step = "step"
    decode = "decode"
    tokenize = "tokenize"


@dataclass(frozen=True)
class Cell:
    """``kind``: which problem of the benchmark; ``sizes``: its shape.

    ``settings``: what else there is to it; ``against``: the length of the sequences that the same
    tokens are cut into for the step beside it, whose time is the measure of linear cost.
    ``allocator``: under ``default`` the C library's is as the process finds it and as
    gateloop.recurrence, once used, sets it for all; ``untouched`` forbids that; ``tuned`` sets it
    at the start, as a training run does.
    """

    what: What
    kind: str
    sizes: dict[str, int]
    device: str = "cpu"
    threads: int = 1
    repeats: int = 3
    allocator: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """ "max_headed: batch 4, length 1,024, channels 512" """
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items())
        settings = [str(self.settings[key]) for key in ("size", "dtype") if key in self.settings]
        return ", ".join([f"{self.kind}: {sizes}" if sizes else self.kind, *settings])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "what": self.what.value}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Cell:
        return cls(**{**content, "what": What(content["what"])})


# -- planning ----------------------------------------------------------------------------


def plan(
    what: What, device: str, threads: int, repeats: int, quick: bool, settings: dict[str, Any]
) -> list[Cell]:
    """The cells of a benchmark in the order in which they are measured.

    ``quick`` gives every kind of cell in a tiny shape, to see that all of it works.
    """
    make = {
        What.recurrence: _recurrence,
        What.step: _step,
        What.decode: _decode,
        What.tokenize: _tokenize,
    }[what]
    common: dict[str, Any] = {
        "what": what,
        "device": device,
        "threads": threads,
        "repeats": repeats,
    }
    return [Cell(**{**common, **cell}) for cell in make(device == "cuda", quick, settings)]


def _recurrence(cuda: bool, quick: bool, _: dict[str, Any]) -> list[dict[str, Any]]:
    shapes = [(4, 1024, 512), (1, 16384, 256)]
    outer = {"batch": 1, "length": 1024, "heads": 4, "d_key": 64, "d_value": 64}
    lengths, channels, dtypes, allocators = LENGTHS, 256, ["float32"], ["default", "untouched"]
    if cuda:  # torch has an allocator of its own there
        shapes, channels = [(8, 4096, 1024), *shapes], 1024
        dtypes, allocators = ["float32", "bfloat16"], ["default"]
    if quick:
        shapes, lengths, channels, allocators = [(2, 8, 4)], (4, 8), 2, ["default"]
        outer = {"batch": 1, "length": 8, "heads": 2, "d_key": 4, "d_value": 4}

    def elementwise(kind: str, dtype: str) -> list[dict[str, Any]]:
        return [
            {"kind": kind, "sizes": _named(shape), "allocator": allocator,
             "settings": {"dtype": dtype}}
            for shape in shapes
            for allocator in allocators
        ]  # fmt: skip

    cells = [cell for dtype in dtypes for cell in elementwise("max_headed", dtype)]
    cells += elementwise("linear_scan", "complex64")
    cells += [{"kind": "outer", "sizes": outer, "allocator": each} for each in allocators]
    return cells + [
        {"kind": "by_length", "sizes": _named((1, length, channels))} for length in lengths
    ]


def _named(shape: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("batch", "length", "channels"), shape, strict=True))


def _step(cuda: bool, quick: bool, _: dict[str, Any]) -> list[dict[str, Any]]:
    settings = {"size": "125m", "dtype": "bfloat16"} if cuda else {"size": "small"}
    shapes = [(4, 1024, BYTES), (1, 4096, BYTES), (4, 1024, GPT2)]
    lengths = LENGTHS
    if cuda:
        shapes = [(16, 1024, GPT2), (2, 8192, GPT2)]
    if quick:
        settings, shapes, lengths = {"size": "tiny"}, [(1, 8, 16)], (4, 8)

    def cell(kind: str, batch: int, length: int, vocabulary: int) -> dict[str, Any]:
        sizes = {"batch": batch, "length": length, "vocabulary": vocabulary}
        return {"kind": kind, "sizes": sizes, "settings": settings, "allocator": "tuned"}

    cells = [cell("models", *shape) for shape in shapes]
    if not cuda:
        narrow = settings | {"dtype": "bfloat16"}
        cells += [cell("models", *shape) | {"settings": narrow} for shape in shapes[:2]]
    tokens = lengths[0] if quick else STEP_TOKENS
    first = cell("by_length", tokens // lengths[0], lengths[0], BYTES)
    longer = [cell("by_length", max(1, tokens // length), length, BYTES) for length in lengths[1:]]
    against = {"settings": settings | {"against": lengths[0]}}
    return [*cells, first, *(each | against for each in longer)]


def _decode(cuda: bool, quick: bool, _: dict[str, Any]) -> list[dict[str, Any]]:
    settings = {"size": "tiny" if quick else "small", "lengths": [4, 8] if quick else list(DECODED)}
    batches = (2,) if quick else (1, 64 if cuda else 16)
    return [{"kind": "tokens", "sizes": {"batch": n}, "settings": settings} for n in batches]


def _tokenize(cuda: bool, quick: bool, given: dict[str, Any]) -> list[dict[str, Any]]:
    settings = {"generated_bytes": 20_000 if quick else 4_000_000, **given}
    settings |= {"vocabulary": 300 if quick else 8192}
    return [{"kind": "text", "sizes": {}, "settings": settings}]


# -- measuring ---------------------------------------------------------------------------


def measured(cell: Cell) -> dict[str, Any]:
    """The outcome of ``cell``, from a process of its own; {"failed": why} where that ended ill."""
    command = [sys.executable, "-m", "gateloop.benchmark.process"]
    done = subprocess.run(
        command, input=json.dumps(cell.to_json()), capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return {"cell": cell.to_json(), **json.loads(lines[-1])}
    said = done.stderr.strip().splitlines()
    reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else "crashed"
    return {"cell": cell.to_json(), "failed": without_paths(": ".join([reason, *said[-1:]]))}


def joined(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """The outcome of a cell that several processes measured: the rounds of all, in order.

    A process that ended ill is the outcome. A contestant that one process could not measure has no
    time, and the reason.
    """
    failed = next((each for each in outcomes if "failed" in each), None)
    if failed or len(outcomes) == 1:
        return failed or outcomes[0]
    parts = []
    for same in zip(*(each["parts"] for each in outcomes), strict=True):
        alone: dict[str, list[float | None]] = {}
        for part in same:
            for label, seconds in part.get("alone", {}).items():
                alone.setdefault(label, []).extend(seconds)
        entries = [_joined(each) for each in zip(*(part["entries"] for part in same), strict=True)]
        parts.append({**same[0], "entries": entries, **({"alone": alone} if alone else {})})
    return {**outcomes[0], "parts": parts, "peak_MiB": max(each["peak_MiB"] for each in outcomes)}


def _joined(entries: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    absent = next((each for each in entries if "seconds" not in each), None)
    if absent is not None:
        return absent
    return {**entries[0], "seconds": [t for each in entries for t in each["seconds"]]}


def readable_text(path: Path) -> str | None:
    """Why ``path`` cannot be tokenised, or None."""
    try:
        with path.open(encoding="utf-8") as file:
            first = file.read(1 << 16)
    except OSError as error:
        return f"{(error.strerror or str(error)).lower()}"
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    return None if first.strip() else "holds no text"
