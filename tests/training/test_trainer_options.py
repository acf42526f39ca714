"""Options of the Trainer: each old name in today's terms, and what happens when sources and styles meet."""

import argparse

import pytest
import torch
from omegaconf import OmegaConf

from taming.config import COMMAND_LINE, ConfigError, ConfigSource, merge_sources
from taming.training.trainer_options import (
    FIND_UNUSED,
    OPTION_NAMES,
    add_trainer_options,
    check_devices,
    nondefault_trainer_args,
    trainer_arguments,
    translate,
    with_options,
)


def source(name="a.yaml", **trainer):
    return ConfigSource(name, OmegaConf.create({"lightning": {"trainer": trainer}}))


def merged(*sources):
    """The merged `lightning` section as plain data."""
    translated, _ = translate(sources)
    return OmegaConf.to_container(merge_sources(translated).lightning)


def trainer_of(*sources):
    return merged(*sources)["trainer"]


def parse(*argv):
    parser = argparse.ArgumentParser()
    add_trainer_options(parser)
    return parser.parse_args(argv)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("gpus", "0,", {"accelerator": "gpu", "devices": [0]}),
        ("gpus", "0,1", {"accelerator": "gpu", "devices": [0, 1]}),
        ("gpus", [2, 3], {"accelerator": "gpu", "devices": [2, 3]}),
        ("gpus", 2, {"accelerator": "gpu", "devices": 2}),
        ("gpus", -1, {"accelerator": "gpu", "devices": -1}),
        ("gpus", 0, {"accelerator": "cpu"}),
        ("gpus", None, {}),
        ("distributed_backend", "ddp", {"strategy": FIND_UNUSED}),
        ("accelerator", "ddp", {"strategy": FIND_UNUSED}),
        ("distributed_backend", "ddp_spawn", {"strategy": "ddp_spawn_find_unused_parameters_true"}),
        ("distributed_backend", "ddp_cpu", {"strategy": FIND_UNUSED, "accelerator": "cpu"}),
        ("accelerator", "cpu", {"accelerator": "cpu"}),
        ("tpu_cores", 8, {"accelerator": "tpu", "devices": 8}),
        ("precision", 16, {"precision": "16-mixed"}),
        ("precision", "32", {"precision": "32-true"}),
        ("precision", 64, {"precision": "64-true"}),
        ("precision", "bf16", {"precision": "bf16-mixed"}),
        ("precision", "bf16-true", {"precision": "bf16-true"}),
        ("amp_backend", "native", {}),
        ("amp_level", "O2", {}),
        ("checkpoint_callback", False, {"enable_checkpointing": False}),
        ("logger", False, {"logger": False}),
        ("logger", None, {"logger": True}),
        ("progress_bar_refresh_rate", 0, {"enable_progress_bar": False}),
        ("weights_summary", None, {"enable_model_summary": False}),
        ("profiler", True, {"profiler": "simple"}),
        ("profiler", "advanced", {"profiler": "advanced"}),
        ("profiler", False, {"profiler": None}),
        ("terminate_on_nan", True, {"detect_anomaly": True}),
        ("reload_dataloaders_every_epoch", True, {"reload_dataloaders_every_n_epochs": 1}),
        ("reload_dataloaders_every_epoch", False, {"reload_dataloaders_every_n_epochs": 0}),
        ("replace_sampler_ddp", False, {"use_distributed_sampler": False}),
        ("max_steps", None, {"max_steps": -1}),
        ("accumulate_grad_batches", {"0": 1, "4": 2}, {"accumulate_grad_batches": {0: 1, 4: 2}}),
        ("track_grad_norm", -1, {}),
        ("gradient_clip_val", 0.5, {"gradient_clip_val": 0.5}),
        ("check_val_every_n_epoch", 3, {"check_val_every_n_epoch": 3}),
    ],
)
def test_each_option_in_lightning_2_terms(option, value, expected):
    assert merged(source(**{option: value})) == {"trainer": expected}


