"""What commands share: running them, options for device and precision, and config overrides among the arguments."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch

from taming.config import COMMAND_LINE, ConfigError, nearest
from taming.config_errors import one_line
from taming.launchers import global_rank

USER_ERROR = 2
INTERRUPTED = 130
PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def run_command(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command's `main(argv)` and return its exit status; the entry point of every script.

    A user's mistake (ValueError, OSError, a missing optional package) is one line on stderr and status 2; with
    TAMING_DEBUG=1 in the environment it keeps its traceback. Ctrl-C is status 130. Modules beside the user's configs,
    in the current folder, can be imported; what the library logs is shown, by the first process of a run only.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    logging.basicConfig(format="%(message)s")
    logging.getLogger("taming").setLevel(logging.INFO if global_rank() == 0 else logging.ERROR)
    try:
        return main(argv) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("TAMING_DEBUG", "0") not in ("", "0"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR


def str2bool(text: str) -> bool:
    """yes, true, t, y, 1 and no, false, f, n, 0 in any case; for argparse's `type`."""
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected yes or no, got {text!r}")


def split_dotlist(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """Parse `argv` (the process's arguments if None) into options and config overrides `section.key=value`.

    An override may also follow an option that takes any number of values, such as `-b`, or none, such as `-t`. Raises
    ConfigError for an argument that is neither, with the option it may have been meant to be.
    """
    overrides, others = [], []
    for previous, token in pairwise(["", *(sys.argv[1:] if argv is None else argv)]):
        is_override = "=" in token and not token.startswith("-") and not os.path.isfile(token)
        (overrides if is_override and not _takes_one_value(parser, previous) else others).append(token)
    options, unknown = parser.parse_known_args(others)
    if unknown:
        raise _unknown_argument(parser, unknown)
    return options, overrides


def _takes_one_value(parser: argparse.ArgumentParser, token: str) -> bool:
    """Whether `token` is an option (or the beginning of its name) after which a value must come."""
    known = parser._option_string_actions  # argparse has no public way to ask
    names = [token] if token in known else [name for name in known if token[:2] == "--" and name.startswith(token)]
    return any(known[name].nargs is None for name in names)


def _unknown_argument(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> ConfigError:
    token = next((token for token in unknown if token.startswith("-")), unknown[0])
    near = nearest(token.partition("=")[0], list(parser._option_string_actions))
    if near is None and not token.startswith("-"):
        near = nearest(f"--{token}", list(parser._option_string_actions))
    hint = f"; did you mean {near}?" if near else ""
    return ConfigError(f"{COMMAND_LINE}: {token} is neither an option nor an override section.key=value{hint}")


def add_device_options(parser: argparse.ArgumentParser, *, precision: bool = True) -> None:
    """Add `--device`, for `select_device`, and `--precision`, for `autocast`."""
    parser.add_argument(
        "--device", default="auto", help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps (default: auto)"
    )
    if precision:
        parser.add_argument(
            "--precision", default="32", choices=PRECISIONS, help="32, or autocast to bf16 or 16 (default: 32)"
        )


def select_device(name: str) -> torch.device:
    """The device that `--device` names. Raises ValueError if this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts[device.type]:
        raise ValueError(
            f"--device {name}: this machine has {counts[device.type]} such device(s), counted from 0; "
            f"use --device cpu or leave the option out"
        )
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context in which a model computes with the `--precision` "32" (as it is), "bf16" or "16"."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
