"""Cores and GPUs are handed out once each."""

import os

import pytest

from gateloop.errors import InputError
from gateloop.experiment.workers import seats

CORES = os.sched_getaffinity(0)


@pytest.mark.parametrize("workers", range(1, len(CORES) + 1))
def test_seats_share_all_cores_and_no_core_twice(workers: int) -> None:
    shares = [seat.cores for seat in seats(workers)]
    assert len(shares) == workers and all(shares)
    assert sorted(core for share in shares for core in share) == sorted(CORES)


def test_more_workers_than_cores() -> None:
    with pytest.raises(InputError, match=f"--workers 999: there are {len(CORES)} cores; take at"):
        seats(999)


def test_one_seat_for_each_visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert [seat.gpu for seat in seats(None)] == ["3"]
    assert {seat.gpu for seat in seats(len(CORES))} == {"3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [seat.gpu for seat in seats(None)] == [None]
