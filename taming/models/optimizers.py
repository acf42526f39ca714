"""What the models' optimizers have in common."""

from pytorch_lightning import LightningModule
from torch.optim import Optimizer

from taming.lr_scheduler import build_schedule


def can_fuse(module: LightningModule) -> bool:
    """Whether an optimizer may step in one kernel: faster, but fp16 loss scaling and clipping cannot go with it."""
    return module._trainer is None or module.trainer.precision != "16-mixed"


def with_schedule(optimizer: Optimizer, scheduler_config):
    """What `configure_optimizers` returns for one optimizer, with a schedule per step unless the config is None."""
    if scheduler_config is None:
        return optimizer
    schedule = {"scheduler": build_schedule(optimizer, scheduler_config), "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": schedule}
