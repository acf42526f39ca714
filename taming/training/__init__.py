"""From a command line to a fitted model: plan, Trainer, callbacks, checkpoints, and what goes wrong on the way."""

from taming.training.fit import TrainingResult, get_parser, nondefault_trainer_args, train

__all__ = ["TrainingResult", "get_parser", "nondefault_trainer_args", "train"]
