"""Callbacks of a training run, on a tiny model and without a command line."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader

from taming.training.callbacks import FitProgressBar, GradientNorm, ImageLogger, evaluating, fraction_done
from taming.training.last_checkpoint import LastCheckpoint
from taming.training.loggers import default_logger


class Painter(pl.LightningModule):
    """Fits a scalar, and shows images of a chosen number of channels drawn from the global random state."""

    def __init__(self, channels=3, value=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.frozen = torch.nn.Dropout().eval()
        self.channels = channels
        self.value = value
        self.modes = []
        self.draws = []

    def training_step(self, batch, batch_idx):
        self.draws.append(torch.rand(()).item())
        loss = 3 * self.weight.sum()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def log_images(self, batch, split, pl_module):
        assert pl_module is self and not torch.is_grad_enabled()
        self.modes.append((self.training, self.frozen.training))
        images = torch.rand(5, self.channels, 4, 4) if self.value is None else torch.full((5, 3, 4, 4), self.value)
        return {"inputs": images}


def fit(tmp_path, *callbacks, module=None, batches=4, validation=0, logger=False, **arguments):
    """A fit with the callbacks on the CPU; the trainer."""
    trainer = pl.Trainer(
        **{"max_epochs": 1, "enable_progress_bar": False, **arguments},
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loaders = DataLoader(range(batches)), DataLoader(range(validation)) if validation else None
    trainer.fit(module or Painter(), *loaders)
    return trainer


def test_schedule_of_the_published_frequency():
    logged = [batch for batch in range(2000) if ImageLogger(750, 4).is_due(batch)]
    assert logged == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 750, 1500]
    assert [batch for batch in range(20) if ImageLogger(8, 4).is_due(batch)] == [0, 1, 2, 4, 8, 16]
    assert [batch for batch in range(20) if ImageLogger(8, 4, increase_log_steps=False).is_due(batch)] == [0, 8, 16]


def test_validation_images_do_not_use_up_those_of_training(tmp_path):
    fit(tmp_path, ImageLogger(4, 4), batches=6, validation=9, limit_val_batches=6)
    names = {split: sorted(path.name for path in (tmp_path / "images" / split).iterdir()) for split in ("train", "val")}
    assert names["train"] == [f"inputs_gs-00000{i}_e-000000_b-00000{i}.png" for i in (0, 1, 2, 4)]
    assert names["val"] == [  # of the sanity check, of the first and of the fifth batch after the epoch
        "inputs_gs-000000_e-000000_b-000000.png",
        "inputs_gs-000005_e-000000_b-000000.png",
        "inputs_gs-000005_e-000000_b-000004.png",
    ]


@pytest.mark.parametrize(("frequency", "max_images"), [(0, 4), (None, 4), (1, 0)])
def test_images_can_be_switched_off(tmp_path, frequency, max_images):
    fit(tmp_path, ImageLogger(frequency, max_images), validation=2)
    assert not (tmp_path / "images").exists()


def test_showing_images_leaves_no_trace_in_training(tmp_path):
    plain, watched = Painter(), Painter()
    for module, callbacks in ((plain, []), (watched, [ImageLogger(1, 4)])):
        torch.manual_seed(0)
        fit(tmp_path, *callbacks, module=module)
    assert watched.draws == plain.draws
    assert watched.modes == [(False, False)] * 4
    assert watched.training and not watched.frozen.training


def test_modes_return_after_an_error():
    module = Painter()
    with pytest.raises(RuntimeError), evaluating(module):
        raise RuntimeError
    assert module.training and not module.frozen.training


@pytest.mark.parametrize(("max_images", "size"), [(3, (6 + 2, 3 * 6 + 2)), (8, (2 * 6 + 2, 4 * 6 + 2))])
def test_local_grids_have_four_images_per_row(tmp_path, max_images, size):
    fit(tmp_path, ImageLogger(1, max_images), batches=1)
    with Image.open(tmp_path / "images" / "train" / "inputs_gs-000000_e-000000_b-000000.png") as image:
        assert (image.height, image.width) == size


@pytest.mark.parametrize(("value", "byte"), [(-1.0, 0), (0.0, 127), (0.5, 191), (1.0, 255), (7.0, 255)])
def test_bytes_of_local_grids(tmp_path, value, byte):
    fit(tmp_path, ImageLogger(1, 4), batches=1, module=Painter(value=value))
    (path,) = (tmp_path / "images" / "train").iterdir()
    assert (np.asarray(Image.open(path))[2:6, 2:6] == byte).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_is_shown(tmp_path, channels):
    logger = TensorBoardLogger(tmp_path, name="board")
    fit(tmp_path, ImageLogger(1, 4), batches=1, module=Painter(channels), logger=logger)
    assert [path.name for path in (tmp_path / "images" / "train").iterdir()] == [
        "inputs_gs-000000_e-000000_b-000000.png"
    ]


class FakeWandb(WandbLogger):
    """A WandbLogger that keeps what it is given."""

    def __init__(self):
        self.images = []

    def log_image(self, key, images, step=None, **_):
        self.images.append((key, images[0].shape, step))


def test_wandb_gets_grids_with_eight_images_per_row(tmp_path):
    logger = FakeWandb()
    callback, module = ImageLogger(1, 4), Painter()
    trainer = type("Trainer", (), {"global_step": 7, "current_epoch": 0, "callbacks": [], "is_global_zero": True})
    trainer.loggers = [logger]
    trainer.logger = type("Logger", (), {"save_dir": tmp_path})
    callback._log(trainer, module, None, 0, "val")
    assert logger.images == [("val/inputs", (6 + 2, 4 * 6 + 2, 3), 7)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, {"name": "tensorboard", "save_dir": "logs/run"}),
        ("pytorch_lightning.loggers.TestTubeLogger", {"name": "tensorboard", "save_dir": "logs/run"}),
        ("pytorch_lightning.loggers.CSVLogger", {"name": "csv", "save_dir": "logs/run"}),
        (
            "pytorch_lightning.loggers.WandbLogger",
            {"name": "run", "id": "run", "offline": True, "save_dir": "logs/run"},
        ),
        ("pytorch_lightning.loggers.MLFlowLogger", {"save_dir": "logs/run"}),
        ("pytorch_lightning.loggers.logger.DummyLogger", {}),
    ],
)
def test_each_kind_of_logger_has_its_own_defaults(target, expected):
    section = None if target is None else {"target": target}
    assert default_logger(section, Path("logs/run"), offline=True)["params"] == expected


def saved_step(tmp_path):
    return torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]


def test_a_foreign_last_checkpoint_is_overwritten(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"of another machine")
    fit(tmp_path, LastCheckpoint(tmp_path))
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    assert saved_step(tmp_path) == 4


def test_the_end_of_fit_is_saved_also_without_validation(tmp_path):
    fit(tmp_path, LastCheckpoint(tmp_path), max_steps=3, max_epochs=-1)
    assert saved_step(tmp_path) == 3


def test_validation_within_an_epoch_is_followed_by_a_save(tmp_path):
    class Look(pl.Callback):
        seen = None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                self.seen = saved_step(tmp_path)

    look = Look()
    fit(tmp_path, look, LastCheckpoint(tmp_path), validation=1, val_check_interval=2)
    assert look.seen == 2


def test_nothing_is_saved_before_training_or_by_a_trial_run(tmp_path):
    class Broken(Painter):
        def validation_step(self, batch, batch_idx):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(tmp_path, LastCheckpoint(tmp_path), module=Broken(), validation=1)
    fit(tmp_path, LastCheckpoint(tmp_path), fast_dev_run=True)
    assert not (tmp_path / "last.ckpt").exists()


def test_gradient_norm(tmp_path):
    trainer = fit(tmp_path, GradientNorm(2.0), batches=2)
    assert trainer.callback_metrics["grad_norm/optimizer_0"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("arguments", "fractions"),
    [
        ({"max_epochs": 2}, [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1]),
        ({"max_epochs": 2, "max_steps": 2}, [1 / 2, 1]),
        ({"max_epochs": -1, "max_steps": 4}, [1 / 4, 2 / 4, 3 / 4, 1]),
    ],
)
def test_progress_of_the_whole_fit(tmp_path, capsys, arguments, fractions):
    class Watch(FitProgressBar):
        def get_metrics(self, trainer, pl_module):
            metrics = super().get_metrics(trainer, pl_module)
            seen.append((fraction_done(trainer), metrics["train/loss"], metrics["fit_ends_in"]))
            return metrics

    seen = []
    fit(tmp_path, Watch(min_seconds=0), enable_progress_bar=True, **arguments)
    assert sorted({fraction for fraction, *_ in seen}) == pytest.approx(fractions)
    assert seen[-1][2] == "0:00:00"
    assert "fit_ends_in=0:00:00" in capsys.readouterr().out


def test_the_progress_bar_asks_for_metrics_no_more_often_than_it_may(tmp_path):
    class Watch(FitProgressBar):
        def get_metrics(self, trainer, pl_module):
            seen.append(fraction_done(trainer))
            return super().get_metrics(trainer, pl_module)

    seen = []
    fit(tmp_path, Watch(min_seconds=1000), enable_progress_bar=True, max_epochs=2)
    assert set(seen) == {1 / 8, 4 / 8, 1}  # the first batch, and the last of each epoch
