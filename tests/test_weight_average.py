"""The running average of the weights: what it covers, who sees it, and that resumed runs go on exactly."""

import pytest
import pytorch_lightning as pl
import tiny_runs
import torch
from tiny_configs import ddconfig
from tiny_run_folders import LABEL_MAPS, save_run
from torch import nn
from torch.utils.data import DataLoader

from taming.checkpoint import SafeCheckpointIO, load_checkpoint
from taming.models.manual_optimization import TwoOptimizers
from taming.models.vqgan import EMAVQ
from taming.runs import load_model, resolve_run
from taming.training import train
from taming.training.callbacks import ImageLogger
from taming.weight_average import WeightAverage

BATCHES = torch.linspace(-1, 1, 4)


class Line(pl.LightningModule):
    """A line, with a buffer that follows it, a count, a frozen part and one that only training needs."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.line.register_buffer("trace", torch.zeros(1))
        self.line.register_buffer("count", torch.tensor(0))
        self.stage = nn.Linear(1, 1).eval().requires_grad_(False)
        self.loss = nn.Linear(1, 1)
        nn.init.constant_(self.line.weight, 0.5)
        self.seen = {"validation": [], "images": [], "test": []}

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.line.trace.add_(1)
            self.line.count.add_(1)
        return (self.line(batch[:, None]) - self.loss(batch[:, None])).square().mean()

    def validation_step(self, batch, batch_idx):
        self.seen["validation"].append(self.line.weight.item())

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(self.line.weight.item())

    def log_images(self, batch, **kwargs):
        self.seen["images"].append(self.line.weight.item())
        return {}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


class TwoLines(TwoOptimizers, Line):
    """The line and its opponent have an optimizer each."""

    def training_step(self, batch, batch_idx):
        optimize = self.optimizer_round(batch_idx)
        for index, sign in enumerate((1, -1)):
            with optimize(index) as backward:
                backward(sign * (self.line(batch[:, None]) - self.loss(batch[:, None])).square().mean())

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=0.1) for part in (self.line, self.loss)], []


class Record(pl.Callback):
    """The line's weight after each batch, before the average is applied anywhere."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, module, *_):
        self.weights.append(module.line.weight.item())


def trainer(tmp_path, *callbacks, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    arguments = {"max_epochs": 1, "enable_checkpointing": False, **quiet, **arguments}
    return pl.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), plugins=[SafeCheckpointIO()], **arguments)


def loaders(**options):
    return DataLoader(BATCHES, **options), DataLoader(BATCHES[:1])


def expected_average(weights, decay, start=0.5):
    average = start
    for n, weight in enumerate(weights):
        share = min(decay, (1 + n) / (10 + n))
        average = share * average + (1 - share) * weight
    return average


@pytest.mark.parametrize("model", [Line, TwoLines])
def test_one_update_per_round_and_validation_images_and_test_use_the_average(tmp_path, model):
    module, record = model(), Record()
    run = trainer(tmp_path, record, WeightAverage(decay=0.3), ImageLogger(3, 4), limit_val_batches=1)
    run.fit(module, *loaders())
    expected = [expected_average(record.weights[:n], 0.3) for n in range(5)]
    assert module.seen["validation"] == pytest.approx([expected[0], expected[4]])
    in_training = [expected[1], expected[2], expected[3], expected[4]]  # of batches 0 to 3, increase_log_steps
    images = [expected[0], *(in_training[i] for i in (0, 1, 2, 3)), expected[4]]
    assert module.seen["images"] == pytest.approx(images)
    run.test(module, loaders()[1], verbose=False)
    assert module.seen["test"] == pytest.approx([expected[4]])


def test_accumulated_batches_are_one_update(tmp_path):
    module, record = TwoLines(), Record()
    module.accumulate_grad_batches = 2
    trainer(tmp_path, record, WeightAverage(decay=0.3)).fit(module, *loaders())
    assert module.line.weight.item() == pytest.approx(expected_average(record.weights[1::2], 0.3))


def test_what_is_averaged_and_what_a_checkpoint_holds(tmp_path):
    module, average = Line(), WeightAverage(decay=0.9)
    average_at_end = {}

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            average_at_end.update({name: value.clone() for name, value in average._average.items()})
            trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt", weights_only=False)

        def on_validation_batch_end(self, trainer, module, *_):
            if not trainer.sanity_checking:
                trainer.save_checkpoint(tmp_path / "validation.ckpt", weights_only=False)

    trainer(tmp_path, average, Save()).fit(module, *loaders())
    last, validation = (load_checkpoint(tmp_path / f"{name}.ckpt") for name in (3, "validation"))
    assert set(average_at_end) == {"line.weight", "line.bias", "line.trace"}
    for key in ("state_dict", "current_model_state"):
        assert last[key].keys() == module.state_dict().keys()
        assert all(torch.equal(value, validation[key][name]) for name, value in last[key].items())
    different = {
        name for name, value in last["state_dict"].items() if not value.equal(last["current_model_state"][name])
    }
    assert different == set(average_at_end)
    assert all(value.equal(last["state_dict"][name]) for name, value in average_at_end.items())
    assert last["state_dict"]["line.count"] == last["current_model_state"]["line.trace"] == 4
    size = {name: (tmp_path / f"{name}.ckpt").stat().st_size for name in (3, "validation")}
    assert abs(size[3] - size["validation"]) < 4096


