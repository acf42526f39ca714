"""The plan that is printed before training, dry runs, the switch of the learning-rate rule, and stopping early."""

import os

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from tiny_configs import ddconfig
from tiny_runs import Noise, TwoOptimizerModel, at, fit, last_checkpoint, names, run_folders
from torch import nn
from torch.utils.data import DataLoader

from taming.config import ConfigError
from taming.training import get_parser, train
from taming.training.model_size import Part, in_bytes, in_millions, memory_of, parts_of, state_bytes
from taming.training.plan_logger import PlanLogger
from taming.training.plan_table import Length

EARLY = "lightning.callbacks.stop.target=pytorch_lightning.callbacks.EarlyStopping"
AVERAGE = "lightning.callbacks.average.target=taming.weight_average.WeightAverage"
LOSS = {
    "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "params": {"disc_start": 6, "disc_num_layers": 1, "disc_ndf": 4, "perceptual_weight": 0.0},
}
SCHEDULE = (
    "{target: taming.lr_scheduler.LambdaWarmUpCosineScheduler, params: "
    "{warm_up_steps: 2, lr_start: 0.0, lr_max: 1.0, lr_min: 0.0, max_decay_steps: 4}}"
)
VQGAN = {"ddconfig": ddconfig(resolution=8), "lossconfig": LOSS, "n_embed": 8, "embed_dim": 4}


class WorseningTwoOptimizerModel(TwoOptimizerModel):
    """Its metric is best in epoch 0."""

    def validation_step(self, batch, batch_idx):
        self.log("val/rec_loss", float(self.current_epoch))


@pytest.fixture
def vqgan(config):
    """The same with a VQGAN."""
    content = OmegaConf.load(config)
    content.model.target, content.model.params = "taming.models.vqgan.VQModel", VQGAN
    OmegaConf.save(content, config)
    return config


def report_of(result):
    return next(callback for callback in result.trainer.callbacks if isinstance(callback, PlanLogger)).report


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def dry_run(config, *arguments):
    return train(["-b", config, "--dry-run", "--accelerator", "cpu", *arguments])


def test_the_plan_of_a_run(config, caplog):
    caplog.set_level("INFO")
    result = fit(config, "--max_epochs", "3", "--max_steps", "9", "--accumulate_grad_batches", "2")
    message = next(message for message in caplog.messages if message.startswith("Training plan"))
    rows = report_of(result).rows()
    assert message == "Training plan\n" + "\n".join(f"  {label:<13}  {text}" for label, text in rows.items())
    assert rows == {
        "run folder": str(result.logdir),
        "devices": "1 x cpu, precision 32-true",
        "examples": "8 for train, 4 for validation",
        "batch": "2 per device * 2 accumulated = 4 per step",
        "learning rate": "4.00e-02 = 2 (accumulate_grad_batches) * 1 (devices) * 2 (batch_size) * "
        "1.00e-02 (base_learning_rate)",
        "optimizers": "Adam for 12 at 4.00e-02",
        "length": "6 steps = 3 epochs of 2",
        "trained": "net 12",
        "memory": "weights 48 B + gradients 48 B + optimizer state 96 B = 192 B per process, without activations",
        "checkpoints": "the newest epoch and last.ckpt, about 144 B each",
    }


def test_a_vqgans_plan_tells_of_its_discriminator_and_of_each_optimizer(vqgan, caplog):
    result = dry_run(vqgan, "--max_steps", "12", AVERAGE, "model.params.scheduler_config=" + SCHEDULE)
    report, rows = report_of(result), report_of(result).rows()
    assert rows["discriminator"] == "from step 6 (disc_start), 50% of the run"
    assert rows["schedule"] == "LambdaWarmUpCosineScheduler"
    assert rows["optimizers"].count("Adam for") == 2 and rows["optimizers"].count("at 2.00e-02") == 2
    assert rows["no gradients"] == "loss.perceptual_loss 14.7 M"
    trained = {part.name: part.trained for part in report.parts if part.trained}
    assert set(trained) == {
        *("encoder", "decoder", "loss.discriminator", "quantize", "quant_conv", "post_quant_conv"),
    }
    autoencoder = 4 * (sum(trained.values()) - trained["loss.discriminator"])
    assert report.memory.average == autoencoder
    assert report.memory.gradients == autoencoder  # the discriminator's come after these are freed
    assert report.memory.optimizer_state == 8 * sum(trained.values())
    assert not warnings_of(caplog)


