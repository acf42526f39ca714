"""Before several processes train together: what in the environment would let them fail, or wait for each other in vain.

Everything found is told at once. What is certain to fail is an error; the rest is advice in the log.
"""

import errno
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf

from taming.config import ConfigError
from taming.launchers import Launch, find_launch, global_rank
from taming.training.run_plan import RunPlan
from taming.training.trainer_options import device_count, trainer_arguments

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
ENOUGH_SHARED_MEMORY = 2**30
"""Bytes; containers have 64 MiB unless told otherwise."""


@dataclass(frozen=True)
class Request:
    """What a run asks for: devices on each of `nodes` machines, and what one process does."""

    devices: int
    nodes: int = 1
    on_gpus: bool = False
    workers: int = 0
    logdir: Path = Path("logs")
    own_batch_norm: bool = False

    @property
    def processes(self) -> int:
        return self.devices * self.nodes


def check_environment(plan: RunPlan) -> None:
    """Raise ConfigError if a run of several processes cannot work here, and log what may be wrong or is worth knowing.

    A run of one process is not looked at.
    """
    request, launch = request_of(plan), find_launch()
    if request.processes == 1 and (launch is None or launch.processes == 1):
        return
    if found := list(errors(request, launch, os.environ)):
        raise ConfigError("; ".join(found))
    if global_rank() == 0:
        for message in advice(request, os.environ):
            logger.warning(message)


def request_of(plan: RunPlan) -> Request:
    """What a planned run asks for."""
    arguments = trainer_arguments(OmegaConf.to_container(plan.config.lightning.trainer, resolve=True))
    accelerator = arguments["accelerator"]
    loss = OmegaConf.select(plan.config, "model.params.lossconfig.params") or {}
    return Request(
        devices=device_count(arguments),
        nodes=arguments.get("num_nodes") or 1,
        on_gpus=accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()),
        workers=plan.config.data.params.get("num_workers") or 0,
        logdir=plan.logdir,
        own_batch_norm="disc_start" in loss
        and not loss.get("use_actnorm", False)
        and not arguments.get("sync_batchnorm"),
    )


def errors(request: Request, launch: Launch | None, environ: Mapping[str, str]) -> Iterator[str]:
    """What is certain to fail, each with the remedy."""
    if launch is not None:
        yield from _launch_errors(request, launch)
    yield from _master_errors(request, launch, environ)
    if request.on_gpus:
        yield from _gpu_errors(request, environ)


def _launch_errors(request: Request, launch: Launch) -> Iterator[str]:
    if launch.per_node is None and launch.processes > 1:
        yield "SLURM: --ntasks says nothing about machines; use --ntasks-per-node, the number of devices on each"
    elif (launch.per_node or 1, launch.nodes) != (request.devices, request.nodes):
        started = f"{launch.name} has started {launch.processes} process(es)"
        asked = f"devices {request.devices} x num_nodes {request.nodes} make {request.processes}"
        remedy = "leave --gpus, --devices and --num_nodes out, they follow the launcher"
        if launch.name == "SLURM":
            remedy = f"ask for --nodes={request.nodes} --ntasks-per-node={request.devices} and start with srun"
        yield f"{started}, but {asked}: {remedy}"


def _master_errors(request: Request, launch: Launch | None, environ: Mapping[str, str]) -> Iterator[str]:
    if launch is None and request.nodes > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in environ]
        if missing:
            yield (
                f"num_nodes {request.nodes}: {', '.join(missing)} not set, so the machines cannot find each other; "
                "start with torchrun or srun, or set them on each machine"
            )
    address, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if address and not _resolves(address):
        yield f"MASTER_ADDR {address}: this machine does not know the name; give an address that all machines reach"
    if port and not port.isdecimal():
        yield f"MASTER_PORT {port}: not a number"
    elif port and global_rank(environ) == 0 and (launch is None or launch.name != "torchrun") and _is_taken(int(port)):
        yield f"MASTER_PORT {port}: another program on this machine uses it; set another"


def _gpu_errors(request: Request, environ: Mapping[str, str]) -> Iterator[str]:
    count = torch.cuda.device_count()
    if request.devices > count:
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        shown = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        yield (
            f"devices {request.devices}: each process sees {count} GPU(s){shown}; let all of a machine's processes see "
            "all of its GPUs, under SLURM by --gpus-per-node instead of --gpus-per-task"
        )
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        yield "several GPUs need NCCL, which this build of PyTorch lacks: install one for CUDA on Linux, or use one GPU"


def _resolves(address: str) -> bool:
    try:
        socket.getaddrinfo(address, None)
    except OSError:
        return False
    return True


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PyTorch's store does
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def advice(request: Request, environ: Mapping[str, str]) -> Iterator[str]:
    """What may be wrong, or surprise."""
    if int(environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" not in environ:
        yield "not started by srun: if training does not begin, the job's other processes were never started"
    memory = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else ENOUGH_SHARED_MEMORY
    if request.workers and memory < ENOUGH_SHARED_MEMORY:
        yield (
            f"{SHARED_MEMORY} has {memory / 2**20:.0f} MiB, little for the batches of {request.workers} workers per "
            "process: docker run --shm-size=8g, or a smaller num_workers"
        )
    if request.nodes > 1:
        yield f"{request.logdir.absolute()} must be on a disk that all machines share, or only the first can resume"
    if request.on_gpus and (visible := environ.get("CUDA_VISIBLE_DEVICES")):
        yield f"CUDA_VISIBLE_DEVICES={visible}: GPU 0 of this run is the first of these"
    if request.own_batch_norm:
        yield (
            "the discriminator's batch norms see each process's own images, as published; "
            "with --sync_batchnorm true those of all"
        )
