"""What interrupts a running training: signals that ask for a checkpoint or a debugger, and errors that start one."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from pytorch_lightning.utilities import rank_zero_only

logger = logging.getLogger(__name__)


def debugger() -> ModuleType:
    """pudb where it is installed, else pdb."""
    try:
        import pudb as module
    except ImportError:
        import pdb as module
    return module


@contextmanager
def handling_signals(save: Callable[[], None], stop: Callable[[], None] | None = None) -> Iterator[None]:
    """Within the block SIGUSR1 calls `save`, SIGUSR2 enters the debugger on rank 0, and SIGTERM calls `stop`, if given.

    A second SIGTERM ends the process at once. Nothing happens outside the main thread, where Python cannot set
    handlers, and where the system lacks the signals.
    """
    handlers = {
        "SIGUSR1": lambda *_: save(),
        "SIGUSR2": rank_zero_only(lambda *_: debugger().set_trace()),
    }
    if stop is not None:
        handlers["SIGTERM"] = _once(stop)
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name, handler in handlers.items():
            if number := getattr(signal, name, None):
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _once(stop: Callable[[], None]) -> Callable[[int, object], None]:
    """A handler that calls `stop`, after which the signal has its usual effect."""

    def handle(number: int, _: object) -> None:
        logger.info("SIGTERM: training stops before the next batch; a second one ends it at once")
        signal.signal(number, signal.SIG_DFL)
        stop()

    return handle


@contextmanager
def post_mortem(enabled: bool) -> Iterator[None]:
    """If `enabled`, an exception in the block starts the debugger on rank 0 where it was raised, and goes on after."""
    try:
        yield
    except Exception:
        if enabled and rank_zero_only.rank == 0:
            debugger().post_mortem()
        raise
