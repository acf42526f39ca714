"""Drills: a full disk and a folder that cannot be written."""

import resource
import subprocess
import threading

import pytest
import torch
from faulty_runs import FullDisk, fill_disk, leftovers, target
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tiny_runs import last_checkpoint, names, run_folders

from taming.checkpoint import save_checkpoint_atomic
from taming.console import set_up_console
from taming.training.disk_faults import make_patient

OFTEN = ["--val_check_interval", "2"]
IMAGES = "lightning.callbacks.image_logger.params.batch_frequency=1"
NO_ROOM = "No space left on device"


def full_disk(first, last="null"):
    return f"lightning.callbacks.disk={target('FullDisk', first=first, last=last)}"


def test_a_full_disk_costs_checkpoints_and_images_but_not_the_training(small_disk, command):
    status, out, err = command("-b", "tiny.yaml", "-t", "--max_epochs", "3", *OFTEN, IMAGES, full_disk(3, 9))
    assert (status, err) == (0, "")
    assert FullDisk.seen == 2, "what was there stays valid"
    assert last_checkpoint()["global_step"] == 12, "a later save succeeds"
    lost = [line for line in out.splitlines() if "could not be written" in line]
    assert [NO_ROOM in line for line in lost] == [True] * len(lost)
    assert sum("images could not be written" in line for line in lost) == 1
    assert sum("last.next.ckpt could not be written" in line for line in lost) == 3
    assert leftovers() == []
    (logdir,) = run_folders()
    assert names(logdir / "checkpoints") == ["epoch=000002.ckpt", "last.1.ckpt", "last.ckpt"]


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_a_full_disk_costs_curves_but_not_the_training(small_disk, capfd, caplog, kind, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    set_up_console()
    experiment = make_patient(kind(small_disk))
    assert isinstance(experiment, kind)
    experiment.log_metrics({"loss": 1.0}, step=0)
    fill_disk()
    for step in range(1, 200):
        experiment.log_metrics({"loss": 1.0}, step=step)
    for _ in range(2):
        experiment.save()
        experiment.finalize("success")
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1 and f"cannot write ({NO_ROOM})" in out and "Traceback" not in err


def test_a_disk_that_is_full_at_the_end_is_an_error_and_the_run_can_go_on(small_disk, command):
    status, out, err = command("-b", "tiny.yaml", "-t", "--max_epochs", "1", *OFTEN, full_disk(3))
    (logdir,) = run_folders()
    assert status == 2
    assert err.startswith(f"error: {logdir}/checkpoints/last.next.ckpt could not be written: {NO_ROOM}; ")
    assert err.count("\n") == 1 and "Traceback" not in out
    assert last_checkpoint()["global_step"] == 2 and leftovers() == []
    (small_disk / "filler").unlink()
    status, _, _ = command("-r", str(logdir), "-t", "lightning.callbacks.disk=null")
    assert (status, last_checkpoint()["global_step"]) == (0, 4)


def test_no_checkpoint_is_removed_while_none_can_be_written(small_disk, command):
    status, _, _ = command("-b", "tiny.yaml", "-t", "--max_epochs", "3", full_disk(6))
    assert status == 2
    (logdir,) = run_folders()
    assert names(logdir / "checkpoints") == ["epoch=000000.ckpt", "last.ckpt"]


def test_a_file_that_grows_too_large_leaves_the_one_before(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint_atomic({"state_dict": {"weight": torch.ones(2)}}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint_atomic({"state_dict": {"weight": torch.ones(50_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["last.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["weight"], torch.ones(2))


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_built(small_disk, command):
    command("-b", "tiny.yaml", "-t", "--max_steps", "1")
    (logdir,) = run_folders()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    nothing_to_build = f"model={target('InterruptedModel', where='__init__')}"
    for arguments, place in ((["-b", "tiny.yaml"], "logs"), (["-r", str(logdir)], str(logdir))):
        status, _, err = command(*arguments, "-t", nothing_to_build)
        assert status == 2 and err.startswith(f"error: {place}: ") and err.count("\n") == 1
        assert "Read-only file system" in err
    elsewhere = ["-l", str(small_disk.parent / "logs")]
    status, _, _ = command("-b", "tiny.yaml", "-t", "--max_steps", "1", *elsewhere)
    assert status == 0
