"""Training, from a command line to a fitted model: what `main.py` does."""

import argparse
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.model_helpers import is_overridden

from taming.checkpoint import explaining_misfits
from taming.cli import split_dotlist, str2bool
from taming.config import ConfigError, instantiate_from_config
from taming.launchers import end_with_parent
from taming.models.finite import NonFiniteError
from taming.models.manual_optimization import accumulation_at
from taming.runs import without_weight_files
from taming.training.callbacks import SetupCallback
from taming.training.disk_faults import check_saved
from taming.training.faults import TrainingFault, explaining_faults
from taming.training.last_checkpoint import LastCheckpoint
from taming.training.learning_rate import LearningRateRule
from taming.training.preflight import check_environment
from taming.training.rehearsal import prepare_rehearsal
from taming.training.run_lock import sole_training
from taming.training.run_plan import RUN_NAME_VARIABLE, RunPlan, keeping_tidy, make_plan, name_part, new_run_name
from taming.training.signals import handling_signals, post_mortem
from taming.training.trainer_options import add_trainer_options, nondefault_trainer_args
from taming.training.trainer_setup import build_trainer

__all__ = ["TrainingResult", "get_parser", "nondefault_trainer_args", "train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A run: its folder and what was built for it."""

    logdir: Path
    model: LightningModule
    trainer: Trainer
    datamodule: LightningDataModule


def get_parser(**parser_kwargs: Any) -> argparse.ArgumentParser:
    """The options of main.py; options of the Trainer are in the parsed namespace only if they were given."""
    usage = "%(prog)s (-b CONFIG [CONFIG ...] | -r RUN) [-t] [options] [key.path=value ...]"
    parser = argparse.ArgumentParser(**{"usage": usage, **parser_kwargs})
    switch = {"type": str2bool, "nargs": "?", "const": True, "default": False, "metavar": "BOOL"}
    add = parser.add_argument
    add("-n", "--name", default="", help="name of a new run, after its time stamp (default: stem of the first config)")
    add("-r", "--resume", default="", metavar="RUN", help="continue in a run folder, or from a checkpoint in one")
    add("-b", "--base", nargs="*", default=[], metavar="CONFIG", help="YAML files, later ones override earlier ones")
    add("-t", "--train", **switch, help="train; without it the run only tests")
    add("--no-test", **switch, help="skip the test after training")
    add("--dry-run", **switch, help="print the plan and try one step and one validation batch; nothing is written")
    add("-p", "--project", help="accepted for old command lines, has no effect")
    add("-d", "--debug", **switch, help="start a debugger where an error occurs; put the run under logs/debug_runs")
    add("-s", "--seed", type=int, default=23, help="seed of all random numbers (default: %(default)s)")
    add("-f", "--postfix", default="", help="end of the name of a new run")
    add("-l", "--logdir", default="logs", metavar="DIR", help="where new run folders go (default: %(default)s)")
    scale = "multiply base_learning_rate by devices, batch size and accumulated batches (default: yes)"
    add("--scale_lr", **{**switch, "default": True}, help=scale)
    add_trainer_options(parser)
    return parser


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and config overrides `key.path=value`."""
    parser = get_parser()
    options, overrides = split_dotlist(parser, argv)
    if options.name and options.resume:
        parser.error(
            "-n/--name and -r/--resume exclude each other: a resumed run keeps its folder; "
            "to start a new run from a checkpoint use --resume_from_checkpoint with -n"
        )
    if not options.base and not options.resume:
        parser.error("give at least one config with -b/--base, or a run to continue with -r/--resume")
    if options.project is not None:
        logger.info("-p/--project has no effect")
    return options, overrides


def train(argv: Sequence[str] | None = None) -> TrainingResult:
    """Run main.py with these arguments, those of the process if None.

    Raises ConfigError, CheckpointError, FileNotFoundError or FolderInUseError for what cannot be run, before there is a
    new run folder; TrainingFault or NonFiniteError for what ends the training, with `last.ckpt` saved; SystemExit for
    options that cannot be parsed, and after Ctrl-C and SIGTERM, which save `last.ckpt` first.
    """
    if {RUN_NAME_VARIABLE, "LOCAL_RANK"} <= os.environ.keys():  # as Lightning starts this program for further devices
        end_with_parent()
    options, overrides = parse_arguments(argv)
    seed_everything(options.seed, workers=True)
    trains = options.train and not options.dry_run
    naming = new_run_name(Path(options.logdir), name_part(options), reserve=trains and not options.resume)
    with post_mortem(options.debug), naming as (now, name):
        plan = make_plan(options, overrides, now, name)
        check_environment(plan)
        with keeping_tidy(plan), sole_training(plan.logdir) if trains else nullcontext():
            if options.dry_run:
                return rehearse(plan)
            return run(plan, fit=options.train, test=not options.no_test)


def build(plan: RunPlan) -> TrainingResult:
    """What a run needs, not run yet. One that continues gets all weights of its model from its checkpoint."""
    config = plan.config if plan.checkpoint is None else without_weight_files(plan.config)
    model = instantiate_from_config(config.model)
    trainer = build_trainer(plan, model)
    return TrainingResult(plan.final_logdir, model, trainer, instantiate_from_config(plan.config.data))


def rehearse(plan: RunPlan) -> TrainingResult:
    """Build everything and make one step of training and validation, as `run` would, without writing anything."""
    built = build(plan)
    set_learning_rate(plan, built.model, built.trainer)
    prepare_rehearsal(built.trainer)
    run_fit(plan, built.model, built.trainer, built.datamodule)
    return built


def run(plan: RunPlan, *, fit: bool, test: bool) -> TrainingResult:
    """Build everything, fit and test."""
    built = build(plan)
    model, trainer, data = built.model, built.trainer, built.datamodule
    if fit:
        set_learning_rate(plan, model, trainer)
        tune(plan, model, trainer, data, **plan.requests)
        run_fit(plan, model, trainer, data)
    if test:
        run_test(model, trainer, data, checkpoint=None if fit else plan.checkpoint)
    return built


def set_learning_rate(plan: RunPlan, model: LightningModule, trainer: Trainer) -> None:
    """Set `model.learning_rate` by the rule and say how it came about."""
    rule = LearningRateRule(
        plan.config.model.base_learning_rate,
        batch_size=plan.config.data.params.batch_size,
        devices=trainer.num_devices,
        accumulate=accumulation_at(0, plan.config.lightning.trainer.get("accumulate_grad_batches")),
        scaled=plan.scale_lr,
    )
    model.learning_rate = rule.rate
    logger.info("learning rate %s", rule)
    if trainer.num_nodes > 1 and plan.scale_lr:
        logger.info("the number of nodes, %d, is no factor of the learning rate", trainer.num_nodes)


def tune(
    plan: RunPlan,
    model: LightningModule,
    trainer: Trainer,
    data: LightningDataModule,
    *,
    auto_scale_batch_size: bool | str | None,
    auto_lr_find: bool | str | None,
) -> None:
    """Search the batch size and the learning rate if asked to.

    Raises ConfigError for a search of the learning rate of a module with manual optimization.
    """
    if auto_scale_batch_size:
        mode = "power" if auto_scale_batch_size is True else auto_scale_batch_size
        batch_size = Tuner(trainer).scale_batch_size(model, datamodule=data, mode=mode)
        for config in (plan.config, *(c.config for c in trainer.callbacks if isinstance(c, SetupCallback))):
            config.data.params.batch_size = batch_size
        set_learning_rate(plan, model, trainer)
    if auto_lr_find:
        if not model.automatic_optimization:
            raise ConfigError("auto_lr_find is not supported for a model that steps its optimizers itself")
        attribute = "learning_rate" if auto_lr_find is True else auto_lr_find
        Tuner(trainer).lr_find(model, datamodule=data, attr_name=attribute)
        logger.info("learning rate %.2e found by auto_lr_find", getattr(model, attribute))


def run_fit(plan: RunPlan, model: LightningModule, trainer: Trainer, data: LightningDataModule) -> None:
    """Fit, from the plan's checkpoint if it has one; signals may ask for a checkpoint, the debugger or the end."""
    last = next((callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)), None)
    # Lightning's own handlers talk to other ranks from within, and resubmit jobs of SLURM that ours ends.
    trainer._signal_connector.register_signal_handlers = do_nothing
    try:
        with (
            handling_signals(save=last.request if last else do_nothing, stop=last.stop if last else None),
            explaining_misfits(model, plan.checkpoint),
            explaining_faults(plan.config, data),
        ):
            trainer.fit(model, datamodule=data, ckpt_path=plan.checkpoint, weights_only=True)
    except (ValueError, OSError, ImportError, SystemExit) as error:
        # of which a command shows only the message, as a user's mistake; Lightning exits after Ctrl-C
        if trainer.fit_loop.epoch_loop.batch_progress.total.started:
            if not isinstance(error, NonFiniteError | TrainingFault | SystemExit):
                logger.exception("training broke off")
        elif trainer.is_global_zero and not plan.resumed:
            shutil.rmtree(plan.logdir, ignore_errors=True)
        raise
    check_saved(trainer)


def do_nothing() -> None:
    """Do nothing."""


def run_test(model: LightningModule, trainer: Trainer, data: LightningDataModule, *, checkpoint: Path | None) -> None:
    """Test the model as it is, or as in `checkpoint`; there may be nothing to test."""
    if not is_overridden("test_step", model):
        logger.info("no test: %s has no test_step", type(model).__name__)
    elif not is_overridden("test_dataloader", data):
        logger.info("no test: the config has no data.params.test")
    else:
        with explaining_misfits(model, checkpoint):
            trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
