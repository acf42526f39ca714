"""What a training command shows: reports of this library and of Lightning on stdout, without Lightning's advice."""

import logging
import sys
import threading
import warnings

from pytorch_lightning.utilities import rank_zero_only

ADVICE = ("Tip:", "TPU available", "Restored all states")
"""Beginnings of Lightning's messages that help nobody who runs a command of this project; a tip starts with a bulb."""

ADVISORY_WARNINGS = (
    r".*does not have many workers",
    r".*smaller than the logging interval",
    r".*module\(s\) in eval mode at the start of training",
    r".*recommended to use `self\.log",
    r".*exists and is not empty",
    r".*no pre-optimization state was saved",
    r".*TreeSpec",
)


def set_up_console() -> None:
    """Show log records of INFO and above as plain lines on stdout, from the first process of a run only."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_is_of_interest)
    logging.basicConfig(format="%(message)s", handlers=[handler], force=True)
    for name in ("pytorch_lightning", "lightning_fabric"):
        lightning = logging.getLogger(name)
        lightning.handlers.clear()
        lightning.propagate = True
    for pattern in ADVISORY_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    threading.excepthook = _report_of_thread


def _is_of_interest(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR:
        return True
    beginning = record.getMessage()[:40]
    return rank_zero_only.rank == 0 and not any(advice in beginning for advice in ADVICE)


def _report_of_thread(failed: threading.ExceptHookArgs) -> None:
    """Python's own report of an exception in a thread, but for TensorBoard's: that one reaches whoever logs next."""
    if type(failed.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failed)
