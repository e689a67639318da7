"""SIGTERM and Ctrl-C, sent to this very process."""

from __future__ import annotations

import os
import signal

import pytest

from gateloop.errors import INTERRUPTED, Interrupted
from gateloop.training.interruption import Interruption


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def interruption() -> Interruption:
    made = Interruption()
    made.install()
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_once_where_nothing_is_half_done(
    number: signal.Signals, interruption: Interruption
) -> None:
    with pytest.raises(Interrupted, match=number.name) as caught:
        send(number)
    assert caught.value.exit_code == INTERRUPTED == 75
    assert interruption.requested


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_deferred_while_training(number: signal.Signals, interruption: Interruption) -> None:
    with interruption.deferred():
        assert not interruption.requested
        send(number)
        reached = True
    assert reached and interruption.requested


def test_a_second_ctrl_c_does_not_wait(interruption: Interruption) -> None:
    with interruption.deferred():
        send(signal.SIGINT)
        send(signal.SIGTERM)  # a scheduler repeats itself: no reason to lose the checkpoint
        with pytest.raises(Interrupted, match="SIGINT"):
            send(signal.SIGINT)


def test_after_deferring_it_is_immediate_again(interruption: Interruption) -> None:
    with pytest.raises(RuntimeError), interruption.deferred():
        raise RuntimeError("training broke")
    with pytest.raises(Interrupted):
        send(signal.SIGTERM)


def test_restore_gives_the_first_handlers_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    interruption = Interruption()
    interruption.install()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Lightning puts its own over ours
    interruption.install()
    assert signal.getsignal(signal.SIGTERM) == interruption.handle
    interruption.restore()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
