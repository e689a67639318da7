"""Records: what is kept of a run for good, one small JSON file each, and where they are found."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gateloop.config import DataConfig
from gateloop.experiment.corpus import is_of
from gateloop.experiment.plan import recipe_of
from gateloop.files import clear_disk_errors, write_text_atomic

POINTS = 50  # of a curve, at most
PLACES = 32  # of scores by position or distance, at most
ENDED = ("finished", "diverged")
FAILURE = ".failure.json"  # hidden: a new run may begin where it lies
# what reading a file of somebody else's making may raise
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

_SESSION = ("time", "commit", "dirty", "changed", "processor", "cores", "python", "packages")
# arguments that say where something lies on the machine that ran, and nothing of the result
_PLACES = ("runs_dir", "data.path", "data.tokenizer_path", "data.cache_dir")
_NUMBERS = {int, float, type(None)}
_CURVES = ("train/loss", "val/loss", "val/accuracy")
_REQUIRED = {"id": str, "identity": dict, "status": str, "seed": int, "data": str, "metrics": dict}
_OPTIONAL = {
    **dict.fromkeys(("commit", "device", "processor", "mode"), str),
    **dict.fromkeys(("parameters", "tokens_seen", "steps"), int),
    **dict.fromkeys(("train_seconds", "tokens_per_second"), (int, float)),
    "curves": dict,
    "facts": dict,
}


@dataclass(frozen=True)
class Record:
    """A run that has ended, as ``where`` holds it."""

    where: Path
    content: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.content["id"])

    @cached_property
    def recipe(self) -> str:
        return recipe_of(self.content["identity"])

    def is_of(self, data: DataConfig) -> bool:
        """Whether it was made from the text that ``data`` names."""
        facts = self.content.get("facts") or {}
        return is_of(data, self.content["identity"].get("fingerprint"), facts.get("file"))

    @property
    def finished(self) -> bool:
        return self.content["status"] == "finished"

    @property
    def causal(self) -> bool:
        return self.content.get("causal") is not False

    def metric(self, name: str) -> float | None:
        """None where the run has no such metric or no finite number for it."""
        value = self.content["metrics"].get(name)
        return float(value) if _is_finite(value) else None

    def lowest(self, name: str) -> float:
        """The lowest value of a validation's metric after the first step; infinity where the run
        diverged or has none."""
        if not self.finished:
            return math.inf
        curve = (self.content.get("curves") or {}).get(name, {"steps": [], "values": []})
        points = zip(curve["steps"], curve["values"], strict=True)
        return min((v for step, v in points if step and _is_finite(v)), default=math.inf)


def load_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Every record in ``folder``, and a line for each file that is none, or is named for another.

    A damaged file hides no other.
    """
    records, faults = [], []
    with _no_garbage_collection():
        for path in sorted(folder.glob("*.json")):
            try:
                content = json.loads(path.read_bytes())
                record = checked(Record(path, content))
            except UNREADABLE as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                faults.append(
                    f"{path}: no record ({reason}); restore it, or delete it to run again"
                )
                continue
            if path.name == f"{record.id}.json":
                records.append(record)
            else:  # a copy: it and its original would both be the run's one record
                faults.append(f"{path}: holds the record of {record.id}; rename or delete it")
    return records, faults


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What is read meanwhile is left out of later collections too: of ten thousand records they
    take longer than the reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def checked(record: Record) -> Record:
    """The record, which can now be shown. Raises ValueError for the first thing wrong with it."""
    content = record.content
    if not isinstance(content, dict):
        raise ValueError("not an object")
    for name, kind in _REQUIRED.items():
        if not _is(content.get(name), kind):
            raise ValueError(f"{name} is missing or of another type")
    for name, kinds in _OPTIONAL.items():
        if content.get(name) is not None and not _is(content[name], kinds):
            raise ValueError(f"{name} is of another type")
    if content["status"] not in ENDED:
        raise ValueError(f"status is {content['status']!r}")
    if not re.fullmatch(r"\w[\w.+-]*", content["id"]):  # it names a file
        raise ValueError(f"{content['id']!r} is no id")
    if record.finished and not isinstance(content.get("causal"), bool):
        raise ValueError("causal is missing, the outcome of the causality audit")
    for name, curve in (content.get("curves") or {}).items():
        steps, values = curve["steps"], curve["values"]
        if len(steps) != len(values) or not {*map(type, steps), *map(type, values)} <= _NUMBERS:
            raise ValueError(f"curves.{name} is no list of steps and one of values")
    return record


