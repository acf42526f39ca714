"""Tiny models that one process, or each of two, trains for some steps on the same images: what `run` does.

Started as a program it is one of two processes: `python two_processes.py FOLDER KIND...`, its number in LOCAL_RANK.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from tiny_configs import ddconfig, first_stage
from torch.utils.data import DataLoader

from taming.checkpoint import SafeCheckpointIO, load_checkpoint
from taming.models.cond_transformer import Net2NetTransformer
from taming.models.vqgan import EMAVQ, GumbelVQ, VQModel
from taming.training.callbacks import GradientNorm, ImageLogger
from taming.training.last_checkpoint import LastCheckpoint
from taming.training.sharding import strategy_for

STEPS, HALF, IMAGES, DISC_START = 20, 10, 4, 6
HERE = Path(__file__).parent


def images(step):
    """The images of one step (b, 8, 8, 3), for all processes together."""
    noise = torch.rand(IMAGES, 4, 4, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64) * 2 - 1
    return noise.repeat_interleave(2, 1).repeat_interleave(2, 2)


def batches(rank, processes, order=range(IMAGES)):
    """What one of the processes is given: its share of each step's images in this order, with labels."""
    share = list(order)[rank * IMAGES // processes : (rank + 1) * IMAGES // processes]
    return [{"image": images(step)[share], "label": torch.arange(IMAGES)[share]} for step in range(STEPS)]


def vqgan(kind=VQModel, double=True, **params):
    """A first stage whose discriminator has no batch norm, which would see half a batch in each process.

    It computes in float64, since Adam makes much of rounding where gradients vanish.
    """
    loss = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {
            "disc_start": DISC_START,
            "perceptual_weight": 0.0,
            "disc_num_layers": 1,
            "disc_ndf": 8,
            "use_actnorm": True,
        },
    }
    model = kind(ddconfig(), loss, n_embed=16, embed_dim=4, **params)
    model.loss.perceptual_loss = torch.nn.Identity()  # without weight, and most of the parameters
    return model.double() if double else model


def gumbel():
    schedule = {
        "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
        "params": {"warm_up_steps": 0, "lr_min": 0.5, "lr_max": 1.0, "lr_start": 1.0, "max_decay_steps": STEPS},
    }
    return vqgan(GumbelVQ, temperature_scheduler_config=schedule)


def transformer(**params):
    gpt = {"vocab_size": 16, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16, **params}
    return Net2NetTransformer(
        {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt},
        first_stage(resolution=8, n_embed=16),
        {"target": "taming.modules.util.Labelator", "params": {"n_classes": IMAGES}},
        cond_stage_key="label",
    )


MODELS = {
    "vqgan": vqgan,
    "vqgan in float32": lambda: vqgan(double=False),
    "gumbel": gumbel,
    "ema": lambda: vqgan(EMAVQ, kmeans_init=True, revive_threshold=1.0),
    "transformer": transformer,
    "half": transformer,
    "fsdp": lambda: transformer(gradient_checkpointing=True),
    "resumed": transformer,
}
"""half trains half of the steps, and resumed goes on from its checkpoint, with its weights sharded as those of fsdp."""


class Losses(pl.Callback):
    """The losses of every step, by name; and at which step a checkpoint was made that the first process asked for."""

    def __init__(self):
        self.steps = []
        self.saved = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        logged = trainer.callback_metrics.items()
        self.steps.append({key: float(value) for key, value in logged if key.endswith(("_step", "optimizer_0"))})
        last = next((callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)), None)
        if last is not None and trainer.is_global_zero:
            if trainer.global_step == HALF:
                last.request()
            elif trainer.global_step == HALF + 1 and last.path.exists():
                self.saved = load_checkpoint(last.path)["global_step"]


def gumbel_softmax(rank, processes, step):
    """torch's, with noise that belongs to the images and not to the process."""

    def draw(logits, tau=1.0, hard=False, dim=-1):
        shape = (IMAGES, *logits.shape[1:])
        uniform = torch.rand(shape, generator=torch.Generator().manual_seed(step()))
        noise = -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))
        share = slice(rank * IMAGES // processes, (rank + 1) * IMAGES // processes)
        soft = ((logits + noise[share]) / tau).softmax(dim)
        one_hot = F.one_hot(soft.argmax(dim), soft.shape[dim]).movedim(-1, dim).to(soft)
        return one_hot + soft - soft.detach() if hard else soft

    return draw


def new_trainer(kind, model, processes, folder, callbacks):
    is_transformer = isinstance(model, Net2NetTransformer)
    strategy = "auto" if processes == 1 else strategy_for("fsdp" if kind in ("fsdp", "resumed") else "ddp", model)
    if is_transformer:
        callbacks = [GradientNorm(), *callbacks]
    if is_transformer and folder is not None:
        callbacks = [*callbacks, LastCheckpoint(folder), ImageLogger(1000, max_images=1, increase_log_steps=False)]
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=strategy,
        plugins=[SafeCheckpointIO()],
        callbacks=callbacks,
        default_root_dir=folder,
        use_distributed_sampler=False,
        gradient_clip_val=0.3 if is_transformer else None,
        max_steps=HALF if kind == "half" else STEPS,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        **quiet,
    )


def run(kind, rank=0, processes=1, folder=None, order=range(IMAGES)):
    """The losses of every step and the weights in the end; of transformers in a folder there are checkpoints, too."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    model.learning_rate = 1e-3
    losses = Losses()
    trainer = new_trainer(kind, model, processes, folder and Path(folder, kind), [losses])
    data = batches(rank, processes, order)
    if kind == "resumed":
        data = data[HALF:] * 2  # a loader without memory begins anew
    original, F.gumbel_softmax = F.gumbel_softmax, gumbel_softmax(rank, processes, lambda: model.global_step)
    try:
        checkpoint = Path(folder, "half", "last.ckpt") if kind == "resumed" else None
        trainer.fit(model, DataLoader(data, batch_size=None), ckpt_path=checkpoint, weights_only=True)
    finally:
        F.gumbel_softmax = original
    weights = dict(trainer.strategy.lightning_module_state_dict())
    return {"losses": losses.steps, "weights": weights, "saved": losses.saved}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two(folder, kinds, timeout=600):
    """What `run` gives for each kind in each of two processes: {kind: [first, second]}."""
    paths = [HERE.parents[1], HERE.parent, HERE]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    environ.pop("PL_GLOBAL_SEED", None)  # of a test before, by which Lightning would seed each of several processes
    command = [sys.executable, __file__, str(folder), *kinds]
    processes = [subprocess.Popen(command, env={**environ, "LOCAL_RANK": str(rank)}) for rank in range(2)]
    try:
        codes = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0]
    return {kind: [torch.load(folder / f"{kind}{rank}.pt", weights_only=True) for rank in range(2)] for kind in kinds}


def main(folder, *kinds):
    torch.set_num_threads(1)
    rank = int(os.environ["LOCAL_RANK"])
    for kind in kinds:
        torch.save(run(kind, rank, 2, folder), f"{folder}/{kind}{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
