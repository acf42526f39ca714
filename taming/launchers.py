"""Who has started this process, and how many others with it: torchrun, srun, or Lightning on one machine."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs in which Lightning takes no notice of SLURM."""


@dataclass(frozen=True)
class Launch:
    """The processes that a launcher has started; per_node is None where it does not say."""

    name: str
    processes: int
    per_node: int | None
    nodes: int


def find_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """The launcher that has started this process and all others that it waits for; None if there is none."""
    if "TORCHELASTIC_RUN_ID" in environ:
        processes, per_node = int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"])
        return Launch("torchrun", processes, per_node, processes // per_node)
    if "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in INTERACTIVE:
        processes = int(environ["SLURM_NTASKS"])
        per_node = environ.get("SLURM_NTASKS_PER_NODE")
        nodes = int(environ.get("SLURM_NNODES", 1))
        return Launch("SLURM", processes, int(per_node) if per_node else None, nodes)
    return None


def launched_settings(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The Trainer's `devices` and `num_nodes` for what a launcher has started, if that is more than this process."""
    launch = find_launch(environ)
    if launch is None or launch.processes == 1 or launch.per_node is None:
        return {}
    return {"devices": launch.per_node, "num_nodes": launch.nodes}


def global_rank(environ: Mapping[str, str] = os.environ) -> int:
    """The number of this process among all that train together, as far as the environment tells."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in environ:
            return int(environ[name])
    return int(environ.get("NODE_RANK", 0)) + int(environ.get("LOCAL_RANK", 0))  # 0 for the first only


def end_with_parent(poll_seconds: float = 1.0) -> None:
    """End this process when the one that has started it is gone; for those that Lightning starts for further devices.

    Its first process ends the others when one of them dies; when it dies itself nobody does, and a collective operation
    on GPUs would wait half an hour for it.
    """
    threading.Thread(target=_end_after, args=(os.getppid(), poll_seconds), daemon=True).start()


def _end_after(parent: int, poll_seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(poll_seconds)
    os._exit(1)
