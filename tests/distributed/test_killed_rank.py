"""A process that is killed takes the whole run with it, with an error and soon: no other process waits for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from tiny_runs import write_config
from two_processes import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds on a machine that does much else; a few are enough


class KilledAt(Callback):
    """The process of number `rank` kills itself at batch 1; each process first writes down its id."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Path(f"rank{trainer.global_rank}.pid").write_text(str(os.getpid()))
        if batch_idx == 1:
            trainer.strategy.barrier()
            if trainer.global_rank == self.rank:
                os.kill(os.getpid(), signal.SIGKILL)


CASES = (("lightning", 1), ("lightning", 0), ("torchrun", 1))
"""Who starts the two processes, and which of them is killed."""

LAUNCHERS = {
    "lightning": lambda: ([], ["--devices", "2"]),
    "torchrun": lambda: (
        ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())],
        [],
    ),
}


def start(folder, launcher, rank):
    """A training run of two processes, of which number `rank` will be killed."""
    write_config(folder)
    config = OmegaConf.load(folder / "tiny.yaml")
    config.lightning.callbacks = {"killed": {"target": f"{__name__}.KilledAt", "params": {"rank": rank}}}
    OmegaConf.save(config, folder / "tiny.yaml")
    paths = [ROOT, ROOT / "tests", Path(__file__).parent]
    environ = {key: value for key, value in os.environ.items() if key not in ("MASTER_ADDR", "MASTER_PORT")}
    environ |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    before, after = LAUNCHERS[launcher]()
    command = [sys.executable, *before, str(ROOT / "main.py"), "-b", "tiny.yaml", "-t", "--accelerator", "cpu", *after]
    return subprocess.Popen(command, cwd=folder, env=environ)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All cases at once, since most of the time is waiting: case -> (process, folder)."""
    started = {}
    try:
        for case in CASES:
            folder = tmp_path_factory.mktemp("run")
            started[case] = (start(folder, *case), folder)
        yield started
    finally:
        for run, _ in started.values():
            run.kill()


def is_running(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for_end(pid):
    """Whether a process that nobody waits for has ended in time."""
    deadline = time.monotonic() + PATIENCE
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not is_running(pid)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
@pytest.mark.parametrize("case", CASES)
def test_the_run_ends_with_an_error(runs, case):
    run, folder = runs[case]
    assert run.wait(PATIENCE) not in (0, None)
    other = int((folder / f"rank{1 - case[1]}.pid").read_text())
    assert wait_for_end(other)
