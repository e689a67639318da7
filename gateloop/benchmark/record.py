"""A benchmark's record: everything that was timed on one device, and what it was timed on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gateloop.benchmark.cell import What
from gateloop.benchmark.entry import version
from gateloop.benchmark.ratio import ratio, spread
from gateloop.errors import InputError
from gateloop.files import clear_disk_errors, write_json_atomic
from gateloop.training.provenance import session

PEERS = ("gateloop-transformer", "jax", "accelerated-scan", "flash-linear-attention")
SWITCHES = ("GATELOOP_KERNELS", "GATELOOP_KEEP_PAGES")  # which the recurrence listens to
DEVICES = ("cpu", "cuda")
_KEPT = ("commit", "dirty", "python", "packages", "platform", "processor", "cores")

Record = dict[str, Any]


def make(
    what: What, device: str, outcomes: list[dict[str, Any]], command: list[str], **options: Any
) -> Record:
    """``outcomes``: of the cells, in order; ``options``: threads, repeats, processes, quick."""
    facts = session()
    return {
        "benchmark": what.value,
        "device": device,
        "command": [_named(argument) for argument in command],
        **options,
        **{name: facts[name] for name in _KEPT},
        "environment": {name: os.environ[name] for name in SWITCHES if name in os.environ},
        "peers": {name: version(name) for name in PEERS},
        "cells": [_with_statistics(_published(outcome)) for outcome in outcomes],
    }


def _with_statistics(outcome: dict[str, Any]) -> dict[str, Any]:
    """For whoever reads the file: the page computes the same from the seconds."""
    parts = []
    for part in outcome.get("parts", []):
        seconds = seconds_by_label(part)
        entries = []
        for entry in part["entries"]:
            found = spread(entry.get("seconds", []))
            if found:
                entry = {**entry, "median": found.median, "quartiles": [found.low, found.high]}
                for name in ("reference", "limit"):
                    against = seconds.get(part.get(name, ""))
                    if against:
                        entry[f"ratio_to_{name}"] = ratio(entry["seconds"], against)
            entries.append(entry)
        parts.append({**part, "entries": entries})
    return {**outcome, "parts": parts} if parts else outcome


def _published(outcome: dict[str, Any]) -> dict[str, Any]:
    cell = outcome["cell"]
    settings = {
        key: _named(value) if key in ("text", "gpt2") else value
        for key, value in cell["settings"].items()
    }
    return {**outcome, "cell": {**cell, "settings": settings}}


def _named(given: str) -> str:
    """Of a place on this machine, its name: records are published."""
    return Path(given).name if Path(given).is_absolute() else given


def seconds_by_label(part: dict[str, Any]) -> dict[str, list[float | None]]:
    return {e["label"]: e["seconds"] for e in part["entries"] if "seconds" in e}


def path(folder: Path, what: What, device: str) -> Path:
    return folder / f"{what.value}_{device}.json"


def write(folder: Path, record: Record) -> None:
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        name = path(folder, What(record["benchmark"]), record["device"])
        write_json_atomic(name, record)


def load(folder: Path) -> dict[tuple[What, str], Record]:
    """Those in ``folder``. Raises InputError for one that cannot be read."""
    found = {}
    for what in What:
        for device in DEVICES:
            name = path(folder, what, device)
            if not name.is_file():
                continue
            try:
                record = json.loads(name.read_text(encoding="utf-8"))
                if (record["benchmark"], record["device"]) != (what.value, device):
                    raise ValueError("of another benchmark")
                _ = [outcome["cell"]["kind"] for outcome in record["cells"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise damaged(name, error) from error
            found[what, device] = record
    return found


def damaged(name: Path, error: Exception) -> InputError:
    said = " ".join(str(error).split())
    return InputError(f"{name} is no record of a benchmark ({said}); remove it and measure again")
