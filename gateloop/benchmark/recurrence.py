"""Our modes and kernels, the memory-copy limit, and the peers, on one problem in one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gateloop.recurrence as own
from gateloop.benchmark import peers
from gateloop.benchmark.cell import Cell
from gateloop.benchmark.clock import Run, Timer, of_kernels, rounds, warm
from gateloop.benchmark.entry import NOT_INSTALLED, Role, absent, entry, is_missing, part, why_not
from gateloop.benchmark.problem import Calls, Problem, copy, problem, torch_calls

FORWARD, BOTH = "forward", "forward + backward"
COPY = "copy of as many bytes"
OURS = {"linear_scan": "linear_scan"}
LOOP = "gate_loop (recurrent, the step loop)"
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
# What is not to be there while ours is timed alone.
WATCHED = ("hydra", "pytorch_lightning", "gateloop.models", "jax", "gateloop_transformer", "fla")
# The slowest by far at the greatest lengths, where the plain step loop stands for both.
UNASKED: dict[str, set[str]] = {"by_length": {"gate_loop (recurrent)"}}
TRIAL = {"batch": 2, "length": 16, "channels": 16, "heads": 2, "d_key": 16, "d_value": 16}


@dataclass(frozen=True)
class Contestant:
    """``calls`` makes its two calls on a problem; ``package``: the distribution that has it;
    ``same``: whether it computes the same operation, so that its result can be checked."""

    label: str
    role: Role
    calls: Callable[[Problem], Calls]
    package: str = "gateloop"
    same: bool = True


def measure(cell: Cell) -> dict[str, Any]:
    """Ours and the copy alone, then everybody by turns; forward, then forward and backward."""
    kind = "max_headed" if cell.kind == "by_length" else cell.kind
    taking_part = [
        each for each in contestants(kind) if each.label not in UNASKED.get(cell.kind, ())
    ]
    dtype = cell.settings.get("dtype", "float32")
    dtype = "float32" if kind == "linear_scan" else dtype
    timer = of_kernels(cell.device)
    given = problem(kind, cell.sizes, cell.device, dtype)
    ours = OURS.get(kind, "gate_loop (auto)")

    loaded = [name for name in WATCHED if name in sys.modules]
    main = next(each for each in taking_part if each.label == ours)
    alone = _alone(main, given, cell, timer)

    trial = {name: min(size, TRIAL[name]) for name, size in cell.sizes.items()}
    small = problem(kind, trial, cell.device, dtype)
    exact = _exact(kind, small)
    entries, calls = [], {}
    for each in taking_part:
        tried, error = _tried(each, small, exact)
        if tried is not None:
            entries.append(absent(each.label, each.role, tried))
            continue
        try:
            calls[each.label] = each.calls(given)
        except Exception as fault:
            entries.append(absent(each.label, each.role, why_not(fault)))
            continue
        entries.append(entry(each.label, each.role, error=error))

    parts = []
    for title, moved in _limits(kind, given).items():
        runs: dict[str, Run] = {
            label: made.forward if title == FORWARD else made.both for label, made in calls.items()
        }
        listed, facts = list(entries), dict[str, str]()
        if moved:
            runs[COPY] = copy(moved, cell.device)
            listed.append(entry(COPY, Role.limit, bytes=moved))
            facts = {"limit": COPY, "limit_name": "copy"}
        elif LOOP in runs:  # work, not memory, is the limit
            facts = {"limit": LOOP, "limit_name": "step loop"}
        done = part(title, listed, runs, cell.repeats, timer, reference=ours, **facts)
        parts.append({**done, "alone": alone.get(title, {})})
    return {"imported_before_ours": loaded, "parts": parts}


def _limits(kind: str, given: Problem) -> dict[str, int]:
    """The bytes of each pass; 0 where the work and not the memory is the limit."""
    if kind == "outer":
        return {FORWARD: 0, BOTH: 0}
    return {FORWARD: given.forward_bytes, BOTH: given.forward_bytes + given.backward_bytes}


def _alone(
    main: Contestant, given: Problem, cell: Cell, timer: Timer
) -> dict[str, dict[str, list[float | None]]]:
    """Seconds of ours before any peer is imported, {} where this version has it not."""
    try:
        calls = main.calls(given)
    except ImportError:
        return {}
    found = {}
    runs: dict[str, Run] = {FORWARD: calls.forward, BOTH: calls.both}
    for title, run in runs.items():
        warm(run, timer)
        found[title] = rounds({main.label: run}, cell.repeats, timer)
    return found


def contestants(kind: str) -> list[Contestant]:
    """Those of a problem, whether or not they run here."""
    if kind == "outer":
        return _outer()
    return _linear_scan() if kind == "linear_scan" else _max_headed()


def _max_headed() -> list[Contestant]:
    def of(function: Callable[..., Tensor]) -> Callable[[Problem], Calls]:
        return partial(torch_calls, function)

    def gates_and(scan: peers.Scan) -> Callable[[Problem], Calls]:
        return of(peers.with_eager_gates(scan))

    lucidrains, peer = "gateloop-transformer", Role.peer
    return [
        Contestant("gate_loop (auto)", Role.ours, of(partial(_gate_loop, "auto"))),
        Contestant("gate_loop (scan)", Role.ours, of(partial(_gate_loop, "scan"))),
        Contestant("gate_loop (recurrent)", Role.loop, of(partial(_gate_loop, "recurrent"))),
        Contestant("eager gates, step loop", Role.loop, gates_and(peers.step_loop)),
        Contestant(
            "eager gates, lucidrains' associative_scan",
            peer, gates_and(peers.lucidrains_scan), lucidrains,
        ),
        Contestant(
            "lucidrains' simplified gate_loop_operator",
            peer, of(peers.lucidrains_simplified), lucidrains,
        ),
        Contestant(
            "lucidrains' gate_loop_operator", peer, of(peers.lucidrains_max_headed), lucidrains
        ),
        Contestant(
            "eager gates, torch's associative_scan", peer, gates_and(peers.torch_scan), "torch"
        ),
        Contestant("jax.lax.associative_scan", peer, _jax("max_headed", "associative_scan"), "jax"),
        Contestant("jax.lax.scan", peer, _jax("max_headed", "scan"), "jax"),
        Contestant(
            "eager gates, accelerated-scan (GPU)",
            peer, gates_and(peers.accelerated_scan), "accelerated-scan",
        ),
        Contestant(
            "flash-linear-attention's chunk_hgrn (GPU; real gates, a smaller operation)",
            peer, of(peers.fla_hgrn), "flash-linear-attention", same=False,
        ),
    ]  # fmt: skip


def _linear_scan() -> list[Contestant]:
    def of(function: peers.Scan) -> Callable[[Problem], Calls]:
        return partial(torch_calls, function)

    peer = Role.peer
    return [
        Contestant("linear_scan", Role.ours, _own_scan),
        Contestant("step loop", Role.loop, of(peers.step_loop)),
        Contestant(
            "lucidrains' associative_scan", peer, of(peers.lucidrains_scan), "gateloop-transformer"
        ),
        Contestant("torch's associative_scan", peer, of(peers.torch_scan), "torch"),
        Contestant(
            "jax.lax.associative_scan", peer, _jax("linear_scan", "associative_scan"), "jax"
        ),
        Contestant("jax.lax.scan", peer, _jax("linear_scan", "scan"), "jax"),
        Contestant("accelerated-scan (GPU)", peer, of(peers.accelerated_scan), "accelerated-scan"),
    ]


def _outer() -> list[Contestant]:
    def mode(name: str) -> Callable[[Problem], Calls]:
        return partial(torch_calls, partial(_gate_loop_heads, name))

    return [
        Contestant("gate_loop (chunkwise)", Role.ours, mode("chunkwise")),
        Contestant("gate_loop (chunkwise), compiled", Role.ours, _compiled("chunkwise")),
        Contestant("gate_loop (auto)", Role.ours, mode("auto")),
        Contestant("gate_loop (scan)", Role.ours, mode("scan")),
        Contestant("gate_loop (attention)", Role.ours, mode("attention")),
        Contestant(LOOP, Role.loop, mode("recurrent")),
        Contestant(
            "lucidrains' gate_loop_operator",
            Role.peer, partial(torch_calls, peers.lucidrains_heads), "gateloop-transformer",
        ),
        Contestant(
            "flash-linear-attention's chunk_gla, q and k rotated (GPU)",
            Role.peer, partial(torch_calls, peers.fla_gla), "flash-linear-attention",
        ),
    ]  # fmt: skip


def _gate_loop(mode: str, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    heads = (t[..., None] for t in (q, k, v, alpha, beta))
    return own.gate_loop(*heads, mode=mode)[0].squeeze(-1)


def _gate_loop_heads(mode: str, *inputs: Tensor) -> Tensor:
    return own.gate_loop(*inputs, mode=mode)[0]


def _compiled(mode: str) -> Callable[[Problem], Calls]:
    def calls(given: Problem) -> Calls:
        # for the shape at hand: a second one would be compiled for shapes of any size
        function = torch.compile(partial(_gate_loop_heads, mode), dynamic=False)
        return torch_calls(function, given)

    return calls


def _own_scan(given: Problem) -> Calls:
    scan = getattr(own, "linear_scan", None)
    if scan is None:
        raise ImportError("gateloop.recurrence has no linear_scan yet")
    return torch_calls(scan, given)


def _jax(kind: str, scan: str) -> Callable[[Problem], Calls]:
    return partial(peers.jax_calls, kind, scan)


# -- trying ------------------------------------------------------------------------------


def _exact(kind: str, small: Problem) -> list[Tensor]:
    """Result and gradients in float64, a step at a time."""
    if kind == "linear_scan":
        function: Callable[..., Tensor] = peers.step_loop
    elif kind == "outer":
        function = partial(_gate_loop_heads, "recurrent")
    else:
        function = peers.with_eager_gates(peers.step_loop)
    return torch_calls(function, small.to(torch.float64)).both()


def _tried(
    each: Contestant, small: Problem, exact: list[Tensor]
) -> tuple[str | None, float | None]:
    """Why it takes no part, or None; and how far its results on a small problem are from exact,
    relative to the largest of each result and gradient."""
    if is_missing(each.package):
        return NOT_INSTALLED, None
    try:
        found = each.calls(small).both()
        if not each.same:
            return None, None
        error = max(
            float((f.cpu() - e.cpu()).abs().max() / e.abs().max().cpu())
            for f, e in zip(found, exact, strict=True)
        )
    except Exception as fault:
        return why_not(fault), None
    most = TOLERANCE.get(small.inputs[0].dtype, TOLERANCE[torch.float32])
    if not error <= most:
        return f"wrong: its result or gradient is off by {error:.0e}", None
    return None, error
