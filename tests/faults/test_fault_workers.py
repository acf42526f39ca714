"""Drills: a process that loads data dies or has no shared memory, and an image is damaged."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from faulty_runs import leftovers, limit_shared_memory, target
from PIL import Image
from tiny_runs import last_checkpoint, run_folders
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("SIGKILL", ["is killed by signal: Killed", "memory", "num_workers (now 1)", "batch_size (now 2)"]),
        ("exit", ["exited unexpectedly with exit code 3", "data.params.num_workers=0"]),
        ("SIGBUS", ["Bus error", "shared memory", "--shm-size", "num_workers (now 1)"]),
    ],
)
def test_a_process_that_loads_data_dies(config, command, monkeypatch, by, words):
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # 5 s between two looks
    data = ["data.params.num_workers=1", f"data.params.train={target('DyingWorkers', by=by)}"]
    status, out, err = command("-b", config, "-t", *data)
    message = err.splitlines()[-1]
    assert status == 2 and message.startswith("error: a process that loads data ")
    assert all(word in message for word in words), message
    assert "Traceback" not in out and leftovers() == []
    (logdir,) = run_folders()
    assert 16 <= last_checkpoint()["global_step"] < 20, "what had been loaded was used"
    status, _, _ = command("-r", str(logdir), "-t", "--max_epochs", "1", "data.params.num_workers=0")
    assert (status, last_checkpoint()["global_step"]) == (0, 32)


def test_a_process_that_loads_data_is_gone_while_it_hands_over_a_batch(config, command):
    status, _, err = command("-b", config, "-t", f"data.params.train={target('BrokenPipe')}")
    assert status == 2
    assert err.startswith("error: a process that loads data is gone; if memory ran out, lower data.params.")


def test_no_shared_memory(config, command):
    """In a process of its own, with 1 MiB of shared memory for batches of 6 MiB."""
    data = ["data.params.num_workers=1", f"data.params.train={target('LargeNoise')}"]
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(100)
            if limit_shared_memory("1m"):
                status, _, err = command("-b", config, "-t", *data)
                Path("told").write_text(f"{status} {err}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    if run_folders() == [] and not Path("told").exists():
        pytest.skip("a small /dev/shm takes the right to mount one")
    told = Path("told").read_text()
    assert told.startswith("2 ") and "error: a process that loads data " in told
    assert "docker run --shm-size" in told and "data.params.num_workers (now 1)" in told


@pytest.fixture
def damaged(config):
    """The name of a list of 64 images, one of them cut off at a random place, and that image's name."""
    rng = np.random.default_rng(0)
    names = [f"{index}.png" for index in range(64)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(name)
    bad = Path(names[5])
    content = bad.read_bytes()
    bad.write_bytes(content[: random.randrange(len(content) - 20)])  # the last 12 bytes hold no pixels
    Path("list.txt").write_text("\n".join(names))
    return "list.txt", bad.name


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_and_can_be_skipped(config, command, damaged, workers):
    images, bad = damaged
    params = {"size": 8, "training_images_list_file": images}
    data = f"data.params.train={{target: taming.data.custom.CustomTrain, params: {params}}}"
    status, out, err = command("-b", config, "-t", data, f"data.params.num_workers={workers}")
    assert status == 2 and err.count("\n") == 1 and "Traceback" not in out
    assert (
        err.startswith(f"error: taming.data.custom.CustomTrain: cannot read image {bad}: ") and "on_error: skip" in err
    )
    assert 0 < last_checkpoint()["global_step"] < 32
    (logdir,) = run_folders()
    skipping = ["-r", str(logdir), "-t", "--max_epochs", "1", "data.params.train.params.on_error=skip"]
    assert (command(*skipping)[0], last_checkpoint()["global_step"]) == (0, 32)
