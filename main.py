"""Train a model: `python main.py -b configs/custom_vqgan.yaml -t`; `python main.py --help` lists the options.

Configs and other projects also find names of the library here (`main.DataModuleFromConfig`, `main.ImageLogger`, ...).
"""

import sys
from collections.abc import Sequence

from taming.cli import run_command
from taming.config import get_obj_from_str, instantiate_from_config
from taming.console import set_up_console
from taming.data.datamodule import DataModuleFromConfig, WrappedDataset
from taming.training import get_parser, nondefault_trainer_args, train
from taming.training.callbacks import ImageLogger, LearningRateMonitor, SetupCallback

__all__ = [
    "DataModuleFromConfig",
    "ImageLogger",
    "LearningRateMonitor",
    "SetupCallback",
    "WrappedDataset",
    "get_obj_from_str",
    "get_parser",
    "instantiate_from_config",
    "main",
    "nondefault_trainer_args",
]


def main(argv: Sequence[str] | None = None) -> None:
    """Show what happens on the console, and train."""
    set_up_console()
    train(argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