def test_old_options_that_became_callbacks():
    lightning = merged(
        source(
            progress_bar_refresh_rate=5,
            weights_summary="full",
            track_grad_norm=2,
            log_gpu_memory="all",
            weights_save_path="elsewhere",
        )
    )
    callbacks = lightning["callbacks"]
    assert lightning["trainer"] == {"enable_progress_bar": True, "enable_model_summary": True}
    assert callbacks["progress_bar"] == {"params": {"refresh_rate": 5}}
    assert callbacks["model_summary"]["params"] == {"max_depth": -1}
    assert callbacks["gradient_norm"] == {
        "target": "taming.training.callbacks.GradientNorm",
        "params": {"norm_type": 2.0},
    }
    assert callbacks["device_stats"]["target"].endswith("DeviceStatsMonitor")
    assert lightning["modelcheckpoint"] == {"params": {"dirpath": "elsewhere"}}


def test_what_lightning_dropped_is_accepted_with_one_notice(caplog):
    caplog.set_level("INFO")
    assert trainer_of(source(auto_select_gpus=True, process_position=1, truncated_bptt_steps=None)) == {}
    notices = [record.getMessage() for record in caplog.records]
    assert notices == [
        "a.yaml: ignored, Lightning no longer has it: auto_select_gpus, process_position, truncated_bptt_steps"
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_epoch": 3}, ["a.yaml", "lightning.trainer.max_epoch = 3", "did you mean max_epochs"]),
        ({"distributed_backend": "dp"}, ["lightning.trainer.distributed_backend = dp", "use ddp"]),
        ({"accelerator": "horovod"}, ["lightning.trainer.accelerator = horovod", "use ddp"]),
        ({"amp_backend": "apex"}, ["lightning.trainer.amp_backend = apex", "16-mixed"]),
        ({"gpus": "first"}, ["lightning.trainer.gpus = first", "'0,'"]),
        ({"gpus": True}, ["lightning.trainer.gpus = True", "'0,'"]),
        ({"weights_summary": "all"}, ["weights_summary = all", "top, full or null"]),
        ({"callbacks": []}, ["lightning.trainer.callbacks", "lightning.callbacks"]),
        ({"logger": "wandb"}, ["lightning.trainer.logger = wandb", "lightning.logger"]),
        ({"gpus": 1, "devices": 1}, ["lightning.trainer.gpus = 1", "lightning.trainer.devices = 1", "keep one"]),
        ({"accelerator": "gpu", "gpus": "0,"}, ["accelerator = gpu", "gpus = 0,", "keep one"]),
        ({"accelerator": "ddp", "strategy": "auto"}, ["accelerator = ddp", "strategy = auto", "keep one"]),
        ({"distributed_backend": "ddp", "accelerator": "ddp_spawn"}, ["keep one"]),
    ],
)
def test_mistakes_name_file_key_and_remedy(settings, words):
    with pytest.raises(ConfigError) as error:
        translate([source(**settings)])
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"devices": 2, "accelerator": "gpu"}, {"gpus": "1,"}, {"accelerator": "gpu", "devices": [1]}),
        ({"gpus": "0,1"}, {"devices": 4}, {"accelerator": "gpu", "devices": 4}),
        ({"gpus": "0,1"}, {"accelerator": "cpu"}, {"accelerator": "cpu", "devices": 1}),
        ({"gpus": "0,1"}, {"gpus": 0}, {"accelerator": "cpu", "devices": 1}),
        ({"devices": 2}, {"accelerator": "gpu"}, {"accelerator": "gpu", "devices": 2}),
        ({"distributed_backend": "ddp"}, {"gpus": "0,1"}, {"strategy": FIND_UNUSED, "accelerator": "gpu"}),
        ({"progress_bar_refresh_rate": 0}, {"enable_progress_bar": True}, {"enable_progress_bar": True}),
        ({"max_epochs": 3}, {"max_epochs": 1000}, {"max_epochs": 1000}),
        ({"distributed_backend": "ddp_cpu"}, {"num_processes": 3}, {"accelerator": "cpu", "devices": 3}),
        ({"gpus": "0,"}, {"num_processes": 3}, {"accelerator": "gpu", "devices": [0]}),
    ],
)
def test_old_and_new_style_override_each_other(first, second, expected):
    trainer = trainer_of(source(**first), source("b.yaml", **second))
    assert {**trainer, **expected} == trainer


