"""Records: what is kept of a run for good, one small JSON file each, and where they are found."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateloop.experiment.plan import key_of
from gateloop.files import clear_disk_errors, write_json_atomic

POINTS = 100  # of a curve, at most
PLACES = 64  # of scores by position or distance, at most
ENDED = ("finished", "diverged")
FAILURE = "failure.json"

_SESSION = ("time", "commit", "dirty", "changed", "processor", "cores", "python", "packages")


@dataclass(frozen=True)
class Record:
    """A run that has ended, as ``where`` holds it."""

    where: Path
    content: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.content["id"])

    @property
    def key(self) -> str:
        return key_of(self.content["identity"])

    @property
    def finished(self) -> bool:
        return self.content["status"] == "finished"

    @property
    def causal(self) -> bool:
        return self.content.get("causal") is not False

    def metric(self, name: str) -> float | None:
        """None where the run has no such metric or no finite number for it."""
        value = self.content.get("metrics", {}).get(name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if is_number and math.isfinite(value) else None

    def lowest(self, name: str) -> float:
        """The lowest value of a validation's metric; infinity where it diverged or has none."""
        if not self.finished:
            return math.inf
        values = self.content.get("curves", {}).get(name, {}).get("values", [])
        return min((v for v in values if v is not None), default=math.inf)


def load_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Every record in ``folder``, and a line for each file that is none.

    A damaged file hides no other.
    """
    records, faults = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            records.append(_checked(Record(path, content)))
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            faults.append(f"{path}: no record ({reason}); restore it, or delete it to run again")
    return records, faults


def _checked(record: Record) -> Record:
    content = record.content
    if not isinstance(content, dict):
        raise ValueError("not an object")
    shapes = {"id": str, "identity": dict, "status": str, "seed": int, "metrics": dict}
    for name, shape in shapes.items():
        if not isinstance(content.get(name), shape):
            raise ValueError(f"{name} is missing or of another type")
    if content["status"] not in ENDED:
        raise ValueError(f"status is {content['status']!r}")
    return record


# -- from a run's folder -----------------------------------------------------------------


def run_folders(runs_dir: Path) -> Iterator[Path]:
    if runs_dir.is_dir():
        with os.scandir(runs_dir) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        yield from (runs_dir / name for name in names)


def of_run(folder: Path) -> dict[str, Any] | None:
    """The record of the run in ``folder``; None where it has not ended.

    Raises ValueError where its files cannot be read.
    """
    summary = _json(folder / "summary.json")
    if summary.get("status") not in ENDED:
        return None
    manifest = _json(folder / "manifest.json")
    session = (manifest.get("sessions") or [{}])[-1]
    return {
        **summary,
        "metrics": summary.get("metrics", {}),
        "identity": manifest.get("identity", {}),
        "command": session.get("command"),
        **{name: session[name] for name in _SESSION if name in session},
        "facts": manifest.get("data", {}),
        "curves": _curves(folder / "metrics.jsonl"),
        "places": {
            name: {by: _binned(scores[by]) for by in ("by_position", "by_distance")}
            for name, scores in _json(folder / "test.json").items()
        },
    }


def keep(content: dict[str, Any], folder: Path) -> Record:
    """Write a record into ``folder``, whole."""
    path = folder / f"{content['id']}.json"
    with clear_disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, content)
    return Record(path, content)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the run."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content


def _curves(path: Path) -> dict[str, dict[str, list[float | None]]]:
    """Steps and values of every metric of metrics.jsonl; training's thinned to POINTS."""
    found: dict[str, tuple[list[float | None], list[float | None]]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for row in map(json.loads, lines):
        for name, value in row.items():
            if name in ("train/loss", "val/loss", "val/accuracy"):
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return {
        name: {"steps": _thinned(steps), "values": _thinned(values)}
        for name, (steps, values) in found.items()
    }


def _thinned(values: list[Any]) -> list[Any]:
    """Evenly spaced ones, the last among them."""
    stride = math.ceil(len(values) / POINTS)
    return values[::-1][::stride][::-1] if stride > 1 else values


def _binned(scores: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Mean loss and accuracy over at most PLACES stretches of equal length, weighted by count."""
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
        "from": list(starts),
        "loss": [_rounded(v) for v in means(scores["loss"])],
        "accuracy": [_rounded(v) for v in means(scores["accuracy"])],
        "count": [sum(counts[start : start + width]) for start in starts],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
