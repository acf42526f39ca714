"""The Trainer of a run: its logger, its checkpoints and its callbacks, each a default that the config may change."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from taming.config import ConfigError, ConfigSource, instantiate_from_config, merge_sources
from taming.training.disk_faults import PatientCheckpointIO, make_patient
from taming.training.exact_resume import ExactResume
from taming.training.last_checkpoint import LastCheckpoint
from taming.training.legacy_trainer import Settings
from taming.training.loggers import build_logger, default_logger
from taming.training.run_plan import RunPlan
from taming.training.sharding import strategy_for
from taming.training.trainer_options import trainer_arguments

logger = logging.getLogger(__name__)

SWITCHED_OFF_BY = {
    "progress_bar": "enable_progress_bar",
    "model_summary": "enable_model_summary",
    "learning_rate_logger": "logger",
    "device_stats": "logger",
}
"""Callbacks that make no sense when this Trainer argument is false."""

MODULE_SETTINGS = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
"""Trainer arguments that a module with manual optimization applies itself; the Trainer refuses them then."""


def build_trainer(plan: RunPlan, model: LightningModule) -> Trainer:
    """The Trainer for `model`, which is handed those settings that only a module with manual optimization can apply.

    Raises ConfigError for a mistake in the `lightning` section, and for arguments that Lightning refuses.
    """
    lightning = with_defaults(plan, model)
    arguments = trainer_arguments(OmegaConf.to_container(lightning.trainer, resolve=True))
    if arguments.get("logger", True):
        arguments["logger"] = make_patient(build_logger(lightning.logger))
    callbacks: list[Callback] = [ExactResume()]
    if arguments.get("enable_checkpointing", True):
        callbacks += build_checkpointing(lightning.modelcheckpoint)
    callbacks += build_callbacks(lightning.callbacks, arguments)
    callbacks += settle_optimization(model, arguments)
    arguments["plugins"] = [*_as_list(arguments.get("plugins")), PatientCheckpointIO()]
    arguments.setdefault("default_root_dir", str(plan.logdir))
    arguments["strategy"] = strategy_for(arguments.get("strategy", "auto"), model)
    try:
        return Trainer(**arguments, callbacks=callbacks)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"lightning.trainer: {error}") from error


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def with_defaults(plan: RunPlan, model: LightningModule) -> DictConfig:
    """The run's `lightning` section over what every run has."""
    configured = plan.config.lightning
    defaults = {
        "logger": default_logger(configured.get("logger"), plan.logdir, offline=plan.debug),
        "modelcheckpoint": default_checkpointing(plan, model),
        "callbacks": default_callbacks(plan),
    }
    source = ConfigSource("defaults", OmegaConf.create({"lightning": defaults}))
    return merge_sources([source, ConfigSource("", plan.config)]).lightning


def default_checkpointing(plan: RunPlan, model: LightningModule) -> Settings:
    """After each validation; the best three if the model says by which metric, else the newest."""
    params = {"dirpath": str(plan.ckptdir), "filename": "{epoch:06}", "verbose": True, "save_last": True}
    if getattr(model, "monitor", None):
        params |= {"monitor": model.monitor, "save_top_k": 3}
    return {"target": "pytorch_lightning.callbacks.ModelCheckpoint", "params": params}


def default_callbacks(plan: RunPlan) -> Settings:
    """Name -> target config."""
    setup = {
        "resume": str(plan.checkpoint) if plan.resumed else "",
        "now": plan.now,
        "logdir": str(plan.logdir),
        "ckptdir": str(plan.ckptdir),
        "cfgdir": str(plan.cfgdir),
        "config": OmegaConf.masked_copy(plan.config, [key for key in plan.config if key != "lightning"]),
        "lightning_config": plan.config.lightning,
    }
    images = {"batch_frequency": 750, "max_images": 4, "clamp": True}
    report = {
        "logdir": str(plan.logdir),
        "base_learning_rate": plan.config.model.base_learning_rate,
        "batch_size": plan.config.data.params.batch_size,
        "scale_lr": plan.scale_lr,
    }
    return {
        "setup_callback": {"target": "main.SetupCallback", "params": setup},
        "image_logger": {"target": "main.ImageLogger", "params": images},
        "learning_rate_logger": {"target": "main.LearningRateMonitor", "params": {"logging_interval": "step"}},
        # before the bar is drawn
        "plan_logger": {"target": "taming.training.plan_logger.PlanLogger", "params": report},
        "progress_bar": {"target": "taming.training.callbacks.FitProgressBar"},
    }


def build_checkpointing(section: DictConfig) -> list[Callback]:
    """The callback that keeps the newest or the best epochs, and the one that keeps `last.ckpt`.

    Parameters of the second: save_last, whether it also saves when nothing interrupts the run; last_every_n_steps, how
    often besides after validation; keep_last, how many of the newest states stay.
    """
    if monitor := section.params.get("monitor"):
        logger.info("checkpoints: the best %d by %s are kept", section.params.get("save_top_k", 1), monitor)
    last = LastCheckpoint(
        section.params.dirpath,
        only_when_interrupted=not section.params.pop("save_last", True),
        every_n_steps=section.params.pop("last_every_n_steps", None),
        keep=section.params.pop("keep_last", 2),
    )
    return [instantiate_from_config(section), last]


def build_callbacks(section: DictConfig, arguments: Settings) -> list[Callback]:
    """The section's callbacks without those set to null and those that the Trainer's arguments switch off."""
    off = {name for name, switch in SWITCHED_OFF_BY.items() if arguments.get(switch) is False}
    return [
        instantiate_from_config(config) for name, config in section.items() if config is not None and name not in off
    ]


def settle_optimization(model: LightningModule, arguments: Settings) -> list[Callback]:
    """Hand accumulation and clipping to a module with manual optimization; else make a schedule a callback.

    Takes out of `arguments` what the Trainer is not to get.
    """
    if not model.automatic_optimization:
        for name in MODULE_SETTINGS:
            if name in arguments:
                if not hasattr(model, name):
                    logger.warning("%s has no attribute %s: the option has no effect", type(model).__name__, name)
                setattr(model, name, arguments.pop(name))
        return []
    if isinstance(arguments.get("accumulate_grad_batches"), dict):
        return [GradientAccumulationScheduler(arguments.pop("accumulate_grad_batches"))]
    return []
