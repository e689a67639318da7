"""A signal that comes while something is being started comes afterwards, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from gateloop.launching.holding import no_interrupt, signals_held

BLOCKED = "import signal; print(*signal.pthread_sigmask(signal.SIG_BLOCK, []))"


class Came(Exception):
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_comes_after(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(received: int, frame: object) -> None:
        raise Came

    before = signal.signal(number, handler)
    done = []

    def start() -> None:
        with signals_held():
            os.kill(os.getpid(), number)
            done.append("all of it")

    try:
        with pytest.raises(Came):
            start()
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert done


def blocked_in_a_process() -> list[str]:
    said = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    return said.stdout.split()


def test_what_is_started_hears_signals_as_ever() -> None:
    with signals_held():
        assert blocked_in_a_process() == []


def test_what_is_started_without_interrupts_hears_no_ctrl_c_and_hears_sigterm() -> None:
    with no_interrupt():
        assert blocked_in_a_process() == [str(signal.SIGINT)]
    assert blocked_in_a_process() == []
