"""From a command line to a fitted model: plan, Trainer, callbacks, checkpoints, and what goes wrong on the way."""
