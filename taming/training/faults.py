"""What ends a training though nothing is wrong with its code, told in one line: what happened, which setting helps."""

import re
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningDataModule
from torch.utils.data._utils import signal_handling

from taming.config_errors import one_line

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed")
"""In messages of torch and of its libraries, in lower case."""
DEAD_WORKER = r"DataLoader worker \(pid\S* ([\d, ]+)\) (is killed by signal: [^.\n]+|exited unexpectedly[^.\n]*)"
SHARED_MEMORY = ("shared memory", "Bus error")
LOADING, RECEIVING = "torch/utils/data/*.py", "multiprocessing/*.py"
"""Where batches are loaded, and where the main process receives them from another."""
CAUGHT_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process")
FAULTY_ITEM = re.compile(r"\(index -?\d+\)$")
"""End of what `taming.data.faults` says of an item."""


class TrainingFault(ValueError):
    """Training cannot go on as it is. The message is one line with all that there is to know."""


class UnreadableDataError(TrainingFault, OSError):
    """Something of a data set cannot be read."""


@contextmanager
def explaining_faults(config: DictConfig, data: LightningDataModule) -> Iterator[None]:
    """A block that trains: what memory, a data worker or an unreadable file broke becomes a TrainingFault.

    The message names settings of `config` with their present values. Other exceptions pass as they are.
    """
    with noting_deaths() as deaths:
        try:
            yield
        except Exception as error:
            fault = explanation(error, deaths, config, data)
            if fault is None:
                raise
            raise fault.with_traceback(error.__traceback__) from error  # a debugger finds the place where it was raised


@contextmanager
def noting_deaths() -> Iterator[list[str]]:
    """Within the block the death of a process that loads data ends nothing by itself; the list gets what torch says.

    torch's handler of the signal raises wherever the main process is: between the steps of two optimizers, or while
    `last.ckpt` is written because that process is gone. Without it torch raises when the next batch does not come.
    """
    deaths: list[str] = []
    number = getattr(signal, "SIGCHLD", None)  # not on Windows, where torch has no handler either
    if number is None or threading.current_thread() is not threading.main_thread():
        yield deaths
        return

    def note(*_) -> None:
        try:
            signal_handling._error_if_any_worker_fails()
        except RuntimeError as error:
            deaths.append(str(error))

    handler, is_set = signal.signal(number, note), signal_handling._SIGCHLD_handler_set
    signal_handling._SIGCHLD_handler_set = True  # or torch would set its own
    try:
        yield deaths
    finally:
        signal.signal(number, handler or signal.SIG_DFL)
        signal_handling._SIGCHLD_handler_set = is_set


def explanation(
    error: Exception, deaths: Sequence[str], config: DictConfig, data: LightningDataModule
) -> TrainingFault | None:
    """The exception that says what happened and what helps; None for one of another kind."""
    if problem := _problem_of_worker(error, deaths):
        return TrainingFault(f"{problem}; {_advice_on_workers(problem, config, data)}")
    if isinstance(error, MemoryError | RuntimeError) and _is_out_of_memory(error):
        found = re.search(r"allocate ([\d.]+ \w+)", str(error))
        amount = f" (no room for {found[1]} more)" if found else ""
        return TrainingFault(f"out of memory{amount}: {' or '.join(_advice_on_memory(config))}")
    if isinstance(error, OSError | ValueError) and _came_through(error, LOADING):
        message = _message_in_worker(error)
        if FAULTY_ITEM.search(message):
            advice = "mend the file, or leave such items out with on_error: skip in the data set's params"
            return UnreadableDataError(f"{message}; {advice}")
        return UnreadableDataError(message) if isinstance(error, OSError) else None
    return None


def _problem_of_worker(error: Exception, deaths: Sequence[str]) -> str | None:
    """What befell a process that loads data."""
    if _lacks_a_batch(error):
        found = re.search(DEAD_WORKER, deaths[-1] if deaths else str(error))
        return f"a process that loads data {f'(pid {found[1]}) {found[2]}' if found else 'is gone'}"
    if CAUGHT_IN_WORKER.match(str(error)) and any(sign in str(error) for sign in SHARED_MEMORY):
        return f"a process that loads data failed: {_message_in_worker(error)}"
    return None


def _lacks_a_batch(error: Exception) -> bool:
    """Whether torch waited in vain for a batch of another process, or was just being handed one when that died."""
    if isinstance(error, EOFError | OSError) and _came_through(error, LOADING):
        return _came_through(error, RECEIVING) or "in pin memory thread" in str(error)
    return isinstance(error, RuntimeError) and re.match(DEAD_WORKER, str(error)) is not None


def _advice_on_workers(problem: str, config: DictConfig, data: LightningDataModule) -> str:
    workers = f"data.params.num_workers (now {getattr(data, 'num_workers', 'unknown')})"
    if any(sign in problem for sign in SHARED_MEMORY):
        return f"raise the limit of shared memory (docker run --shm-size=8g ...) or lower {workers}; 0 needs none"
    size = f"data.params.batch_size (now {config.data.params.batch_size})"
    return f"if memory ran out, lower {workers} or {size}, else data.params.num_workers=0 shows what is wrong"


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def _advice_on_memory(config: DictConfig) -> Iterator[str]:
    """Ways to need less that this run does not use yet."""
    batch_size = config.data.params.batch_size
    precision = config.lightning.trainer.get("precision", "32-true")
    if batch_size > 1:
        yield f"lower data.params.batch_size (now {batch_size}; --accumulate_grad_batches makes up for it)"
    for network in ("ddconfig", "transformer_config.params"):
        settings = OmegaConf.select(config.model, f"params.{network}")
        if settings is not None and not settings.get("gradient_checkpointing"):
            yield f"set model.params.{network}.gradient_checkpointing=true"
    if "16" not in str(precision):
        yield f"train with --precision bf16-mixed (now {precision})"
    yield "make images or model smaller"


def _came_through(error: Exception, files: str) -> bool:
    """Whether the exception passed through code in `files`, a pattern."""
    places = [PurePath(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(place.match(files) for place in places)


def _message_in_worker(error: Exception) -> str:
    """An exception's message in one line, without the traceback that torch puts before it when a worker raised it."""
    if not CAUGHT_IN_WORKER.match(str(error)):
        return one_line(error)
    message = re.split(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", str(error), flags=re.MULTILINE)[-1]
    return " ".join(message.split())
