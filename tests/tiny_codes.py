"""A second stage with a first stage in a file, pictures to encode, and the command that encodes them."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from tiny_configs import first_stage
from torch.utils.data import Dataset

from taming.config import instantiate_from_config
from taming.data.utils import custom_collate

SCRIPT = Path(__file__).parents[1] / "scripts" / "extract_codes.py"
SPEC = importlib.util.spec_from_file_location("extract_codes", SCRIPT)
extract_codes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(extract_codes)


class Pictures(Dataset):
    """`size` pictures (8, 8, 3) in [-1, 1] with classes and more to condition on; `augment` asks all three generators.

    A broken one raises KeyboardInterrupt where it is.
    """

    def __init__(self, size=7, augment=False, broken=None):
        self.images = torch.rand(size, 8, 8, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.augment = augment
        self.broken = broken

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.broken:
            raise KeyboardInterrupt
        image = self.images[index]
        if self.augment:
            image = image.roll(random.randrange(8), dims=random.randrange(2))
            image = (image + np.random.uniform(-1, 1) + torch.rand(3)).clamp(-1, 1).float()
        return {
            "image": image,
            "other": image.flip(0),
            "class_label": index % 3,
            "coord": torch.linspace(0, 0.9, 64).view(8, 8, 1),
            "objects_bbox": torch.tensor([index % 8, 2, 3]),
        }


def config(**params):
    """The model: a vocabulary of 8, 16 image tokens in a boustrophedon, classes."""
    return {
        "base_learning_rate": 0.01,
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {
            "cond_stage_key": "class_label",
            "pkeep": 0.7,
            "transformer_config": {
                "target": "taming.modules.transformer.mingpt.GPT",
                "params": {"vocab_size": 8, "block_size": 32, "n_layer": 1, "n_head": 2, "n_embd": 8},
            },
            "permuter_config": {
                "target": "taming.modules.transformer.permuter.AlternateParsing",
                "params": {"H": 4, "W": 4},
            },
            "first_stage_config": first_stage(resolution=8, n_embed=8),
            "cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": 3}},
            **params,
        },
    }


def build(seed=0, **params):
    """The model with a first stage that uses its whole codebook."""
    torch.manual_seed(seed)
    model = instantiate_from_config(config(**params)).eval()
    torch.nn.init.normal_(model.first_stage_model.quantize.embedding.weight)
    return model


def write_config(folder, *changes):
    """Write first.ckpt, the weights of the first stage, and second.yaml in `folder`; the latter's name."""
    torch.save({"state_dict": build().first_stage_model.state_dict()}, folder / "first.ckpt")
    pictures = f"{__name__}.Pictures"
    content = {
        "model": config(first_stage_config=first_stage(resolution=8, n_embed=8, ckpt_path="first.ckpt")),
        "data": {
            "target": "main.DataModuleFromConfig",
            "params": {
                "batch_size": 2,
                "num_workers": 0,
                "train": {"target": pictures, "params": {"size": 7}},
                "validation": {"target": pictures, "params": {"size": 3}},
            },
        },
        "lightning": {"trainer": {"enable_progress_bar": False, "enable_model_summary": False}},
    }
    OmegaConf.save(OmegaConf.merge(content, OmegaConf.from_dotlist(list(changes))), folder / "second.yaml")
    return "second.yaml"


def batch(dataset, indices=(0, 1, 2)):
    return custom_collate([dataset[index] for index in indices])


def files(folder):
    """The content of all files below a folder by their names."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
