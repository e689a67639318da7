"""Published numbers, results/reported.yaml: each with its source, never mixed with measured ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateloop.document import load

FILE = "reported.yaml"


@dataclass
class Reported:
    """A number that somebody else published. ``confidence``: known, derived or recalled."""

    key: str
    metric: str
    value: float
    model: str
    source: str
    size: str = ""
    tokenizer: str = ""
    protocol: str = ""
    confidence: str = "known"
    url: str | None = None


@dataclass
class ReportedFile:
    numbers: list[Reported]


def load_reported(results: Path) -> dict[str, dict[str, Reported]]:
    """Published numbers by key and metric; none where there is no file.

    Raises InputError where the file is not what the schema says.
    """
    path = results / FILE
    if not path.exists():
        return {}
    found: dict[str, dict[str, Reported]] = {}
    for number in load(ReportedFile, path).numbers:
        found.setdefault(number.key, {})[number.metric] = number
    return found
