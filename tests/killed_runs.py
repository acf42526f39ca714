"""Runs that are killed and resumed: small models with everything random in them, and what tells two runs apart."""

import json
import random
from pathlib import Path

import albumentations
import numpy as np
import torch
from pytorch_lightning.loggers import Logger
from tiny_configs import ddconfig
from torch.utils.data import Dataset

from taming.data._augment import pipeline
from taming.modules.losses.vqperceptual import VQLPIPSWithDiscriminator

PAGE = 4096 / 2**20
"""MiB of a page of memory."""


class Crops(Dataset):
    """Crops of 16 pixels, mirrored or not, a little brighter by every kind of random number; three classes."""

    def __init__(self, size=22):
        self.images = np.random.default_rng(0).integers(0, 256, (size, 20, 20, 3), dtype=np.uint8)
        self.crop = pipeline(
            [albumentations.RandomCrop(height=16, width=16), albumentations.HorizontalFlip()], random_crop=True
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.crop(image=self.images[index])["image"] / 127.5 - 1
        brighter = 0.01 * (random.random() + np.random.rand() + torch.rand(()).item())
        return {"image": (image + brighter).astype(np.float32), "class_label": index % 3}


class PixelLoss(VQLPIPSWithDiscriminator):
    """The loss of a VQGAN without the 59 MB of LPIPS, which a weight of 0 leaves unused."""

    def __init__(self, **params):
        super().__init__(perceptual_weight=0.0, **params)
        self.perceptual_loss = None


class Journal(Logger):
    """A logger that appends what it is told to a file at once: a line of step, metrics and memory in MiB."""

    name = "journal"
    version = 0

    def __init__(self, path):
        super().__init__()
        self.path = path

    def log_metrics(self, metrics, step=None):
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE if Path("/proc/self/statm").exists() else 0
        exact = {name: float(value).hex() for name, value in metrics.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps([step, exact, memory]) + "\n")

    def log_hyperparams(self, *_, **__):
        pass


def read_journal(path):
    """Its lines, without one that was not finished."""
    text = Path(path).read_text() if Path(path).exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def logged(path):
    """(step, name) -> all different values that the journal has for it."""
    values = {}
    for step, metrics, _ in read_journal(path):
        for name, value in metrics.items():
            values.setdefault((step, name), set()).add(value)
    return values


def vqgan(**changes):
    """A VQGAN with k-means, revival, dropout, a discriminator from the third step on and a schedule."""
    loss = {"disc_start": 2, "disc_ndf": 8, "disc_num_layers": 1}
    params = {
        "ddconfig": ddconfig(dropout=0.1),
        "lossconfig": {"target": f"{__name__}.PixelLoss", "params": loss},
        "n_embed": 16,
        "embed_dim": 4,
        "monitor": "val/rec_loss",
        "kmeans_init": True,
        "revive_threshold": 1.0,
        "scheduler_config": schedule(),
    }
    return {"base_learning_rate": 1e-3, "target": "taming.models.vqgan.EMAVQ", "params": params | changes}


def transformer():
    """A transformer with dropout and tokens replaced at random."""
    gpt = {"vocab_size": 16, "block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 16}
    dropout = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.1)
    stage = vqgan()["params"] | {"lossconfig": {"target": "torch.nn.Identity"}, "scheduler_config": None}
    params = {
        "cond_stage_key": "class_label",
        "pkeep": 0.8,
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt | dropout},
        "first_stage_config": {"target": "taming.models.vqgan.EMAVQ", "params": stage},
        "cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": 3}},
        "scheduler_config": schedule(),
    }
    target = "taming.models.cond_transformer.Net2NetTransformer"
    return {"base_learning_rate": 1e-3, "target": target, "params": params}


def schedule():
    params = {"warm_up_steps": 3, "lr_start": 0.0, "lr_max": 1.0, "lr_min": 0.0, "max_decay_steps": 500}
    return {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler", "params": params}


def config(model, journal, *, num_workers=0, every_n_steps=None, **trainer):
    """A run of `model` on crops, six batches per epoch, that logs each step into the file `journal`."""
    crops = {"target": f"{__name__}.Crops"}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "accelerator": "cpu"}
    return {
        "model": model,
        "data": {
            "target": "main.DataModuleFromConfig",
            "params": {"batch_size": 4, "num_workers": num_workers, "train": crops, "validation": crops},
        },
        "lightning": {
            "trainer": quiet | trainer,
            "logger": {"target": f"{__name__}.Journal", "params": {"path": str(journal)}},
            "modelcheckpoint": {"params": {"last_every_n_steps": every_n_steps}},
            "callbacks": {"image_logger": {"params": {"batch_frequency": 7, "increase_log_steps": False}}},
        },
    }


def differences(first, second):
    """Where the states of training in two checkpoints differ: weights, optimizers, schedules, step and position."""
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "loops")
    states = [torch.load(path, weights_only=True) for path in (first, second)]
    return list(_differences(*({key: state[key] for key in kept} for state in states), ""))


def _differences(a, b, place):
    if type(a) is not type(b):
        yield f"{place}: {type(a).__name__}, {type(b).__name__}"
    elif isinstance(a, dict) and a.keys() == b.keys():
        for key in a:
            yield from _differences(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, list | tuple) and len(a) == len(b):
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from _differences(*pair, f"{place}/{index}")
    elif isinstance(a, torch.Tensor):
        if not torch.equal(a, b):
            yield f"{place}: up to {(a - b).abs().max():.2g} apart"
    elif a != b:
        yield f"{place}: {a}, {b}"
