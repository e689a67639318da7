"""Contestants take turns."""

from __future__ import annotations

import gc
import threading
import time

import pytest
import torch

from gateloop.benchmark import clock


def test_each_round_calls_everybody_in_another_order() -> None:
    called: list[str] = []
    runs = {name: (lambda name=name: called.append(name)) for name in "abcdef"}
    times = clock.rounds(runs, 4)
    rounds = ["".join(called[first : first + 6]) for first in range(0, 24, 6)]
    assert {"".join(sorted(each)) for each in rounds} == {"abcdef"} and len(set(rounds)) == 4
    assert {len(seconds) for seconds in times.values()} == {4}
    called.clear()
    clock.rounds(runs, 4)
    assert "".join(called) == "".join(rounds)
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_a_slow_contestant_stops_and_the_rounds_of_the_others_stay_paired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "PATIENCE", 2.5)
    times = clock.rounds({"slow": lambda: 1.0, "quick": lambda: 0.25}, 5, lambda run: run())
    assert times == {"slow": [1.0, 1.0, 1.0, None, None], "quick": [0.25] * 5}


def test_the_clock_waits_for_the_device() -> None:
    order: list[str] = []
    clock.once(lambda: order.append("run"), lambda: order.append("wait"))
    assert order == ["wait", "run", "wait"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_of_a_gpu_the_time_python_takes_to_ask_is_not_counted() -> None:
    x = torch.ones(1 << 24, device="cuda")

    def run() -> None:
        time.sleep(0.001)  # less than the GPU sleeps
        x.mul_(1)

    seconds = clock.of_kernels("cuda")
    seconds(run)
    assert 1e-5 < min(seconds(run) for _ in range(5)) < 5e-4


def test_threads_of_the_contestant_before_have_come_to_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some libraries' workers go on spinning for a while after a call has returned."""
    resting, found = threading.Event(), []

    def leaves_a_thread_spinning() -> None:
        resting.clear()
        threading.Timer(0.01, resting.set).start()

    assert clock.PAUSE > 0.02
    monkeypatch.setattr(clock, "PAUSE", 0.4)  # a machine with other work wakes no timer in 30 ms
    runs = {"before": leaves_a_thread_spinning, "after": lambda: found.append(resting.is_set())}
    resting.set()
    clock.rounds(runs, 3)
    assert found == [True] * 3


def test_no_call_finds_what_the_one_before_left_in_the_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    monkeypatch.setattr(clock, "settle", lambda: order.append("settle"))
    clock.rounds({"a": lambda: order.append("call"), "b": lambda: order.append("call")}, 2)
    assert order == ["settle", "call"] * 4


def test_what_settles_goes_through_more_memory_than_caches_hold() -> None:
    clock.settle()
    flushed = clock._flushed("cpu")
    assert flushed.numel() * flushed.element_size() == clock.FLUSH
    assert flushed.min() == flushed.max() == 1
