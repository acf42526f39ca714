"""`last.ckpt` and the files before it: which are kept, when all ranks save, and what is found of a damaged one."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from taming.checkpoint import CheckpointError, check_intact, save_checkpoint_atomic
from taming.training import last_checkpoint
from taming.training.last_checkpoint import LastCheckpoint, Terminated, newest_intact
from taming.training.signals import handling_signals

FIRST = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(checkpoint_io=None))
"""A Trainer of the first process."""


def write(path, step=0):
    save_checkpoint_atomic({"state_dict": {"weight": torch.zeros(1000)}, "global_step": step}, path)
    return path


def step(path):
    return torch.load(path, weights_only=True)["global_step"]


def save(last, number):
    write(last.coming, number)
    last._take_over(FIRST)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_files_before_are_kept_by_age(tmp_path, keep):
    for number in range(4):
        save(LastCheckpoint(tmp_path, keep=keep), number)
    expected = dict(zip(["last.ckpt", "last.1.ckpt", "last.2.ckpt"][:keep], [3, 2, 1], strict=False))
    assert {file.name: step(file) for file in tmp_path.iterdir()} == expected


def test_folders_of_sharded_strategies_are_kept_likewise(tmp_path):
    last = LastCheckpoint(tmp_path)
    for number in "012":
        last.coming.mkdir()
        (last.coming / number).touch()
        last._take_over(FIRST)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob("*/*")) == ["last.1.ckpt/1", "last.ckpt/2"]


@pytest.mark.parametrize("cut", [0, 1, 100, 3000, -1])
def test_cut_files_are_damaged_and_whole_ones_are_not(tmp_path, cut):
    path = write(tmp_path / "last.ckpt")
    check_intact(path)
    os.truncate(path, cut % path.stat().st_size)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: truncated, or not a checkpoint \(\d+ bytes\)"):
        check_intact(path)


def test_files_of_zeros_are_damaged_and_those_of_old_versions_cannot_be_told(tmp_path):
    path = write(tmp_path / "last.ckpt")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CheckpointError):
        check_intact(path)
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    check_intact(path)


def test_a_damaged_file_never_takes_the_place_of_the_one_before(tmp_path):
    path, previous = tmp_path / "last.ckpt", write(tmp_path / "last.1.ckpt", 7)
    path.write_bytes(b"PK")
    save(LastCheckpoint(tmp_path), 8)
    assert (step(path), step(previous)) == (8, 7)


def test_the_newest_that_can_be_read_is_found(tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    for age, name in enumerate(("last.1.ckpt", "epoch=000003.ckpt", "last.2.ckpt")):
        os.utime(write(tmp_path / name, 10 - age), (1e9 - age, 1e9 - age))
    (tmp_path / "last.1.ckpt").write_bytes(b"")
    os.utime(tmp_path / "last.1.ckpt", (1e9, 1e9))
    path.write_bytes(b"\0" * 100)
    assert newest_intact(path) == tmp_path / "epoch=000003.ckpt"
    assert caplog.messages == [f"{path} is damaged: going on from {tmp_path / 'epoch=000003.ckpt'}, which is of step 9"]
    assert newest_intact(write(path)) == path


def asked_of_rank_1(rank, folder):
    """Both ranks begin a batch; SIGTERM has only reached rank 1. Exits as training would."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    saved = []
    trainer = SimpleNamespace(
        world_size=2,
        global_step=5,
        is_global_zero=False,
        fast_dev_run=False,
        strategy=SimpleNamespace(checkpoint_io=None),
    )
    trainer.save_checkpoint = lambda *path, weights_only: saved.extend(path)
    last = LastCheckpoint(folder)
    last.on_train_start(trainer, None)
    last._save_if(trainer, due=False)
    assert not saved
    if rank == 1:
        last.stop()
    with pytest.raises(Terminated) as exit_:
        last._save_if(trainer, due=False)
    assert exit_.value.code == 143 and saved == [folder / "last.next.ckpt"]


def test_what_is_asked_of_one_rank_all_do(tmp_path):
    torch.multiprocessing.spawn(asked_of_rank_1, (tmp_path,), nprocs=2)


def test_the_first_sigterm_asks_and_the_second_ends():
    asked = []
    with handling_signals(save=lambda: None, stop=lambda: asked.append(signal.getsignal(signal.SIGTERM))):
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == [signal.SIG_DFL]


def test_every_n_steps_counts_from_the_start_of_the_run():
    last = LastCheckpoint("", every_n_steps=10)
    last._saved_step = 13
    due = [last._is_due(SimpleNamespace(global_step=step)) for step in (13, 19, 20, 31)]
    assert due == [False, False, True, True]
    assert (
        last_checkpoint.accumulation(
            SimpleNamespace(accumulate_grad_batches=3), SimpleNamespace(automatic_optimization=True)
        )
        == 3
    )