def test_a_discriminator_after_the_end_of_the_run_is_warned_about(vqgan, caplog):
    report = report_of(dry_run(vqgan, "--max_epochs", "1"))
    assert report.length.steps == 4 and report.rows()["discriminator"] == "from step 6 (disc_start), after the end"
    assert "the discriminator starts at step 6 and the run ends at 4: it is not used" in warnings_of(caplog)
    caplog.clear()
    assert (
        "settled" in report_of(dry_run(vqgan, "model.params.lossconfig.params.disc_start=auto")).rows()["discriminator"]
    )
    assert not warnings_of(caplog)


def test_a_dry_run_makes_a_step_and_leaves_nothing(config, caplog, tmp_path):
    caplog.set_level("INFO")
    before = names(tmp_path)
    result = dry_run(config, at(0, "fail"), "--accumulate_grad_batches", "3", "--max_epochs", "7", "--min_epochs", "2")
    assert result.trainer.global_step == 1
    assert names(tmp_path) == before and not result.logdir.exists()
    assert report_of(result).length == Length(start=0, steps=14, per_epoch=2)
    assert report_of(result).checkpoints == "the newest epoch and last.ckpt, about 144 B each"
    assert any(message.startswith("dry run: the first step took") for message in caplog.messages)
    assert "TAMING_RUN_NAME" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.params.validation.target=taming.absent.X"], ["data.params.validation", "taming.absent"]),
        (["data.params.train.params={path: /no/such}"], ["data.params.train", "/no/such"]),
        (
            [EARLY, "lightning.callbacks.stop.params.monitor=val/rec_los"],
            ["EarlyStopping", "val/rec_los", "val/rec_loss"],
        ),
        (["lightning.modelcheckpoint.params.monitor=val/recloss"], ["ModelCheckpoint", "val/recloss", "val/rec_loss"]),
    ],
)
@pytest.mark.parametrize("start", [dry_run, fit])
def test_mistakes_are_found_before_the_first_step(config, arguments, words, start):
    with pytest.raises(ValueError) as caught:
        start(config, *arguments)
    assert isinstance(caught.value, ConfigError)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert run_folders() == []


class OtherData(pl.LightningDataModule):
    """A user's own data module."""

    def __init__(self, batch_size):
        super().__init__()
        self.datasets = [Noise()]
        self.loaded = []

    def train_dataloader(self):
        return DataLoader(self.datasets[0], batch_size=2)

    def val_dataloader(self):
        return DataLoader(Recorder(self.loaded), batch_size=2)


class Recorder(Noise):
    """Notes which images are read."""

    def __init__(self, loaded):
        super().__init__()
        self.loaded = loaded

    def __getitem__(self, index):
        self.loaded.append(index)
        return super().__getitem__(index)


def test_data_modules_of_other_kinds_and_one_batch_of_validation(config):
    content = OmegaConf.load(config)
    content.data = {"target": f"{__name__}.OtherData", "params": {"batch_size": 2}}
    OmegaConf.save(content, config)
    result = dry_run(config)
    assert report_of(result).batch == (2, 1, 1) and "examples" not in report_of(result).rows()
    assert result.datamodule.loaded == [0, 1] * 2  # of the sanity check, and after the step


def test_a_dry_run_of_a_run_that_goes_on_or_is_at_its_end(config, caplog):
    caplog.set_level("INFO")
    logdir = fit(config, "--max_epochs", "1").logdir
    before = {path: path.read_bytes() for path in logdir.rglob("*") if path.is_file()}
    again = ["-r", str(logdir), "--dry-run", "--accelerator", "cpu"]
    assert (
        report_of(train([*again, "--max_epochs", "3"])).rows()["length"] == "12 steps = 3 epochs of 4, from step 4 on"
    )
    caplog.clear()
    assert report_of(train(again)) is None
    assert any("nothing left to train" in message for message in caplog.messages)
    assert {path: path.read_bytes() for path in logdir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("argv", "dry", "scaled"),
    [
        ([], False, True),
        (["--dry-run"], True, True),
        (["--dry", "no"], False, True),
        (["--scale_lr", "f"], False, False),
    ],
)
def test_switches(argv, dry, scaled):
    options = get_parser().parse_args(argv)
    assert (options.dry_run, options.scale_lr) == (dry, scaled)


