"""Contestants take turns."""

from __future__ import annotations

import gc

import pytest

from gateloop.benchmark import clock


def test_each_round_calls_everybody_and_begins_with_another() -> None:
    called: list[str] = []
    runs = {name: (lambda name=name: called.append(name)) for name in "abc"}
    times = clock.rounds(runs, 4)
    assert "".join(called) == "abcbcacababc"
    assert {len(seconds) for seconds in times.values()} == {4}
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_slow_contestant_stops_and_the_rounds_of_the_others_stay_paired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "PATIENCE", 2.5)
    monkeypatch.setattr(clock, "once", lambda run, wait: run())
    times = clock.rounds({"slow": lambda: 1.0, "quick": lambda: 0.25}, 5)
    assert times == {"slow": [1.0, 1.0, 1.0, None, None], "quick": [0.25] * 5}


def test_the_clock_waits_for_the_device() -> None:
    order: list[str] = []
    clock.once(lambda: order.append("run"), lambda: order.append("wait"))
    assert order == ["wait", "run", "wait"]
