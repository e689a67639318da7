"""What is measured is what is said to be: bytes, results, and who is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest
import torch

from gateloop.benchmark import peers, recurrence
from gateloop.benchmark.cell import Cell, What
from gateloop.benchmark.entry import NOT_INSTALLED, Role, is_missing
from gateloop.benchmark.problem import copy, problem, torch_calls

SIZES = {"batch": 2, "length": 6, "channels": 4}


def cell(kind: str = "max_headed", **more: object) -> Cell:
    return Cell(What.recurrence, kind, SIZES, repeats=2, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "dtype", "forward", "backward"),
    [
        ("max_headed", "float32", 24, 44),
        ("linear_scan", "float32", 24, 40),
        ("max_headed", "bfloat16", 16, 30),
    ],
)
def test_bytes_per_token_and_channel(kind: str, dtype: str, forward: int, backward: int) -> None:
    given = problem(kind, SIZES, "cpu", dtype)
    elements = 2 * 6 * 4
    assert given.forward_bytes == forward * elements
    assert given.backward_bytes == backward * elements


def test_the_copy_reads_and_writes_as_many_bytes_in_all() -> None:
    target = copy(4096, "cpu")()
    assert isinstance(target, torch.Tensor)
    assert 2 * target.numel() * target.element_size() == 4096


def test_a_peer_that_is_missing_is_listed_and_one_that_is_wrong_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = recurrence.contestants("max_headed")

    def broken(*inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel in /some/folder/of/mine for this device")

    def wrong(q, k, v, alpha, beta):  # type: ignore[no-untyped-def]
        return q * k * v * alpha * beta

    others = [
        recurrence.Contestant("absent", Role.peer, known[0].calls, "no-such-distribution"),
        recurrence.Contestant("broken", Role.peer, partial(torch_calls, broken)),
        recurrence.Contestant("wrong", Role.peer, partial(torch_calls, wrong)),
    ]
    monkeypatch.setattr(recurrence, "contestants", lambda kind: [*known[:2], *others])
    found = recurrence.measure(cell())
    for part in found["parts"]:
        states = {entry["label"]: entry["state"] for entry in part["entries"]}
        assert states["absent"] == NOT_INSTALLED
        assert states["broken"] == "does not run here (RuntimeError: no kernel in for this device)"
        assert states["wrong"].startswith("wrong: its result or gradient is off by ")
        timed = {entry["label"] for entry in part["entries"] if "seconds" in entry}
        assert timed == {known[0].label, known[1].label, recurrence.COPY}
        assert all(len(e["seconds"]) == 2 for e in part["entries"] if "seconds" in e)


def test_every_contestant_that_is_installed_gives_the_right_result() -> None:
    for kind in ("max_headed", "linear_scan", "outer"):
        sizes = {"batch": 2, "length": 16, "heads": 2, "d_key": 16, "d_value": 16, "channels": 16}
        small = problem(kind, sizes, "cpu")
        exact = recurrence._exact(kind, small)
        for each in recurrence.contestants(kind):
            state, error = recurrence._tried(each, small, exact)
            assert state is None or not state.startswith("wrong"), (kind, each.label, state)
            if not is_missing(each.package) and each.role is Role.ours and state is None:
                assert error is not None and error < 1e-5


def test_ours_is_timed_before_lightning_hydra_or_a_peer_is_imported() -> None:
    code = """
import sys
from gateloop.benchmark import process, recurrence
names = ("pytorch_lightning", "hydra", "gateloop.models", "jax", "gateloop_transformer")
alone = recurrence._alone
def watched(*arguments):
    found = alone(*arguments)
    print([name for name in names if name in sys.modules], file=sys.stderr)
    return found
recurrence._alone = watched
process.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(cell().to_json()),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "[]"
    outcome = json.loads(done.stdout)
    assert outcome["imported_before_ours"] == []
    assert outcome["peak_MiB"] > 0


def test_linear_scan_takes_part_where_this_version_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def linear_scan(a: torch.Tensor, x: torch.Tensor, state: None = None) -> torch.Tensor:
        return peers.step_loop(a, x)

    monkeypatch.setattr(recurrence.own, "linear_scan", linear_scan, raising=False)
    for part in recurrence.measure(cell("linear_scan"))["parts"]:
        assert part["reference"] == "linear_scan"
        assert len(part["alone"]["linear_scan"]) == 2
        assert part["entries"][0]["state"] == "measured"
    monkeypatch.delattr(recurrence.own, "linear_scan")
    (part, _) = recurrence.measure(cell("linear_scan"))["parts"]
    assert part["alone"] == {}
    assert part["entries"][0]["state"].startswith("does not run here (ImportError: ")