def test_the_command_line_is_one_source_and_the_last():
    overrides = ConfigSource(COMMAND_LINE, OmegaConf.from_dotlist(["lightning.trainer.max_epochs=2", "model.x=1"]))
    options = parse("--max_epochs", "7", "--gpus", "0")
    sources = list(with_options([source(max_epochs=1, max_steps=9), overrides], options))
    assert [s.name for s in sources] == ["a.yaml", COMMAND_LINE]
    assert trainer_of(*sources) == {"max_epochs": 7, "max_steps": 9, "accelerator": "cpu"}
    both = parse("--gpus", "0,", "--devices", "2")
    with pytest.raises(ConfigError, match=r"--gpus 0, and --devices 2.*keep one"):
        translate(list(with_options([], both)))


def test_every_name_of_both_versions_is_an_option():
    assert {"gpus", "tpu_cores", "flush_logs_every_n_steps", "devices", "inference_mode"} <= set(OPTION_NAMES)
    options = parse(*(f"--{name}=7" for name in OPTION_NAMES))
    assert nondefault_trainer_args(options) == sorted(OPTION_NAMES)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--gpus", "0,"], "0,"),
        (["--gpu", "0,1"], "0,1"),
        (["--gpus", "-1"], -1),
        (["--max_steps", "null"], None),
        (["--val_check_interval", "0.25"], 0.25),
        (["--accumulate_grad_batches", "{0: 1, 4: 2}"], {0: 1, 4: 2}),
        (["--devices", "[0,1]"], [0, 1]),
        (["--benchmark"], True),
        (["--checkpoint_callback", "false"], False),
        (["--max_time", "12:00:00:00"], "12:00:00:00"),
        (["--resume_from_checkpoint", "logs/a/epoch=000001.ckpt"], "logs/a/epoch=000001.ckpt"),
    ],
)
def test_values_are_read_as_yaml(argv, expected):
    (value,) = vars(parse(*argv)).values()
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("argv", [["--max_epochs"], ["--devices", "[0"]])
def test_options_that_argparse_refuses(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(*argv)
    assert exit_.value.code == 2
    assert argv[0] in capsys.readouterr().err


def check(*sources):
    translated, origins = translate(sources)
    check_devices(merge_sources(translated).lightning.trainer, origins)


@pytest.fixture
def gpus(monkeypatch):
    """Call it with the number of CUDA devices that the machine shall seem to have."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_a_gpu_that_is_not_there(gpus):
    gpus(0)
    with pytest.raises(ConfigError, match=r"^--gpus 0,: no CUDA GPU.*--accelerator cpu"):
        check(source(COMMAND_LINE, gpus="0,"))
    with pytest.raises(ConfigError, match=r"^a\.yaml: lightning\.trainer\.accelerator = gpu: no CUDA"):
        check(source(accelerator="gpu"))
    check(source(gpus="0,"), source(COMMAND_LINE, accelerator="cpu"))


@pytest.mark.parametrize(
    ("wanted", "available", "fits"),
    [("1,", 1, False), ("0,", 1, True), (3, 2, False), (2, 2, True), (-1, 1, True), ([0, 3], 3, False)],
)
def test_indices_and_counts_of_gpus(gpus, wanted, available, fits):
    gpus(available)
    if fits:
        check(source(COMMAND_LINE, gpus=wanted))
    else:
        with pytest.raises(ConfigError, match=rf"^--gpus .*: this machine has {available} GPU"):
            check(source(COMMAND_LINE, gpus=wanted))


def test_defaults_of_the_trainer():
    assert trainer_arguments({}) == {"accelerator": "auto", "devices": 1, "max_epochs": 1000}
    assert "max_epochs" not in trainer_arguments({"max_steps": 5})
    assert "max_epochs" not in trainer_arguments({"max_time": "00:01:00:00"})
    assert trainer_arguments({"max_steps": -1})["max_epochs"] == 1000
    assert trainer_arguments({"max_epochs": 3})["max_epochs"] == 3


@pytest.mark.parametrize(
    ("settings", "strategy"),
    [
        ({"devices": 1}, None),
        ({"accelerator": "gpu", "devices": [1]}, None),
        ({"accelerator": "gpu", "devices": [0, 1]}, FIND_UNUSED),
        ({"accelerator": "cpu", "devices": 2}, FIND_UNUSED),
        ({"num_nodes": 2}, FIND_UNUSED),
        ({"devices": 2, "strategy": "ddp"}, "ddp"),
    ],
)
def test_several_devices_search_for_unused_parameters(settings, strategy):
    assert trainer_arguments(settings).get("strategy") == strategy
