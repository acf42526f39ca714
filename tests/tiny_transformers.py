"""Second stages small enough to sample hundreds of images in a test, and ways to look at what a job wrote."""

import io
import json

import numpy as np
import torch
from PIL import Image
from tiny_configs import first_stage

from taming.models.cond_transformer import Net2NetTransformer

N_CODES, N_CLASSES = 12, 4
STEPS = 16
FIRST_STAGE = first_stage(resolution=8, n_embed=N_CODES)
LABELS = {"target": "taming.modules.util.Labelator", "params": {"n_classes": N_CLASSES}}


def tiny_model(cond_stage_config=LABELS, *, vocab_size=N_CODES, block_size=STEPS, **changes):
    """A transformer over grids of 4 x 4 codes (images of 8 x 8) whose tokens are far from uniform."""
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, "block_size": block_size, "n_layer": 1, "n_head": 2, "n_embd": 16}
    model = Net2NetTransformer(
        {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes}, FIRST_STAGE, cond_stage_config, **changes
    )
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    torch.nn.init.normal_(model.first_stage_model.quantize.embedding.weight)
    return model.eval()


def contents(folder):
    """Every file of a job but the manifest, hidden ones too: relative name -> bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "sampling.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def manifest(folder):
    return json.loads((folder / "sampling.json").read_text())


def same(files, expected):
    """Whether two jobs' `contents` agree: images up to what rounding does, batches of other sizes on other machines."""
    return files.keys() == expected.keys() and all(
        files[name] == content or (name.endswith(".png") and _is_close(files[name], content))
        for name, content in expected.items()
    )


def within(files, expected):
    """Whether all `contents` of a part of a job are among those expected."""
    return files.keys() <= expected.keys() and same(files, {name: expected[name] for name in files})


def _is_close(content, expected):
    return close(io.BytesIO(content), np.asarray(Image.open(io.BytesIO(expected))))


def close(path, image):
    """Whether a file holds the uint8 image, up to what the rounding of another batch size does to a few pixels."""
    made = np.asarray(Image.open(path)).astype(int)
    if made.shape != image.shape:
        return False
    difference = np.abs(made - image)
    return difference.max() <= 1 and difference.mean() < 0.05
