"""CelebA-HQ and FFHQ on a small scale."""

import os
from pathlib import Path

import numpy as np
from paired_figures import write

SIZE = 24


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def place(n_celebahq=40, n_ffhq=40, ffhq_name="{:05}.png"):
    """Files of both sets below the current folder, whose names are counted."""
    os.makedirs("data/celebahq", exist_ok=True)
    for number in range(n_celebahq):
        np.save(f"data/celebahq/imgHQ{number:05}.npy", pixels(number).transpose(2, 0, 1)[None])
    for number in range(n_ffhq):
        write(Path("data/ffhq", ffhq_name.format(number)), pixels(1000 + number))
