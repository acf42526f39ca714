"""Signals to a running training, and the debugger."""

import os
import signal
import threading

import pytest

from taming.training import signals
from taming.training.signals import handling_signals, post_mortem


@pytest.fixture
def entered(monkeypatch):
    """What was asked of the debugger."""
    calls = []

    class Debugger:
        set_trace = staticmethod(lambda: calls.append("set_trace"))
        post_mortem = staticmethod(lambda: calls.append("post_mortem"))

    monkeypatch.setattr(signals, "debugger", lambda: Debugger)
    return calls


def test_each_signal_does_its_own_and_handlers_return(entered):
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    with handling_signals(save=lambda: entered.append("save")):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
    assert entered == ["save", "set_trace"]
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)] == before


def test_other_threads_leave_signals_alone():
    handlers = []

    def run():
        with handling_signals(save=lambda: None):
            handlers.append(signal.getsignal(signal.SIGUSR1))

    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]


@pytest.mark.parametrize(("enabled", "calls"), [(True, ["post_mortem"]), (False, [])])
def test_post_mortem_passes_the_error_on(entered, enabled, calls):
    with pytest.raises(ZeroDivisionError), post_mortem(enabled):
        raise ZeroDivisionError
    assert entered == calls


def test_an_exit_is_no_error_to_debug(entered):
    with pytest.raises(SystemExit), post_mortem(True):
        raise SystemExit(1)
    assert entered == []
