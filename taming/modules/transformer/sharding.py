"""A transformer whose weights are spread over processes (Zhao et al. 2023, fully sharded data parallelism)."""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

BESIDE_FORWARD = ("forward_cached", "forward_with_past")
"""Methods of a transformer and its blocks that compute with their weights too."""


def shard(transformer: nn.Module, mesh: "DeviceMesh", *, borrow_in_bfloat16: bool = False) -> None:
    """Spread the weights of a transformer over the processes of `mesh`, one unit per block and one for the rest.

    Names of parameters stay as they are. Does nothing to what is spread already.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for module in (*getattr(transformer, "blocks", ()), transformer):
        if isinstance(module, FSDPModule):
            continue
        fully_shard(module, mesh=mesh, mp_policy=half if borrow_in_bfloat16 else MixedPrecisionPolicy())
        for name in BESIDE_FORWARD:
            if hasattr(module, name):
                register_fsdp_forward_method(module, name)
