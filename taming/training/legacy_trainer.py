"""What each Trainer argument of Lightning 1.0.8 is in Lightning 2.6.

An old argument becomes Trainer arguments (`gpus` -> `accelerator`, `devices`), a setting of a named callback
(`track_grad_norm` -> `callbacks.gradient_norm`) or of the checkpoint callback, or nothing where Lightning has dropped
what it did.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

Settings = dict[str, Any]
"""Places in the `lightning` section, such as "trainer.devices", and what belongs there."""

FIND_UNUSED = "ddp_find_unused_parameters_true"

RUN_REQUESTS = ("resume_from_checkpoint", "auto_lr_find", "auto_scale_batch_size")
"""Options about this start of a run only: no Trainer arguments, and not saved with the run."""


def parse_devices(value: Any) -> int | str | list[int]:
    """Devices as people write them: 2 (a count), -1 (all), "auto", "0," or "0,1" or [0, 1] (indices).

    Raises ValueError for anything else.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [int(index) for index in value]
    text = str(value).strip()
    if re.fullmatch(r"\d+(\s*,\s*\d+)*\s*,?", text) and "," in text:
        return [int(index) for index in text.split(",") if index.strip()]
    if re.fullmatch(r"-1|\d+", text):
        return int(text)
    if text == "auto":
        return text
    raise ValueError("expected a number of devices, or indices with a comma such as '0,' or '0,1'")


def _gpus(value: Any) -> Settings:
    if value is None:
        return {}
    devices = parse_devices(value)
    if devices == 0:
        logger.info("gpus 0 means the CPU; the first GPU is '0,' with a comma")
        return {"trainer.accelerator": "cpu"}
    return {"trainer.accelerator": "gpu", "trainer.devices": devices}


def _backend(value: Any) -> Settings:
    if value not in BACKENDS:
        raise ValueError("Lightning 2 does not have it; use ddp")
    return BACKENDS[value]


def _amp_backend(value: Any) -> Settings:
    if value == "apex":
        raise ValueError("Lightning 2 does not have it; leave the option out and use precision 16-mixed")
    return {}


def _progress_bar(value: Any) -> Settings:
    if not value:
        return {} if value is None else {"trainer.enable_progress_bar": False}
    return {"trainer.enable_progress_bar": True, "callbacks.progress_bar.params.refresh_rate": value}


def _model_summary(value: Any) -> Settings:
    depths = {"top": 1, "full": -1}
    if value is None:
        return {"trainer.enable_model_summary": False}
    if value not in depths:
        raise ValueError("expected top, full or null")
    return {
        "trainer.enable_model_summary": True,
        "callbacks.model_summary.target": "pytorch_lightning.callbacks.ModelSummary",
        "callbacks.model_summary.params.max_depth": depths[value],
    }


def _device_stats(value: Any) -> Settings:
    if not value:
        return {}
    return {
        "callbacks.device_stats.target": "pytorch_lightning.callbacks.DeviceStatsMonitor",
        "callbacks.device_stats.params.cpu_stats": False,
    }


def _gradient_norm(value: Any) -> Settings:
    if value is None or value == -1:
        return {}
    return {
        "callbacks.gradient_norm.target": "taming.training.callbacks.GradientNorm",
        "callbacks.gradient_norm.params.norm_type": float(value),
    }


def _tpu_cores(value: Any) -> Settings:
    return {} if value is None else {"trainer.accelerator": "tpu", "trainer.devices": value}


def _renamed(place: str, convert: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], Settings]:
    return lambda value: {} if value is None else {place: convert(value)}


def dropped(value: Any) -> Settings:
    """The translation of what Lightning no longer has."""
    return {}


BACKENDS: dict[str | None, Settings] = {
    None: {},
    "ddp": {"trainer.strategy": FIND_UNUSED},
    "ddp_spawn": {"trainer.strategy": "ddp_spawn_find_unused_parameters_true"},
    "ddp_cpu": {"trainer.strategy": FIND_UNUSED, "trainer.accelerator": "cpu"},
}
"""Kinds of distribution; Lightning 1 searched for unused parameters, and models with two optimizers need that."""

LEGACY_ACCELERATORS = ("ddp", "ddp_spawn", "ddp_cpu", "dp", "ddp2", "horovod")
"""Kinds of distribution that Lightning 1 also took as `accelerator`."""

LEGACY: dict[str, Callable[[Any], Settings]] = {
    "gpus": _gpus,
    "distributed_backend": _backend,
    "num_processes": _renamed("trainer.num_processes"),
    "tpu_cores": _tpu_cores,
    "amp_backend": _amp_backend,
    "checkpoint_callback": _renamed("trainer.enable_checkpointing"),
    "progress_bar_refresh_rate": _progress_bar,
    "weights_summary": _model_summary,
    "terminate_on_nan": _renamed("trainer.detect_anomaly"),
    "reload_dataloaders_every_epoch": _renamed("trainer.reload_dataloaders_every_n_epochs", int),
    "replace_sampler_ddp": _renamed("trainer.use_distributed_sampler"),
    "log_gpu_memory": _device_stats,
    "track_grad_norm": _gradient_norm,
    "weights_save_path": _renamed("modelcheckpoint.params.dirpath"),
    **{name: _renamed(f"trainer.{name}") for name in RUN_REQUESTS},
    "auto_select_gpus": dropped,
    "process_position": dropped,
    "amp_level": dropped,
    "truncated_bptt_steps": dropped,
    "automatic_optimization": dropped,
    "flush_logs_every_n_steps": dropped,
    "prepare_data_per_node": dropped,
}
"""Arguments that Lightning 2.6 does not have, and their translations."""

LEGACY_SWITCHES = (
    "checkpoint_callback",
    "terminate_on_nan",
    "reload_dataloaders_every_epoch",
    "replace_sampler_ddp",
    "log_gpu_memory",
    "auto_lr_find",
    "auto_scale_batch_size",
    "auto_select_gpus",
    "automatic_optimization",
    "prepare_data_per_node",
)
"""Those of LEGACY that mean true when they are given without a value."""


def _precision(value: Any) -> str:
    historic = {"16": "16-mixed", "32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}
    return historic.get(str(value), str(value))


def _logger_switch(value: Any) -> bool:
    if not isinstance(value, bool | None):
        raise ValueError("expected true or false; a logger is configured in lightning.logger")
    return value is not False


def _accumulation(value: Any) -> Any:
    return {int(epoch): factor for epoch, factor in value.items()} if isinstance(value, Mapping) else value


def _no_callbacks(value: Any) -> Any:
    raise ValueError("callbacks are configured by name in lightning.callbacks")


VALUES: dict[str, Callable[[Any], Any]] = {
    "precision": _precision,
    "logger": _logger_switch,
    "callbacks": _no_callbacks,
    "max_steps": lambda value: -1 if value is None else value,
    "profiler": lambda value: "simple" if value is True else value or None,
    "accumulate_grad_batches": _accumulation,
}
"""Arguments of both versions whose values changed; each function raises ValueError for a value it cannot take."""
