"""What became of each contestant of a part: its times, or why it has none."""

from __future__ import annotations

import importlib.metadata
import re
from enum import Enum
from typing import Any

from gateloop.benchmark.clock import Run, Timer, rounds, warm

NOT_INSTALLED = "not installed"


class Role(Enum):
    ours = "ours"
    limit = "limit"
    loop = "loop"
    peer = "peer"


def entry(label: str, role: Role, **facts: Any) -> dict[str, Any]:
    """A contestant's entry before it is measured."""
    return {"label": label, "role": role.value, "state": "measured", "facts": facts}


def absent(label: str, role: Role, why: str) -> dict[str, Any]:
    return {"label": label, "role": role.value, "state": why, "facts": {}}


def version(distribution: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_missing(distribution: str) -> bool:
    """Whether a peer's distribution is not installed; our own may run from a mere checkout."""
    return distribution != "gateloop" and version(distribution) is None


def why_not(error: BaseException) -> str:
    """One line that says why a contestant does not run here."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"does not run here ({type(error).__name__}: {without_paths(first)[:160]})"


def without_paths(text: str) -> str:
    """Records are published: they name no folder of the machine."""
    return re.sub(r" ?\(?(?<![\w.])/[\w.-]+(/[\w.-]+)+\)?", "", text)


def part(
    title: str,
    entries: list[dict[str, Any]],
    runs: dict[str, Run],
    repeats: int,
    timer: Timer,
    **facts: Any,
) -> dict[str, Any]:
    """One table's worth: the entries, those among ``runs`` with their seconds by round.

    A contestant that fails at full size, though it passed its trial, is left out with its reason.
    """
    entries = [dict(each) for each in entries]
    for each in entries:
        if each["state"] != "measured":
            continue
        try:
            warm(runs[each["label"]], timer)
        except Exception as error:  # whatever a peer raises, most likely out of memory
            each["state"] = why_not(error)
    able = {e["label"]: runs[e["label"]] for e in entries if e["state"] == "measured"}
    times = rounds(able, repeats, timer)
    for each in entries:
        if each["label"] in times:
            each["seconds"] = [None if t is None else round(t, 9) for t in times[each["label"]]]
    return {"title": title, **facts, "entries": entries}
