"""Drills: two trainings in one folder, on one machine and on two that share a disk."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from faulty_runs import leftovers
from pytorch_lightning.utilities import rank_zero_only
from tiny_runs import last_checkpoint, run_folders

from taming.training import run_lock
from taming.training.run_lock import LOCK_NAME, FolderInUseError, sole_training

HOLDING = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(sys.argv[2])
file.flush()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in the folder, by name of its host."""
    started = []

    def start(folder, host):
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDING, str(folder / LOCK_NAME), f"{host} pid 7 since noon"],
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_training_is_refused_and_a_killed_one_is_succeeded(config, command, holder):
    assert command("-b", config, "-t", "--max_epochs", "1")[0] == 0
    (logdir,) = run_folders()
    unfinished = logdir / "checkpoints" / ".last.ckpt.7.part"
    unfinished.touch()
    process = holder(logdir, run_lock.socket.gethostname())
    status, _, err = command("-r", str(logdir), "-t", "--max_epochs", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {logdir}: a training is under way in this folder (") and "pid 7 since noon" in err
    assert last_checkpoint()["global_step"] == 4 and unfinished.exists()
    assert command("-r", str(logdir))[0] == 0, "a run that only tests may"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    status, out, _ = command("-r", str(logdir), "-t", "--max_epochs", "2")
    assert status == 0 and "pid 7 since noon was killed; this one goes on in its folder" in out
    assert last_checkpoint()["global_step"] == 8 and leftovers() == []


def test_workers_that_outlive_a_killed_run_do_not_keep_its_folder(tmp_path):
    with sole_training(tmp_path):
        orphan = os.fork()
        if orphan == 0:
            time.sleep(600)
            os._exit(0)
        try:
            probe = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
            tries = [sys.executable, "-S", "-c", probe, str(tmp_path / LOCK_NAME)]
            assert subprocess.run(tries, capture_output=True, check=False).returncode == 1
            open(tmp_path / LOCK_NAME).close()  # drops the lock of this process, as its end does
            assert subprocess.run(tries, capture_output=True, check=False).returncode == 0
        finally:
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)


@pytest.mark.parametrize("kernel_locks", [True, False])
def test_a_training_elsewhere_is_told_by_its_signs_of_life(tmp_path, monkeypatch, caplog, kernel_locks):
    """A lock that this kernel does not know of: of a machine whose locks the disk does not pass on, or of Windows."""
    if not kernel_locks:
        monkeypatch.setattr(run_lock, "fcntl", None)
    path = tmp_path / LOCK_NAME
    path.write_text("elsewhere pid 7 since noon\n")
    ended = threading.Event()
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.05)
    heart = threading.Thread(target=run_lock._beat, args=(path, ended))
    heart.start()
    with pytest.raises(FolderInUseError, match="elsewhere pid 7 since noon"), sole_training(tmp_path, patience=30.0):
        pass
    ended.set()
    heart.join()
    with sole_training(tmp_path, patience=0.2):
        assert path.read_text().startswith(f"{run_lock.socket.gethostname()} pid {os.getpid()} since ")
    assert "the training of elsewhere pid 7 since noon was killed" in caplog.text
    assert not path.exists()


def test_a_lock_that_was_deleted_by_hand_and_taken_by_another_stays(tmp_path):
    with sole_training(tmp_path):
        (tmp_path / LOCK_NAME).unlink()
        (tmp_path / LOCK_NAME).write_text("another")
    assert (tmp_path / LOCK_NAME).read_text() == "another"


def test_only_the_first_process_of_a_run_holds_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with sole_training(tmp_path):
        assert list(tmp_path.iterdir()) == []
