"""Records made by hand, with times whose medians and ratios one can work out in the head."""

from __future__ import annotations

from typing import Any

from gateloop.benchmark.cell import What
from gateloop.benchmark.record import Record

Times = list[float | None]


def entry(label: str, seconds: Times | str, role: str = "peer", **facts: Any) -> dict[str, Any]:
    """Measured, or with the reason why not."""
    found: dict[str, Any] = {"label": label, "role": role, "facts": facts, "state": "measured"}
    return {**found, **({"state": seconds} if isinstance(seconds, str) else {"seconds": seconds})}


def outcome(
    kind: str, sizes: dict[str, int], *parts: dict[str, Any], what: str = "recurrence", **more: Any
) -> dict[str, Any]:
    cell = {"what": what, "kind": kind, "sizes": sizes, "allocator": "default", "settings": {}}
    return {"cell": cell, "parts": list(parts), "peak_MiB": 1000.4, **more}


def part(title: str, *entries: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"title": title, "reference": entries[0]["label"], **facts, "entries": list(entries)}


def record(what: What, *outcomes: dict[str, Any], device: str = "cpu") -> Record:
    return {
        "benchmark": what.value,
        "device": device,
        "command": ["python", "-m", "gateloop.bench"],
        "threads": 2,
        "repeats": 3,
        "quick": False,
        "commit": "0123456789abcdef",
        "dirty": True,
        "python": "3.11.7",
        "packages": {"torch": "2.13.0"},
        "processor": "a processor",
        "cores": 4,
        "environment": {"GATELOOP_KERNELS": "off"},
        "peers": {"jax": "0.10.2", "accelerated-scan": None},
        "cells": list(outcomes),
    }


def records() -> dict[tuple[What, str], Record]:
    """One of each benchmark on the CPU; nothing on a GPU."""
    ours, copied = [0.001, 0.002, 0.004], [0.001, 0.001, 0.001]
    passes = [
        part(
            title,
            entry("ours", ours, "ours"),
            entry("peer", [0.010, 0.030, 0.080]),
            entry("tired", [0.1, None, None]),
            entry("gone", "not installed"),
            entry("copy", copied, "limit"),
            limit="copy",
            limit_name="copy",
            alone={"ours": [0.001, 0.001, 0.001]},
        )
        for title in ("forward", "forward + backward")
    ]
    shape = {"batch": 4, "length": 1024, "channels": 512}
    lengths = [
        outcome(
            "by_length",
            {"batch": 1, "length": length, "channels": 2},
            part("forward", entry("ours", [seconds]), entry("gone", "not installed")),
        )
        for length, seconds in ((512, 0.001), (1024, 0.0022))
    ]
    recurrence = record(
        What.recurrence,
        outcome("max_headed", shape, *passes, imported_before_ours=[]),
        *lengths,
        {"cell": outcome("outer", {"heads": 4})["cell"], "failed": "killed by signal 9"},
    )
    step = record(
        What.step,
        outcome(
            "models",
            {"batch": 2, "length": 1000, "vocabulary": 256},
            part(
                "training step",
                entry("GateLoop", [1.0, 2.0], "ours", parameters=5_000_000),
                entry("GateLoop without head and loss", [0.75, 1.5], "ours", parameters=5_000_000),
                entry("Transformer", [2.0, 6.0], parameters=5_100_000),
                entry("lucidrains' Transformer", "not installed"),
            ),
            what="step",
        ),
        *(
            outcome(
                "by_length",
                {"batch": 1024 // length or 1, "length": length, "vocabulary": 256},
                part(
                    "training step",
                    entry("GateLoop", times, "ours", parameters=1),
                    *(entry("in sequences of 512", t, "ours", parameters=1) for t in shorter),
                ),
                what="step",
            )
            for length, times, shorter in (
                (512, [1.024], []),
                (1024, [1.1264, 2.2], [[1.024, 2.2]]),
                (2048, "does not run here (X)", ["does not run here (X)"]),
            )
        ),
    )
    decode = record(
        What.decode,
        outcome(
            "tokens",
            {"batch": 1},
            part(
                "8 tokens",
                *(
                    entry(f"{model} {n}", seconds, model=model, after=n, tokens=8, state_bytes=size)
                    for model, n, seconds, size in (
                        ("GateLoop", 256, [0.008], 1 << 19),
                        ("GateLoop", 512, [0.0088], 1 << 19),
                        ("Transformer", 256, [0.016], 1 << 21),
                        ("Transformer", 512, "its cache does not fit in memory", 0),
                    )
                ),
            ),
            what="decode",
        ),
    )
    tokenize = record(
        What.tokenize,
        outcome(
            "text",
            {},
            part(
                "encode",
                entry("byte", [0.5], tokens=1_000_000, bytes=1_000_000, vocabulary=256),
                entry("word", [2.0], tokens=200_000, bytes=1_000_000, vocabulary=20_002),
                entry("gpt2", "not available without GPT-2's files (--gpt2)"),
            ),
            what="tokenize",
        ),
    )
    made = {What.recurrence: recurrence, What.step: step, What.decode: decode}
    return {(what, "cpu"): each for what, each in {**made, What.tokenize: tokenize}.items()}