@pytest.mark.parametrize("model", [Line, TwoLines])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, model):
    def fit(epochs, ckpt_path=None):
        torch.manual_seed(0)
        module, average = model(), WeightAverage(decay=0.95)
        run = trainer(tmp_path, average, Keep(), max_epochs=epochs)
        run.fit(module, *loaders(), ckpt_path=ckpt_path, weights_only=True)
        return load_checkpoint(tmp_path / "end.ckpt")

    class Keep(pl.Callback):
        def on_train_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)

    whole = fit(3)
    fit(1)
    resumed = fit(3, ckpt_path=(tmp_path / "end.ckpt").rename(tmp_path / "first.ckpt"))
    assert resumed["averaging_state"] == whole["averaging_state"] == {"n_averaged": torch.tensor(12)}
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, resumed[key][name]) for name, value in whole[key].items())


def test_an_average_can_begin_with_a_checkpoint_that_has_none(tmp_path, caplog):
    caplog.set_level("INFO")
    plain = trainer(tmp_path)
    plain.fit(Line(), *loaders())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    module, record = Line(), Record()
    run = trainer(tmp_path, record, WeightAverage(decay=0.3), max_epochs=2)
    run.fit(module, *loaders(), ckpt_path=tmp_path / "plain.ckpt", weights_only=True)
    start = load_checkpoint(tmp_path / "plain.ckpt")["state_dict"]["line.weight"].item()
    assert module.line.weight.item() == pytest.approx(expected_average(record.weights, 0.3, start))
    assert any("has no average of weights" in message for message in caplog.messages)


def test_lightnings_own_average_goes_on_from_ours(tmp_path):
    from pytorch_lightning.callbacks import EMAWeightAveraging

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            trainer.save_checkpoint(tmp_path / "ours.ckpt", weights_only=False)

    trainer(tmp_path, WeightAverage(), Keep()).fit(Line(), *loaders())
    theirs = EMAWeightAveraging()
    run = trainer(tmp_path, theirs, max_epochs=2)
    run.fit(Line(), *loaders(), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)
    assert theirs._average_model.n_averaged == 8


def test_weights_of_16_bits_have_an_average_of_32(tmp_path):
    module, average = Line(), WeightAverage(decay=0.999)
    kept = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_):
            kept.append(average._average["line.weight"].dtype)

    trainer(tmp_path, average, Look(), precision="bf16-true").fit(module, *loaders())
    assert set(kept) == {torch.float32} and module.line.weight.dtype == torch.bfloat16


def test_a_run_by_the_command_its_test_and_its_continuation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    average = "lightning.callbacks.weight_average.target=taming.weight_average.WeightAverage"
    tested = [*tiny_runs.model("ModelWithTest"), "data.params.test=${data.params.validation}"]
    first = tiny_runs.fit(tiny_runs.write_config(tmp_path), "--max_epochs", "1", average, *tested)
    saved = tiny_runs.last_checkpoint()
    assert torch.equal(first.model.tested_weight, saved["state_dict"]["net.weight"])
    assert not torch.equal(saved["state_dict"]["net.weight"], saved["current_model_state"]["net.weight"])
    again = train(["-r", str(first.logdir)])
    assert torch.equal(again.model.tested_weight, first.model.tested_weight)
    train(["-r", str(first.logdir), "-t", "--max_epochs", "2", "--no-test"])
    assert tiny_runs.last_checkpoint()["averaging_state"]["n_averaged"] == 8


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5])
def test_decay_is_a_share(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(decay)


def test_divided_weights_are_refused(tmp_path, monkeypatch):
    run = trainer(tmp_path, WeightAverage())
    monkeypatch.setattr("taming.weight_average.DIVIDING", (type(run.strategy),))
    with pytest.raises(ValueError, match="weight_average: SingleDeviceStrategy divides the weights"):
        run.fit(Line(), *loaders())


def test_a_vqgan_averages_its_codebook_and_neither_discriminator_nor_perceptual_loss(tmp_path):
    torch.manual_seed(0)
    loss = {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"}
    params = {"disc_start": 0, "disc_num_layers": 1, "disc_ndf": 4, "perceptual_weight": 0.0}
    model = EMAVQ(ddconfig(resolution=8), {**loss, "params": params}, n_embed=8, embed_dim=4, kmeans_init=True)
    model.learning_rate = 1e-3
    images = DataLoader([{"image": image} for image in torch.rand(4, 8, 8, 3) * 2 - 1], batch_size=2)
    average = WeightAverage()
    run = trainer(tmp_path, average, limit_val_batches=1)
    begun = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_):
            begun.append(set(average._average))

    run.callbacks.append(Look())
    run.fit(model, images, images)
    names = {name for name in model.state_dict() if not name.startswith("loss.")}
    assert begun[0] <= names
    assert {"encoder.conv_in.weight", "post_quant_conv.bias", "quantize.embedding.weight"} <= begun[0]
    assert average._updates == 0 and average._average == {}


def test_loading_takes_the_average_or_on_request_the_trained_weights(tmp_path, caplog):
    caplog.set_level("INFO")
    run = resolve_run(save_run(tmp_path / "run", LABEL_MAPS))
    checkpoint = torch.load(run.checkpoint)
    trained = {name: value + 1 for name, value in checkpoint["state_dict"].items()}
    torch.save({**checkpoint, "current_model_state": trained}, run.checkpoint)
    average, last = (load_model(run, trained_weights=choice).model for choice in (False, True))
    name = "encoder.conv_in.weight"
    assert torch.equal(average.state_dict()[name] + 1, last.state_dict()[name])
    used = [message.partition(": ")[2] for message in caplog.messages if "average" in message]
    assert used == [
        "using the average of the weights, not the weights of the last step",
        "using the weights of the last step, not the average of the weights",
    ]
