"""What the environment may hold against a run of several processes, each thing with its remedy."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from taming.config import ConfigError
from taming.launchers import Launch, find_launch, global_rank, launched_settings
from taming.training import preflight
from taming.training.preflight import Request, advice, check_environment, errors
from taming.training.trainer_options import trainer_arguments

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "5", "LOCAL_RANK": "1"}
SLURM = {
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
}


def plan(trainer, loss=None):
    """A RunPlan as far as it is looked at."""
    config = {
        "model": {"params": {"lossconfig": {"params": loss or {}}}},
        "data": {"params": {"batch_size": 2, "num_workers": 4}},
        "lightning": {"trainer": {"accelerator": "cpu", **trainer}},
    }
    return SimpleNamespace(config=OmegaConf.create(config), logdir=preflight.Path("logs/run"))


@pytest.fixture
def environ(monkeypatch):
    """The environment without what launchers set; a function to add to it."""
    for name in {*TORCHRUN, *SLURM, "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "CUDA_VISIBLE_DEVICES"}:
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(*item) for item in variables.items()]


@pytest.mark.parametrize(
    ("variables", "launch", "rank"),
    [
        ({}, None, 0),
        (TORCHRUN, Launch("torchrun", 8, 4, 2), 5),
        (SLURM, Launch("SLURM", 8, 4, 2), 3),
        ({**SLURM, "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "0"}, None, 0),
        ({"SLURM_NTASKS": "1"}, Launch("SLURM", 1, None, 1), 0),
    ],
)
def test_the_launcher_is_recognised(variables, launch, rank):
    assert find_launch(variables) == launch
    assert global_rank(variables) == rank


def test_devices_follow_the_launcher_unless_given(environ):
    assert launched_settings({"SLURM_NTASKS": "1"}) == {}
    environ(TORCHRUN)
    assert launched_settings() == {"devices": 4, "num_nodes": 2}
    arguments = trainer_arguments({"accelerator": "cpu"})
    assert (arguments["devices"], arguments["num_nodes"]) == (4, 2)
    assert arguments["strategy"] == "ddp_find_unused_parameters_true"
    assert trainer_arguments({"devices": 2})["devices"] == 2


@pytest.mark.parametrize(
    ("variables", "request_", "parts"),
    [
        (TORCHRUN, Request(devices=2), ["torchrun has started 8", "make 2", "leave --gpus, --devices"]),
        (SLURM, Request(devices=4), ["SLURM has started 8", "make 4", "--nodes=1 --ntasks-per-node=4"]),
        (SLURM, Request(devices=8), ["SLURM has started 8", "devices 8 x num_nodes 1", "--ntasks-per-node=8"]),
        ({"SLURM_NTASKS": "1"}, Request(devices=2), ["SLURM has started 1", "srun"]),
        ({"SLURM_NTASKS": "8"}, Request(devices=4, nodes=2), ["--ntasks-per-node"]),
        ({"MASTER_PORT": "29500"}, Request(devices=2, nodes=2), ["MASTER_ADDR, NODE_RANK not set", "torchrun"]),
        ({"MASTER_ADDR": "no.such.machine.invalid"}, Request(devices=2), ["no.such.machine.invalid", "all machines"]),
        ({"MASTER_PORT": "many"}, Request(devices=2), ["MASTER_PORT many"]),
    ],
)
def test_what_is_certain_to_fail(variables, request_, parts):
    (message,) = errors(request_, find_launch(variables), variables)
    assert all(part in message for part in parts) and "\n" not in message


@pytest.mark.parametrize(
    ("variables", "request_"), [(TORCHRUN, Request(4, 2)), (SLURM, Request(4, 2)), ({}, Request(2))]
)
def test_what_fits_is_no_error(variables, request_):
    assert list(errors(request_, find_launch(variables), variables)) == []


def test_a_port_that_is_taken_matters_to_the_process_that_opens_it():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        variables = {"MASTER_PORT": str(other.getsockname()[1])}
        (message,) = errors(Request(2), None, variables)
        assert "another program" in message
        assert list(errors(Request(2), None, {**variables, "LOCAL_RANK": "1"})) == []
        agent = {**TORCHRUN, "RANK": "0", **variables}  # torchrun itself has opened it
        assert list(errors(Request(4, 2), find_launch(agent), agent)) == []


def test_gpus_that_processes_do_not_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    found = list(errors(Request(4, on_gpus=True), None, {"CUDA_VISIBLE_DEVICES": "3"}))
    assert "sees 1 GPU(s) (CUDA_VISIBLE_DEVICES=3)" in found[0] and "NCCL" in found[1]
    assert list(errors(Request(4), None, {})) == []


def test_advice(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 * 2**20))
    variables = {**SLURM, "CUDA_VISIBLE_DEVICES": "2,3"}
    del variables["SLURM_STEP_ID"]
    request = Request(4, 2, on_gpus=True, workers=8, own_batch_norm=True)
    text = "\n".join(advice(request, variables))
    for part in ("srun", "64 MiB", "--shm-size", "disk that all machines share", "GPU 0", "--sync_batchnorm true"):
        assert part in text
    assert list(advice(Request(2), {})) == []


@pytest.mark.parametrize(
    ("trainer", "loss", "expected"),
    [
        ({}, {"disc_start": 0}, True),
        ({"sync_batchnorm": True}, {"disc_start": 0}, False),
        ({}, {"disc_start": 0, "use_actnorm": True}, False),
        ({}, {}, False),
    ],
)
def test_batch_norms_of_each_process_are_recognised(environ, trainer, loss, expected):
    request = preflight.request_of(plan({"devices": 2, **trainer}, loss))
    assert request == Request(2, workers=4, logdir=request.logdir, own_batch_norm=expected)


def test_one_process_is_not_looked_at(environ, caplog):
    environ({"MASTER_ADDR": "no.such.machine.invalid"})
    check_environment(plan({"devices": 1}))
    assert caplog.messages == []


def test_all_problems_are_told_in_one_line(environ, caplog):
    environ({"MASTER_ADDR": "no.such.machine.invalid", **TORCHRUN})
    with pytest.raises(ConfigError, match=r"torchrun has started.*; .*no\.such\.machine"):
        check_environment(plan({"devices": 2}))
    environ({"MASTER_ADDR": "127.0.0.1", "RANK": "0"})
    check_environment(plan({}, {"disc_start": 0}))
    assert any("sync_batchnorm" in message for message in caplog.messages)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process keeps its parent's number on this system")
def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    """A parent starts a child and goes; the child, which would sleep on, closes the pipe by ending."""
    (tmp_path / "child.py").write_text(
        "import pathlib, time\n"
        "from taming.launchers import end_with_parent\n"
        "end_with_parent(0.05)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "parent.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, 'child.py'])\n"
        "while not pathlib.Path('ready').exists(): time.sleep(0.05)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = [sys.executable, "parent.py"]
    result = subprocess.run(parent, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, timeout=120)
    assert result.returncode == 0  # run() has read to the end of what parent and child share