def test_the_base_rate_is_taken_as_it_is_when_asked(config, caplog):
    caplog.set_level("INFO")
    result = fit(config, "--max_steps", "1", "--scale_lr", "False", "--accumulate_grad_batches", "2")
    assert result.trainer.optimizers[0].param_groups[0]["lr"] == result.model.learning_rate == 0.01
    assert report_of(result).learning_rate == "1.00e-02 = 1.00e-02 (base_learning_rate), not scaled"
    assert "learning rate 1.00e-02 = 1.00e-02 (base_learning_rate), not scaled" in caplog.messages


def test_a_callback_of_the_run_can_be_left_out(config, caplog):
    caplog.set_level("INFO")
    fit(config, "--max_steps", "1", "lightning.callbacks.plan_logger=null")
    assert not any("Training plan" in message for message in caplog.messages)


@pytest.mark.parametrize("kind", ["WorseningModel", "WorseningTwoOptimizerModel"])
def test_a_run_that_does_not_improve_stops_and_goes_on_only_to_stop_again(config, kind):
    home = "tiny_runs" if kind == "WorseningModel" else __name__
    stop = [EARLY, "lightning.callbacks.stop.params={monitor: val/rec_loss, patience: 2}"]
    result = fit(config, "--max_epochs", "9", f"model.target={home}.{kind}", *stop)
    assert result.trainer.global_step == 3 * 4
    limits = report_of(result).limits
    assert limits == ("or until val/rec_loss has not improved 2 times",)
    saved = last_checkpoint()["callbacks"]
    assert next(state for key, state in saved.items() if key.startswith("EarlyStopping"))["wait_count"] == 2
    again = train(["-r", str(result.logdir), "-t"])
    assert again.trainer.global_step == 4 * 4


def test_lengths():
    assert str(Length(0, 1000, 400)) == "1,000 steps = 2.5 epochs of 400"
    assert str(Length(7, None, None)) == "steps without end, from step 7 on"
    assert str(Length(0, 1000, None)) == "1,000 steps"


def test_a_schedule_of_accumulation_counts_each_epoch(config):
    result = dry_run(config, "--max_epochs", "4", "--accumulate_grad_batches", "{0: 1, 2: 3}")
    assert report_of(result).length == Length(0, 4 + 4 + 2 + 2, 4)


def test_sizes_are_exact_before_and_after_a_step():
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    for optimizer in (
        torch.optim.Adam(net.parameters()),
        torch.optim.AdamW(net.parameters(), amsgrad=True),
        torch.optim.SGD(net.parameters(), lr=1.0),
        torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9),
        torch.optim.RMSprop(net.parameters()),
    ):
        before = state_bytes(optimizer)
        net(torch.rand(4, 3)).sum().backward()
        optimizer.step()
        counters = 4 * sum("step" in state for state in optimizer.state.values())
        assert state_bytes(optimizer) == before + counters, optimizer
    assert state_bytes(torch.optim.LBFGS(net.parameters())) is None
    memory = memory_of(net, [torch.optim.SGD(net.parameters(), lr=1.0)], average=7, in_turn=False)
    assert (memory.weights, memory.gradients) == (4 * (15 + 5 + 4 * 5) + 8, 4 * 30)
    assert memory.total == memory.weights + memory.gradients + 7


def test_parts():
    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Sequential(nn.Linear(1, 1), nn.Linear(2, 2)), "c": nn.ReLU()})
    module["b"][1].requires_grad_(False)
    assert list(parts_of(module)) == [Part("a", 9, 0), Part("b.0", 2, 0), Part("b.1", 0, 6)]


def test_units():
    assert [in_bytes(n) for n in (0, 999, 1500, 25_000, 3_200_000, 71_600_000, 5.6e9, 2.2e13)] == [
        *("0 B", "999 B", "1.5 kB", "25 kB", "3.2 MB", "72 MB", "5.6 GB", "22000 GB"),
    ]
    assert [in_millions(n) for n in (12, 4100, 72_141_699, 1_420_000_000)] == ["12", "4.1 K", "72.1 M", "1.42 B"]
