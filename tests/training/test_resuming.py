"""Runs that are continued, broken off or debugged."""

import signal
from pathlib import Path

import pytest
from tiny_runs import at, fit, last_checkpoint, model, names, run_folders

from taming.config import ConfigError
from taming.training import signals, train


def test_a_run_is_resumed_in_place(config, tmp_path):
    first = fit(config, "--max_epochs", "1")
    folder = tmp_path / "any name"
    first.logdir.rename(folder)  # moved: the checkpoint callback's own paths are no longer right
    for path in (folder / "configs").iterdir():
        path.rename(path.with_name(f"2020-01-01T00-00-00{path.name[19:]}"))
    second = train(["-r", f"{folder}/", "-t", "--max_epochs", "3"])
    assert second.logdir == folder
    assert (second.trainer.current_epoch, second.trainer.global_step) == (3, 12)
    assert run_folders() == []
    assert len(names(folder / "configs")) == 4
    checkpoints = names(folder / "checkpoints")
    assert "last.ckpt" in checkpoints and not any(name.startswith("last-") for name in checkpoints)
    assert last_checkpoint(folder)["global_step"] == 12
    assert "inputs_gs-000008_e-000002_b-000000.png" in names(folder / "images" / "train")
    assert "inputs_gs-000005_e-000001_b-000001.png" not in names(folder / "images" / "train")
    third = train(["-r", str(folder / "checkpoints" / "last.ckpt"), "-t", "--max_epochs", "4"])
    assert (third.logdir, third.trainer.global_step) == (folder, 16)


def test_a_resumed_optimizer_keeps_its_learning_rate(config, caplog):
    caplog.set_level("INFO")
    logdir = fit(config, "--max_epochs", "1").logdir
    result = train(["-r", str(logdir), "-t", "--max_epochs", "2", "model.base_learning_rate=0.02"])
    assert result.trainer.optimizers[0].param_groups[0]["lr"] == 0.02
    assert "learning rate 2.00e-02 of the checkpoint is kept; a new run would have 4.00e-02" in caplog.messages


def test_a_checkpoint_starts_a_new_run(config):
    first = fit(config, "--max_epochs", "1").logdir
    checkpoint = str(first / "checkpoints" / "epoch=000000.ckpt")
    second = fit(config, "-n", "again", "--max_epochs", "2", "--resume_from_checkpoint", checkpoint)
    assert second.logdir.name.endswith("_again") and second.logdir != first
    assert second.trainer.global_step == 8
    assert "resume_from_checkpoint" not in next(second.logdir.glob("configs/*-lightning.yaml")).read_text()


def test_an_exception_leaves_a_checkpoint_to_resume_from(config):
    with pytest.raises(RuntimeError, match="broken on purpose"):
        fit(config, "--max_epochs", "2", at(6, "fail"))
    assert last_checkpoint()["global_step"] == 6
    (logdir,) = run_folders()
    result = train(["-r", str(logdir), "-t", "lightning.callbacks.at=null"])
    assert result.trainer.global_step == 8


def test_an_exception_of_training_that_commands_shorten_is_shown_in_full(config, caplog):
    with pytest.raises(ValueError, match="bad value on purpose"):
        fit(config, at(1, "fail_on_value"))
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


def test_a_checkpoint_that_cannot_be_written_does_not_hide_the_exception(config, caplog, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("taming.checkpoint.torch.save", full_disk)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        fit(config, at(1, "fail"))
    assert any("last.next.ckpt could not be written" in message for message in caplog.messages)


def test_ctrl_c_saves_and_fails(config):
    with pytest.raises(SystemExit) as exit_:
        fit(config, *model("ModelWithTest"), "data.params.test=${data.params.validation}", at(3, "interrupt"))
    assert exit_.value.code not in (None, 0)
    assert last_checkpoint()["global_step"] == 3


def test_usr1_saves_between_two_batches_and_training_goes_on(config):
    before = signal.getsignal(signal.SIGUSR1)
    nothing_else_saves = "lightning.modelcheckpoint.params.save_last=false"
    result = fit(config, "--max_epochs", "1", nothing_else_saves, *model("SignalledModel"))
    assert result.trainer.global_step == 4
    saved = last_checkpoint()
    assert saved["global_step"] == 2
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] == 2
    assert signal.getsignal(signal.SIGUSR1) is before


def test_debug_runs_are_put_aside_and_errors_start_the_debugger(config, monkeypatch):
    started = []
    monkeypatch.setattr(signals, "debugger", lambda: type("Debugger", (), {"post_mortem": lambda: started.append(1)}))
    result = fit(config, "-d", "--max_steps", "1")
    assert result.logdir.parent == Path("logs/debug_runs") and (result.logdir / "configs").is_dir()
    with pytest.raises(RuntimeError):
        fit(config, "-d", at(1, "fail"))
    assert started == [1]
    assert [path.name for path in run_folders()] == ["debug_runs"]
    assert len(names(Path("logs/debug_runs"))) == 2


def test_an_error_before_the_trainer_exists_is_the_one_that_debugging_shows(config, monkeypatch):
    monkeypatch.setattr(signals, "debugger", lambda: type("Debugger", (), {"post_mortem": lambda: None}))
    with pytest.raises(ConfigError, match="VQMdel"):
        fit(config, "-d", "model.target=taming.models.vqgan.VQMdel")
