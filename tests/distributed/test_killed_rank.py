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
PATIENCE = 240  # seconds on a machine that does much else; a few are enough


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


def start(folder, launcher, rank):
    """A training run of two processes, of which one will be killed."""
    write_config(folder)
    config = OmegaConf.load(folder / "tiny.yaml")
    config.lightning.callbacks = {"killed": {"target": f"{__name__}.KilledAt", "params": {"rank": rank}}}
    OmegaConf.save(config, folder / "tiny.yaml")
    paths = [ROOT, ROOT / "tests", Path(__file__).parent]
    environ = {key: value for key, value in os.environ.items() if key not in ("MASTER_ADDR", "MASTER_PORT")}
    environ |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    arguments = [str(ROOT / "main.py"), "-b", "tiny.yaml", "-t", "--accelerator", "cpu", *launcher[1]]
    return subprocess.Popen([sys.executable, *launcher[0], *arguments], cwd=folder, env=environ)


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


LIGHTNING = ([], ["--devices", "2"])


def torchrun():
    return ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())], []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
@pytest.mark.parametrize(("launcher", "rank"), [("lightning", 1), ("lightning", 0), ("torchrun", 1)])
def test_the_run_ends_with_an_error(tmp_path, launcher, rank):
    run = start(tmp_path, LIGHTNING if launcher == "lightning" else torchrun(), rank)
    try:
        assert run.wait(PATIENCE) not in (0, None)
        other = int((tmp_path / f"rank{1 - rank}.pid").read_text())
        assert wait_for_end(other)
    finally:
        run.kill()
