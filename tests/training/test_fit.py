"""Training runs from their command line: the run folder, the config's share in it, and what cannot start."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from tiny_runs import At, at, fit, last_checkpoint, model, names, run_folders

from taming.checkpoint import CheckpointError
from taming.config import ConfigError, load_config
from taming.training import get_parser, train
from taming.training.learning_rate import LearningRateRule

ROOT = Path(__file__).parents[2]


def test_what_a_run_leaves(config):
    result = fit(config, "-n", "first", "-f", "_x", "--max_epochs", "2")
    stamp = re.fullmatch(r"logs/(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)_first_x", str(result.logdir))[1]
    assert run_folders() == [result.logdir]
    assert names(result.logdir) == ["checkpoints", "configs", "images", "tensorboard"]
    assert names(result.logdir / "configs") == [f"{stamp}-lightning.yaml", f"{stamp}-project.yaml"]
    assert names(result.logdir / "checkpoints") == ["epoch=000001.ckpt", "last.1.ckpt", "last.ckpt"]
    assert names(result.logdir / "tensorboard") == ["version_0"]
    train_images = ["gs-000000_e-000000_b-000000", "gs-000001_e-000000_b-000001"]
    train_images += ["gs-000002_e-000000_b-000002", "gs-000004_e-000001_b-000000"]
    val_images = ["gs-000000_e-000000_b-000000", "gs-000003_e-000000_b-000000", "gs-000007_e-000001_b-000000"]
    for split, stems in (("train", train_images), ("val", val_images)):
        expected = [f"{key}_{stem}.png" for key in ("inputs", "reconstructions") for stem in stems]
        assert names(result.logdir / "images" / split) == expected
    assert last_checkpoint()["global_step"] == result.trainer.global_step == 8


def test_saved_configs_are_in_todays_terms_and_read_back_the_same(config):
    result = fit(config, "--precision", "32", "--max_epochs", "1", "model.base_learning_rate=1e-3")
    files = sorted(result.logdir.glob("configs/*.yaml"))
    lightning, project = map(OmegaConf.load, files)
    original = OmegaConf.load(config)
    original.model.base_learning_rate = 1e-3
    expected = {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    assert lightning == {"lightning": {"trainer": {**expected, "accelerator": "cpu", "precision": "32-true"}}}
    assert project == {"model": original.model, "data": original.data}
    assert load_config(files) == OmegaConf.merge(project, lightning)


def test_two_runs_of_one_second_have_folders_of_their_own(config):
    first, second = (fit(config, "--max_steps", "1").logdir for _ in range(2))
    assert run_folders() == [first, second]
    assert "TAMING_RUN_NAME" not in os.environ


def test_the_best_three_by_the_models_metric_and_the_newest_are_kept(config):
    result = fit(config, "--max_epochs", "5", *model("WorseningModel", monitor="val/rec_loss"))
    kept = ["epoch=000000.ckpt", "epoch=000001.ckpt", "epoch=000002.ckpt", "last.1.ckpt", "last.ckpt"]
    assert names(result.logdir / "checkpoints") == kept
    assert last_checkpoint()["global_step"] == 20


def test_last_follows_every_save_of_the_checkpoint_callback(config):
    fit(config, "--max_steps", "4", "lightning.modelcheckpoint.params.every_n_train_steps=2", at(3, "look"))
    assert At.seen == 2


def test_without_save_last_only_interruptions_write_it(config):
    arguments = [config, "--max_epochs", "1", "lightning.modelcheckpoint.params.save_last=false"]
    assert names(fit(*arguments).logdir / "checkpoints") == ["epoch=000000.ckpt"]
    with pytest.raises(RuntimeError):
        fit(*arguments, at(2, "fail"))
    assert last_checkpoint(run_folders()[1])["global_step"] == 2


def test_no_checkpoints_no_logger_no_callback(config):
    switches = ["--checkpoint_callback", "false", "--logger", "false"]
    result = fit(config, "--max_steps", "2", *switches, "lightning.callbacks.image_logger=null")
    assert names(result.logdir) == ["checkpoints", "configs"]
    assert names(result.logdir / "checkpoints") == []


def test_a_config_changes_default_callbacks_and_logger(config):
    csv = "lightning.logger.target=pytorch_lightning.loggers.CSVLogger"
    every = "lightning.callbacks.image_logger.params={batch_frequency: 3, increase_log_steps: false}"
    result = fit(config, "--max_epochs", "1", csv, every, "--track_grad_norm", "2", "--log_every_n_steps", "1")
    assert [name[-12:] for name in names(result.logdir / "images" / "train")] == ["b-000000.png", "b-000003.png"] * 2
    metrics = (result.logdir / "csv" / "version_0" / "metrics.csv").read_text()
    assert {"grad_norm/optimizer_0", "lr-Adam", "val/rec_loss"} <= set(metrics.splitlines()[0].split(","))


def test_sections_may_refer_to_each_other(config):
    arguments = [
        "model.params.monitor=val/rec_loss",
        "lightning.modelcheckpoint.params.monitor=${model.params.monitor}",
    ]
    result = fit(config, "--max_steps", "${data.params.batch_size}", *arguments)
    assert result.trainer.global_step == 2
    assert result.trainer.checkpoint_callback.monitor == "val/rec_loss"


def test_accumulation_and_clipping_reach_a_module_that_steps_by_itself(config):
    options = ["--accumulate_grad_batches", "{0: 1, 1: 2}", "--gradient_clip_val", "0.5"]
    result = fit(
        config, "--max_epochs", "1", *model("TwoOptimizerModel"), *options, "--gradient_clip_algorithm", "value"
    )
    assert result.model.accumulate_grad_batches == {0: 1, 1: 2}
    assert (result.model.gradient_clip_val, result.model.gradient_clip_algorithm) == (0.5, "value")
    assert (result.trainer.accumulate_grad_batches, result.trainer.gradient_clip_val) == (1, None)
    assert result.trainer.global_step == last_checkpoint()["global_step"] == 4


def test_accumulation_of_other_modules_is_the_trainers(config):
    result = fit(config, "--max_epochs", "2", "--accumulate_grad_batches", "{0: 1, 1: 2}")
    assert result.trainer.global_step == 4 + 2


@pytest.mark.parametrize(("accumulate", "rate"), [(1, 1.08e-4), (8, 8.64e-4)])
def test_learning_rate_rule(accumulate, rate):
    rule = LearningRateRule(4.5e-6, batch_size=12, devices=2, accumulate=accumulate)
    assert rule.rate == pytest.approx(rate)


@pytest.mark.parametrize(("accumulate", "rate"), [("1", "1.08e-04"), ("{0: 8, 3: 2}", "8.64e-04")])
def test_learning_rate_is_printed_with_its_factors(config, caplog, monkeypatch, accumulate, rate):
    caplog.set_level("INFO")
    monkeypatch.setattr(pl.Trainer, "fit", lambda *_, **__: None)
    options = ["--devices", "2", "--accumulate_grad_batches", accumulate]
    result = fit(config, "data.params.batch_size=12", "model.base_learning_rate=4.5e-6", *options)
    (line,) = (message for message in caplog.messages if message.startswith("learning rate"))
    assert line.startswith(f"learning rate {rate} = ")
    assert all(part in line for part in ("2 (devices)", "12 (batch_size)", "4.50e-06 (base_learning_rate)"))
    assert f"{result.model.learning_rate:.2e}" == rate


def test_the_batch_size_is_searched_when_asked(config):
    result = fit(config, "--max_epochs", "1", "--auto_scale_batch_size", "power")
    project = OmegaConf.load(next(result.logdir.glob("configs/*-project.yaml")))
    assert project.data.params.batch_size == result.datamodule.batch_size == 8
    assert (result.model.learning_rate, result.trainer.global_step) == (pytest.approx(0.08), 1)
    assert not list(Path().rglob(".*.ckpt"))


def test_the_learning_rate_is_searched_when_asked(config):
    result = fit(config, "--max_steps", "3", "--max_epochs", "50", "--auto_lr_find")
    assert result.model.learning_rate != 0.02
    assert result.trainer.optimizers[0].param_groups[0]["lr"] == result.model.learning_rate
    assert result.trainer.global_step == 3


def test_testing_needs_a_test_step_and_data(config, caplog):
    caplog.set_level("INFO")
    train(["-b", config])
    train(["-b", config, *model("ModelWithTest")])
    assert [message for message in caplog.messages if message.startswith("no test: ")] == [
        "no test: TinyModel has no test_step",
        "no test: the config has no data.params.test",
    ]
    assert run_folders() == []


def test_testing_uses_the_trained_weights_or_those_of_the_run(config):
    arguments = [*model("ModelWithTest"), "data.params.test=${data.params.validation}"]
    trained = fit(config, "--max_epochs", "1", *arguments)
    assert torch.equal(trained.model.tested_weight, trained.model.net.weight)
    again = train(["-r", str(trained.logdir)])
    assert torch.equal(again.model.tested_weight, trained.model.tested_weight)
    skipped = train(["-r", str(trained.logdir), "--no-test"])
    assert not hasattr(skipped.model, "tested_weight")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["lightning.trainer.max_epoch=3"], ConfigError, ["lightning.trainer.max_epoch", "max_epochs"]),
        (["--max_epohcs", "5"], ConfigError, ["--max_epohcs", "--max_epochs"]),
        (["data.params.batchsize=3"], ConfigError, ["command line", "data.params.batchsize", "batch_size"]),
        (["model.params.monitr=x"], ConfigError, ["command line", "model.params.monitr", "monitor"]),
        (["lightning.loger.target=x"], ConfigError, ["command line", "lightning.loger", "logger"]),
        (
            ["lightning.callbacks.image_logger.params.batch_frequensy=1"],
            ConfigError,
            ["command line", "image_logger.params.batch_frequensy", "batch_frequency"],
        ),
        (["lightning.callbacks.mine={params: {}}"], ConfigError, ["lightning.callbacks.mine.target", "missing"]),
        (
            ["lightning.logger.target=pytorch_lightning.loggers.TensorBordLogger"],
            ConfigError,
            ["command line", "lightning.logger.target", "TensorBoardLogger"],
        ),
        (["--precision", "8"], ConfigError, ["lightning.trainer", "8"]),
        (["--auto_lr_find", *model("TwoOptimizerModel")], ConfigError, ["auto_lr_find", "not supported"]),
        (["data.params.train.params={path: /no/such}"], FileNotFoundError, ["data.params.train", "/no/such"]),
        (["--resume_from_checkpoint", "none.ckpt"], FileNotFoundError, ["resume_from_checkpoint", "none.ckpt"]),
        (["--resume_from_checkpoint", "tiny.yaml"], CheckpointError, ["tiny.yaml"]),
    ],
)
def test_a_run_that_cannot_start_says_why_and_leaves_nothing(config, arguments, error, words):
    with pytest.raises(error) as caught:
        fit(config, *arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert run_folders() == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-t"], ["--base", "--resume"]),
        (["-n", "x", "-r", "logs/x"], ["exclude", "--resume_from_checkpoint"]),
        (["-r"], ["--resume", "expected one argument"]),
        (["-b", "tiny.yaml", "-n"], ["--name", "expected one argument"]),
        (["-b", "tiny.yaml", "--train", "perhaps"], ["--train", "perhaps"]),
    ],
)
def test_options_that_cannot_be(argv, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        train(argv)
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("argv", "train_", "debug"),
    [([], False, False), (["-t"], True, False), (["-t", "no", "-d", "Y"], False, True), (["--train=1"], True, False)],
)
def test_switches(argv, train_, debug):
    options = get_parser().parse_args(argv)
    assert (options.train, options.debug, options.no_test, options.seed) == (train_, debug, False, 23)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_the_command_without_a_gpu(config):
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        "-b",
        config,
        "-t",
        "--gpus",
        "0,",
        "model.target=taming.absent.X",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: --gpus 0,: no CUDA GPU") and run.stderr.count("\n") == 1
    assert run_folders() == []


def test_an_image_that_cannot_be_read_in_the_sanity_check_leaves_no_run_folder(config):
    Path("broken.png").write_bytes(b"no image")
    Path("list.txt").write_text("broken.png\n")
    params = "params: {size: 8, test_images_list_file: list.txt}"
    images = f"data.params.validation={{target: taming.data.custom.CustomTest, {params}}}"
    with pytest.raises(OSError, match=r"CustomTest: cannot read image broken\.png"):
        train(["-b", config, "-t", images])
    assert run_folders() == []
