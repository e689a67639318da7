"""The page of all benchmarks in GitHub's Markdown, from records alone: same records, same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import Any

from gateloop.benchmark.cell import Cell, What, plan
from gateloop.benchmark.ratio import ratio, spread
from gateloop.benchmark.record import DEVICES, Record, seconds_by_label
from gateloop.table.markdown import escaped

Rows = list[list[str]]

HEAD = """# Benchmarks

Made from the records beside it by `python -m gateloop.bench`, which measures them; with
`--from-records` it only draws this page anew. What is measured and how: docs/benchmarks.md.
Times are medians, quartiles in brackets. A ratio is the median over rounds of two times taken in
the same round, not the ratio of two medians."""

TITLES = {
    What.recurrence: "The recurrence",
    What.step: "A training step",
    What.decode: "Decoding",
    What.tokenize: "Tokenisers",
}
KINDS = {
    "max_headed": "`gate_loop`, a head for each channel",
    "linear_scan": "The bare complex scan",
    "outer": "`gate_loop`, heads of keys × values",
    "by_length": "Time against length",
}
DEVICE_NAMES = {"cpu": "CPU", "cuda": "GPU"}
NOT_MEASURED = "not measured"


def page(records: dict[tuple[What, str], Record], pictures: list[str]) -> str:
    """``pictures``: names of files beside the page."""
    blocks = [HEAD]
    for what, title in TITLES.items():
        blocks.append(f"## {title}")
        for device in DEVICES:
            blocks.append(f"### {DEVICE_NAMES[device]}")
            record = records.get((what, device))
            blocks += _missing(what, device) if record is None else _measured(what, record)
        if what is What.recurrence:
            blocks += [f"![Time against length]({name})" for name in pictures]
    return "\n\n".join(blocks) + "\n"


def _missing(what: What, device: str) -> list[str]:
    if (what, device) == (What.tokenize, "cuda"):
        return ["Tokenisers run on the CPU."]
    cells = plan(what, device, threads=1, repeats=1, quick=False, settings={})
    titles = list(dict.fromkeys(_planned(cell) for cell in cells))
    return [grid([["", "time"], *([title, NOT_MEASURED] for title in titles)])]


def _planned(cell: Cell) -> str:
    """A cell as it is named where nothing is measured; one for all of its lengths."""
    kind = KINDS.get(cell.kind, cell.kind)
    sizes = cell.sizes
    if cell.kind == "by_length":
        sizes = {name: size for name, size in sizes.items() if name not in ("batch", "length")}
    settings = cell.title.partition(": ")[2].split(", ")[len(cell.sizes) :]
    shown = [f"{name} {size:,}" for name, size in sizes.items()]
    return f"{kind}: {escaped(', '.join([*shown, *settings]))}"


def _measured(what: What, record: Record) -> list[str]:
    blocks = [_provenance(record)]
    if record["quick"]:
        blocks.append("**A quick run in tiny shapes: it shows that all works, its times nothing.**")
    tables: dict[What, Callable[[str, list[Any]], list[str]]] = {
        What.recurrence: _recurrence,
        What.step: _step,
        What.decode: _decode,
        What.tokenize: _tokenize,
    }
    for kind, cells in groupby(record["cells"], key=lambda outcome: outcome["cell"]["kind"]):
        outcomes = list(cells)
        able = [outcome for outcome in outcomes if "failed" not in outcome]
        blocks += tables[what](kind, able) if able else []
        for outcome in outcomes:
            if "failed" in outcome:
                title = escaped(Cell.from_json(outcome["cell"]).title)
                blocks.append(f"{title}: {escaped(outcome['failed'])}")
    return blocks


def _provenance(record: Record) -> str:
    commit = (record["commit"] or "of no checkout")[:12] + ("+" if record["dirty"] else "")
    peers = [f"{name} {there or 'not installed'}" for name, there in record["peers"].items()]
    accelerators = {cell["accelerator"] for cell in record["cells"] if cell.get("accelerator")}
    parts = [
        *sorted(accelerators),
        record["processor"],
        f"{record['threads']} of {record['cores']} cores",
        f"torch {record['packages'].get('torch')}",
        f"Python {record['python']}",
        f"commit {commit}",
        _rounds(record),
        *peers,
        *(f"{name}={value}" for name, value in record["environment"].items()),
    ]
    command = " ".join(record["command"])
    return f"{escaped('; '.join(str(part) for part in parts))}\n\n    {command}"


def _rounds(record: Record) -> str:
    processes, rounds = record.get("processes", 1), f"{record['repeats']} rounds"
    return rounds if processes == 1 else f"{rounds} in each of {processes} processes"


# -- the recurrence ----------------------------------------------------------------------


def _recurrence(kind: str, outcomes: list[Any]) -> list[str]:
    if kind == "by_length":
        return _by_length(outcomes)
    blocks = []
    for outcome in outcomes:
        cell = Cell.from_json(outcome["cell"])
        sizes = cell.title.partition(": ")[2]
        blocks.append(f"**{KINDS[kind]}**: {escaped(sizes)}; allocator {cell.allocator}")
        blocks += comparison(outcome["parts"])
        blocks += _alone(outcome)
    return blocks


def comparison(parts: list[Any]) -> list[str]:
    """A row for each contestant, three columns for each part: time, × ours, × the copy or loop."""
    head = [""]
    rows: dict[str, list[str]] = {}
    for part in parts:
        limited = "limit" in part
        head += [
            f"{part['title']}, ms",
            "× ours",
            *([f"× {part['limit_name']}"] if limited else []),
        ]
        seconds = seconds_by_label(part)
        for entry in part["entries"]:
            if entry["label"] not in _shown(parts):
                continue
            row = rows.setdefault(entry["label"], [escaped(entry["label"])])
            times = seconds.get(entry["label"])
            if times is None:
                row += [escaped(entry["state"]), "", *([""] if limited else [])]
                continue
            row += [milliseconds(times), _ratio(times, seconds.get(part["reference"]))]
            row += [_ratio(times, seconds.get(part["limit"]))] if limited else []
    return [grid([head, *rows.values()]), *_absent(parts)]


def _shown(parts: list[Any]) -> set[str]:
    """The contestants that have a time in any of the parts."""
    return {label for part in parts for label in seconds_by_label(part)}


def _absent(parts: list[Any]) -> list[str]:
    """A line for each reason for which contestants have no row: none is dropped silently."""
    shown = _shown(parts)
    by_state: dict[str, list[str]] = {}
    for part in parts:
        for entry in part["entries"]:
            labels = by_state.setdefault(entry["state"], [])
            if entry["label"] not in (*shown, *labels):
                labels.append(entry["label"])
    lines = [
        f"- {escaped(state)}: {escaped('; '.join(labels))}"
        for state, labels in by_state.items()
        if labels
    ]
    return ["\n".join(lines)] if lines else []


def _alone(outcome: Any) -> list[str]:
    """Ours before a peer was imported, that what they load or set may not be what makes it fast."""
    found = [
        f"{part['title']} {milliseconds(times)} ms"
        for part in outcome["parts"]
        for times in part.get("alone", {}).values()
    ]
    if not found:
        return []
    loaded = outcome.get("imported_before_ours")
    before = f"after {', '.join(loaded)}" if loaded else "before any peer was imported"
    return [f"Ours alone, {before}: {'; '.join(found)}."]


def _by_length(outcomes: list[Any]) -> list[str]:
    """A table for each pass: a row for each contestant, a column for each length."""
    blocks = [f"**{KINDS['by_length']}**: {escaped(_constant(outcomes))}; milliseconds"]
    lengths = [outcome["cell"]["sizes"]["length"] for outcome in outcomes]
    for place, first in enumerate(outcomes[0]["parts"]):
        parts = [outcome["parts"][place] for outcome in outcomes]
        rows = [[first["title"], *(f"{length:,}" for length in lengths)]]
        for entry in first["entries"]:
            if entry["label"] not in _shown(parts):
                continue
            row = [escaped(entry["label"])]
            for part in parts:
                times = seconds_by_label(part).get(entry["label"])
                states = {e["label"]: e["state"] for e in part["entries"]}
                row.append(median(times) if times else escaped(states.get(entry["label"], "")))
            rows.append(row)
        per_token = [
            found.median / length if (found := spread(_of(part, part["reference"]))) else None
            for part, length in zip(parts, lengths, strict=True)
        ]
        if per_token[0]:
            shown = [f"{each / per_token[0]:.2f}" if each else "" for each in per_token]
            rows.append([f"ours per token, × that at {lengths[0]:,}", *shown])
        blocks.append(grid(rows))
    return blocks + _absent([part for outcome in outcomes for part in outcome["parts"]])


def _constant(outcomes: list[Any]) -> str:
    sizes = outcomes[0]["cell"]["sizes"]
    same = {name for name in sizes if len({o["cell"]["sizes"][name] for o in outcomes}) == 1}
    return ", ".join(
        f"{name} {size:,}" for name, size in sizes.items() if name in same - {"length"}
    )


# -- a training step ---------------------------------------------------------------------


def _step(kind: str, outcomes: list[Any]) -> list[str]:
    if kind == "by_length":
        return _steps_by_length(outcomes)
    blocks = []
    for outcome in outcomes:
        cell, (part,) = Cell.from_json(outcome["cell"]), outcome["parts"]
        tokens = cell.sizes["batch"] * cell.sizes["length"]
        ours = _of(part, part["reference"])
        rows = [["", "parameters", "ms", "× ours", "tokens/s"]]
        for entry in part["entries"]:
            times = entry.get("seconds")
            if times is None:
                continue
            found = spread(times)
            rate = f"{tokens / found.median:,.0f}" if found else ""
            parameters = f"{entry['facts']['parameters']:,}"
            rows.append([escaped(entry["label"]), parameters, milliseconds(times),
                         _ratio(times, ours), rate])  # fmt: skip
        sizes = escaped(cell.title.partition(": ")[2])
        blocks += [f"**{sizes}**; allocator {cell.allocator}", grid(rows), *_absent([part])]
        without = ratio(_of(part, f"{part['reference']} without head and loss"), ours)
        if without is not None:
            share = round(100 * (1 - without))
            shown = f"{share}%" if share >= 1 else "less than 1%"
            blocks.append(f"Head and loss take {shown} of {part['reference']}'s step.")
    return blocks


def _steps_by_length(outcomes: list[Any]) -> list[str]:
    """What length costs: shorter sequences of the same tokens were timed in the same rounds."""
    cut = f"{outcomes[0]['cell']['sizes']['length']:,}"
    rows = [["length", "batch", "ms", "µs per token", f"× the same tokens in sequences of {cut}",
             "peak memory of both, MiB"]]  # fmt: skip
    for outcome in outcomes:
        (part,) = outcome["parts"]
        times = _of(part, part["reference"])
        found, sizes = spread(times), outcome["cell"]["sizes"]
        size = [f"{sizes['length']:,}", f"{sizes['batch']:,}"]
        if found is None:
            rows.append([*size, escaped(part["entries"][0]["state"]), "", "", ""])
            continue
        per_token = found.median / (sizes["length"] * sizes["batch"])
        shorter = [entry["seconds"] for entry in part["entries"][1:] if "seconds" in entry]
        shown = [milliseconds(times), number(1e6 * per_token)]
        shown.append(_ratio(times, shorter[0]) if shorter else "")
        rows.append([*size, *shown, f"{outcome['peak_MiB']:,.0f}"])
    return [f"**Cost by length**: {escaped(_constant(outcomes))}", grid(rows)]


# -- decoding ----------------------------------------------------------------------------


def _decode(_: str, outcomes: list[Any]) -> list[str]:
    """A row for each number of tokens read, GateLoop beside the Transformer."""
    blocks = []
    for outcome in outcomes:
        (part,) = outcome["parts"]
        entries = {(e["facts"]["model"], e["facts"]["after"]): e for e in part["entries"]}
        models = list(dict.fromkeys(model for model, _ in entries))
        lengths = list(dict.fromkeys(after for _, after in entries))
        head = ["tokens read"]
        for model in models:
            head += [f"{model}, ms per token", f"× after {lengths[0]:,}", "state, MiB"]
        rows = [[*head, f"{models[1]} ÷ {models[0]}"]]
        for length in lengths:
            row, ours = [f"{length:,}"], entries[models[0], length].get("seconds")
            for model in models:
                entry = entries[model, length]
                row += _decoded(entry, entries[model, lengths[0]].get("seconds"))
            theirs = entries[models[1], length].get("seconds")
            rows.append([*row, _ratio(theirs, ours) if theirs else ""])
        batch = outcome["cell"]["sizes"]["batch"]
        blocks += [f"**Batch {batch}**, a token of each sequence", grid(rows)]
    return blocks


def _decoded(entry: Any, first: list[float | None] | None) -> list[str]:
    times = entry.get("seconds")
    if times is None:
        return [escaped(entry["state"]), "", ""]
    each = [None if t is None else t / entry["facts"]["tokens"] for t in times]
    return [milliseconds(each), _ratio(times, first), number(entry["facts"]["state_bytes"] / 2**20)]


# -- tokenisers --------------------------------------------------------------------------


def _tokenize(_: str, outcomes: list[Any]) -> list[str]:
    blocks = []
    for outcome in outcomes:
        (part,) = outcome["parts"]
        rows = [["", "vocabulary", "ms", "MB/s", "tokens/s", "bytes per token"]]
        for entry in part["entries"]:
            found, facts = spread(entry.get("seconds", [])), entry["facts"]
            if found is None:
                continue
            rows.append([
                escaped(entry["label"]),
                f"{facts['vocabulary']:,}",
                milliseconds(entry["seconds"]),
                number(facts["bytes"] / 1e6 / found.median),
                f"{facts['tokens'] / found.median:,.0f}",
                f"{facts['bytes'] / facts['tokens']:.2f}",
            ])  # fmt: skip
        settings = outcome["cell"]["settings"]
        text = "a given text" if settings.get("text") else "a generated text"
        blocks += [f"On {text}", grid(rows), *_absent([part])]
    return blocks


# -- cells -------------------------------------------------------------------------------


def _of(part: Any, label: str) -> list[float | None]:
    return seconds_by_label(part).get(label, [])


def _ratio(times: list[float | None], reference: list[float | None] | None) -> str:
    found = ratio(times, reference) if reference else None
    return "" if found is None else number(found)


def milliseconds(times: list[float | None]) -> str:
    """ "1.23 (1.20–1.30)" """
    found = spread(times)
    if found is None:
        return ""
    low, middle, high = (number(1000 * seconds) for seconds in found)
    return f"{middle} ({low}–{high})"


def median(times: list[float | None]) -> str:
    found = spread(times)
    return number(1000 * found.median) if found else ""


def number(value: float) -> str:
    """Three digits that count, and all before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def grid(rows: Rows) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
