"""Published numbers, results/reported.yaml: each with its source, never mixed with measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gateloop.document import load
from gateloop.errors import InputError
from gateloop.files import packed

FILE = "reported.yaml"


class Confidence(Enum):
    """``known``: seen in the source; ``derived`` from it; ``recalled``: from memory."""

    known = "known"
    derived = "derived"
    recalled = "recalled"


@dataclass
class Reported:
    """A number that somebody else published. ``comparable``: of the same task as our runs."""

    key: str
    metric: str
    value: float
    model: str
    source: str
    size: str = ""
    tokenizer: str = ""
    protocol: str = ""
    confidence: Confidence = Confidence.known
    url: str | None = None
    comparable: bool = True


@dataclass
class ReportedFile:
    numbers: list[Reported]


def load_reported(results: Path) -> dict[str, dict[str, Reported]]:
    """Published numbers by key and metric: those of ``results``, else those that are shipped.

    Raises InputError where the file is not what the schema says.
    """
    path = results / FILE
    path = path if path.exists() else packed("results") / FILE
    found: dict[str, dict[str, Reported]] = {}
    for i, number in enumerate(load(ReportedFile, path).numbers):
        if not math.isfinite(number.value):
            raise InputError(f"{path}: numbers[{i}].value: {number.value}; must be finite")
        by_metric = found.setdefault(number.key, {})
        if number.metric in by_metric:
            raise InputError(
                f"{path}: numbers[{i}]: {number.key} has {number.metric} already; keep one"
            )
        by_metric[number.metric] = number
    return found
