"""What became of each contestant of a part: its times, or why it has none."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from enum import Enum
from typing import Any

from gateloop.benchmark.clock import Run, rounds


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


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def why_not(error: BaseException) -> str:
    """One line that says why a contestant does not run here."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"does not run here ({type(error).__name__}: {first[:160]})"


def part(
    title: str,
    entries: list[dict[str, Any]],
    runs: dict[str, Run],
    repeats: int,
    wait: Callable[[], object],
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
            runs[each["label"]]()
            wait()
        except Exception as error:  # whatever a peer raises, most likely out of memory
            each["state"] = why_not(error)
    able = {e["label"]: runs[e["label"]] for e in entries if e["state"] == "measured"}
    times = rounds(able, repeats, wait)
    for each in entries:
        if each["label"] in times:
            each["seconds"] = times[each["label"]]
    return {"title": title, **facts, "entries": entries}
