"""Runs that are killed and resumed end as if nothing had happened: same weights, same optimizers, same curves."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from killed_runs import config, differences, logged, read_journal, transformer, vqgan
from omegaconf import OmegaConf

from taming.checkpoint import CheckpointError
from taming.training import train
from taming.training.last_checkpoint import LastCheckpoint, Terminated

LAST = Path("checkpoints") / "last.ckpt"


class Killed(BaseException):
    """A process that ends in the middle of things, without a last word."""


class At(pl.Callback):
    """Does `action` when a batch of the run, counted from 0, is about to be processed, or at its end."""

    def __init__(self, batch, action, end=False):
        self.batch = batch
        self.action = action
        self.end = end

    def on_train_batch_start(self, trainer, *_):
        self.act(trainer, not self.end)

    def on_train_batch_end(self, trainer, *_):
        self.act(trainer, self.end)

    def act(self, trainer, here):
        if here and trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            getattr(self, self.action)()

    def kill(self):
        raise Killed

    def terminate(self):
        os.kill(os.getpid(), signal.SIGTERM)


def at(batch, action, end=False):
    params = f"{{batch: {batch}, action: {action}, end: {end}}}"
    return f"lightning.callbacks.at={{target: {__name__}.At, params: {params}}}"


def run(*arguments, at=None):
    return train([*arguments, "-t", at or "lightning.callbacks.at=null"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current, otherwise empty folder; who is killed saves nothing."""
    monkeypatch.chdir(tmp_path)
    by_itself = LastCheckpoint.on_exception

    def unless_killed(self, trainer, pl_module, exception):
        if not isinstance(exception, Killed):
            by_itself(self, trainer, pl_module, exception)

    monkeypatch.setattr(LastCheckpoint, "on_exception", unless_killed)
    return tmp_path


def begin(name, model, **how):
    """Arguments of a run that logs into `<name>.txt`."""
    OmegaConf.save(config(model, f"{name}.txt", **how), f"{name}.yaml")
    return ["-b", f"{name}.yaml", "-n", name]


def run_folder(name):
    (found,) = Path("logs").glob(f"*_{name}")
    return found


def whole_and_killed(model, kills, **how):
    """Run without interruption, then with; a pair is a batch in which the run is killed, and whether at its end."""
    run(*begin("whole", model, **how))
    arguments = begin("killed", model, **how)
    for batch, end in kills:
        with pytest.raises(Killed):
            run(*arguments, at=at(batch, "kill", end))
        arguments = ["-r", str(run_folder("killed"))]
    run(*arguments)


def expect_the_same():
    assert differences(run_folder("whole") / LAST, run_folder("killed") / LAST) == []
    assert logged("killed.txt") == logged("whole.txt")
    pictures = [{path.name for path in run_folder(name).glob("images/*/*.png")} for name in ("whole", "killed")]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("model", "kills", "how"),
    [
        (vqgan, [(3, False), (4, True), (7, False)], {"every_n_steps": 2, "max_steps": 11}),
        (
            vqgan,
            [(4, True), (9, False), (11, True)],
            {"num_workers": 2, "max_epochs": 3, "val_check_interval": 3, "accumulate_grad_batches": 2},
        ),
        (
            transformer,
            [(5, True), (6, False), (9, False)],
            {"every_n_steps": 1, "max_epochs": 2, "accumulate_grad_batches": 2},
        ),
    ],
    ids=["VQGAN by steps", "VQGAN by epochs with two workers", "transformer with accumulation"],
)
def test_a_run_that_is_killed_goes_on_exactly(model, kills, how):
    whole_and_killed(model(), kills, **{"max_epochs": 3 if "max_steps" not in how else -1, **how})
    expect_the_same()


def test_a_schedule_of_accumulation_goes_on_within_its_epoch():
    whole_and_killed(transformer(), [(10, False)], every_n_steps=1, max_epochs=2, accumulate_grad_batches={0: 1, 1: 2})
    expect_the_same()