def _is(value: Any, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is(value, (int, float)) and abs(value) <= sys.float_info.max


def keep(content: dict[str, Any], folder: Path) -> Record:
    """Write a record into ``folder``, whole."""
    path = folder / f"{content['id']}.json"
    with clear_disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, as_text(content))
    return Record(path, content)


def as_text(content: dict[str, Any]) -> str:
    """JSON with a line for each entry, and for each of an entry's own: short, and good to diff."""
    entries = []
    for name, value in content.items():
        shown = json.dumps(value)
        if isinstance(value, dict) and value:
            lines = [f"    {json.dumps(key)}: {json.dumps(part)}" for key, part in value.items()]
            shown = "{\n" + ",\n".join(lines) + "\n  }"
        entries.append(f"  {json.dumps(name)}: {shown}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


# -- from a run's folder -----------------------------------------------------------------


def run_folders(runs_dir: Path) -> Iterator[Path]:
    if runs_dir.is_dir():
        with os.scandir(runs_dir) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        yield from (runs_dir / name for name in names)


def of_run(folder: Path) -> dict[str, Any] | None:
    """The record of the run in ``folder``; None where it has not ended.

    Raises one of UNREADABLE where its files are not what a run writes.
    """
    summary = read_json(folder / "summary.json")
    if summary.get("status") not in ENDED:
        return None
    manifest = read_json(folder / "manifest.json")
    session = (manifest.get("sessions") or [{}])[-1]
    return {
        **summary,
        "metrics": summary.get("metrics", {}),
        "identity": manifest["identity"],
        "command": [a for a in session.get("command", []) if a.partition("=")[0] not in _PLACES],
        **{name: session[name] for name in _SESSION if name in session},
        "facts": manifest.get("data", {}),
        "curves": _curves(folder / "metrics.jsonl"),
        "places": {
            f"{name} {by}".strip(): _binned(scores[by])
            for name, scores in read_json(folder / "test.json").items()
            for by in ("by_position", "by_distance")
        },
    }


def read_json(path: Path) -> dict[str, Any]:
    """What ``path`` holds; {} where there is no such file. Raises ValueError where it is none."""
    content = json.loads(path.read_bytes()) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content


def _curves(path: Path) -> dict[str, dict[str, list[float | None]]]:
    """Steps and values of the metrics that a curve shows; training's thinned to POINTS."""
    found: dict[str, tuple[list[float | None], list[float | None]]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for row in map(json.loads, lines):
        for name in _CURVES:
            if name in row:
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(_rounded(row[name]))
    return {
        name: {"steps": _thinned(steps), "values": _thinned(values)}
        if name == "train/loss"
        else {"steps": steps, "values": values}
        for name, (steps, values) in found.items()
    }


def _thinned(values: list[Any]) -> list[Any]:
    """Evenly spaced ones, the last among them."""
    stride = math.ceil(len(values) / POINTS)
    return values[::-1][::stride][::-1] if stride > 1 else values


def _binned(scores: dict[str, list[float | None]]) -> dict[str, Any]:
    """Mean loss and accuracy over at most PLACES stretches of ``width``, weighted by count."""
    counts = [count or 0.0 for count in scores["count"]]
    width = max(1, math.ceil(len(counts) / PLACES))
    starts = range(0, len(counts), width)

    def means(values: list[float | None]) -> Iterable[float | None]:
        for start in starts:
            stretch = slice(start, start + width)
            total = sum(counts[stretch])
            pairs = zip(values[stretch], counts[stretch], strict=True)
            yield sum((v or 0.0) * c for v, c in pairs) / total if total else None

    return {
        "width": width,
        "loss": [_rounded(v) for v in means(scores["loss"])],
        "accuracy": [_rounded(v) for v in means(scores["accuracy"])],
        "count": [sum(counts[start : start + width]) for start in starts],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