def test_a_run_that_reached_its_last_step_can_be_given_more():
    """It had ended an epoch early, and told its means; all else is as if it had known of the rest."""
    run(*begin("whole", vqgan(), max_steps=9))
    run(*begin("killed", vqgan(), max_steps=4))
    run("-r", str(run_folder("killed")), "--max_steps", "9")
    assert differences(run_folder("whole") / LAST, run_folder("killed") / LAST) == []
    whole, killed = logged("whole.txt"), logged("killed.txt")
    steps = [key for key in whole if key[1].startswith("train/") and key[1].endswith("_step")]
    assert {key: killed[key] for key in steps} == {key: whole[key] for key in steps} and len(steps) > 9


def test_checkpoints_of_an_epoch_go_on_exactly_too():
    how = {"max_epochs": 3, "check_val_every_n_epoch": 1}
    run(*begin("whole", vqgan(), **how))
    first = run_folder("whole") / "checkpoints" / "epoch=000000.ckpt"
    run("--resume_from_checkpoint", str(first), *begin("killed", vqgan(), **how))
    assert differences(run_folder("whole") / LAST, run_folder("killed") / LAST) == []


def test_sigkill():
    how = {"every_n_steps": 1, "max_steps": 20}
    run(*begin("whole", vqgan(), **how))
    process = multiprocessing.get_context("fork").Process(target=run, args=begin("killed", vqgan(), **how))
    process.start()
    while not any(step >= 3 for step, *_ in read_journal("killed.txt")):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run("-r", str(run_folder("killed")))
    expect_the_same()


def test_sigterm_saves_at_the_end_of_an_accumulation_and_ends_with_its_status(caplog):
    caplog.set_level("INFO")
    how = {"max_epochs": 2, "accumulate_grad_batches": 2}
    run(*begin("whole", vqgan(), **how))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_:
        run(*begin("killed", vqgan(), **how), at=at(2, "terminate", end=True))
    assert exit_.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    saved = torch.load(run_folder("killed") / LAST, weights_only=True)
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 4
    assert any(f"-r {run_folder('killed')} continues" in message for message in caplog.messages)
    run("-r", str(run_folder("killed")))
    expect_the_same()


def test_sigterm_in_the_last_batch_ends_a_finished_run_with_its_status():
    with pytest.raises(Terminated):
        run(*begin("killed", vqgan(), max_steps=2), at=at(1, "terminate", end=True))
    assert torch.load(run_folder("killed") / LAST, weights_only=True)["global_step"] == 2


def test_a_system_without_these_signals_trains(monkeypatch):
    for name in ("SIGUSR1", "SIGUSR2", "SIGTERM"):
        monkeypatch.delattr(signal, name)
    assert run(*begin("whole", vqgan(), max_steps=1)).trainer.global_step == 1


def test_a_damaged_or_missing_file_is_replaced_by_the_one_before(caplog):
    whole_and_killed(vqgan(), [(5, False)], every_n_steps=2, max_steps=7)
    killed = run_folder("killed")
    for path in killed.glob("checkpoints/epoch*"):
        path.unlink()
    for damage in (0, -1000, None):
        copy = Path(shutil.copytree(killed, f"logs/copy{damage}"))
        last, previous = copy / LAST, copy / "checkpoints" / "last.1.ckpt"
        if damage is None:
            last.unlink()
        else:
            os.truncate(last, damage % last.stat().st_size)
        caplog.clear()
        run("-r", str(copy))
        expected = f"{last} is damaged: going on from {previous}, which is of step 6"
        assert (expected in caplog.messages) == (damage is not None)
        assert differences(run_folder("whole") / LAST, last) == []


def test_a_run_without_a_checkpoint_that_can_be_read_is_a_mistake():
    run(*begin("whole", vqgan(), every_n_steps=1, max_steps=3))
    for path in run_folder("whole").glob("checkpoints/*.ckpt"):
        path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged, and no other checkpoint in .* start a new run"):
        run("-r", str(run_folder("whole")))
