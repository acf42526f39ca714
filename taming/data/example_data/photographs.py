"""Examples for training on one's own images: photographs that come inside the scikit-image package."""

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from taming.data.custom import CustomTest, CustomTrain
from taming.data.example_data.layout import ExampleSet, check_files, pixels_of, save_jpeg, save_list

logger = logging.getLogger(__name__)

NAME = "custom_examples"
LONG_SIDE = 320
FILES = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "hubble": "hubble_deep_field.jpg",
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
}
GREY = ("brick", "grass", "gravel")
N_TRAINING = 6


def _folder() -> Path | None:
    """Where scikit-image keeps its photographs; None if it is not installed."""
    package = importlib.util.find_spec("skimage")  # importing it takes time and may offer downloads
    return Path(package.origin).parent / "data" if package is not None else None


def write(folder: Path, seed: int) -> None:
    source = _folder()
    if source is None:
        logger.warning("custom examples skipped: they are photographs of scikit-image, which is not installed")
        return
    for name, file in FILES.items():
        with Image.open(source / file) as image:
            picture = image.convert("L" if name in GREY else "RGB")
        factor = LONG_SIDE / max(picture.size)
        size = [round(side * factor) for side in picture.size]
        resized = picture.resize(size, Image.Resampling.LANCZOS)
        save_jpeg(folder / NAME / f"{name}.jpg", np.asarray(resized))
    names = [f"{name}.jpg" for name in FILES]
    save_list(folder / NAME / "train.txt", names[:N_TRAINING])
    save_list(folder / NAME / "test.txt", names[N_TRAINING:])


def check(folder: Path, seed: int) -> Iterable[str]:
    if not (folder / NAME).is_dir():
        if _folder() is not None:
            yield f"{folder / NAME} is missing"
        return
    names = [f"{name}.jpg" for name in FILES]
    missing = list(check_files(folder, NAME, [*names, "train.txt", "test.txt"]))
    yield from missing
    if missing:
        return
    for name in FILES:
        mode, pixels = pixels_of(folder / NAME / f"{name}.jpg")
        if mode != ("L" if name in GREY else "RGB") or max(pixels.shape) != LONG_SIDE:
            yield f"{folder / NAME / name}.jpg has mode {mode} and size {pixels.shape}"
    train = CustomTrain(size=64, training_images_list_file=str(folder / NAME / "train.txt"))
    test = CustomTest(size=64, test_images_list_file=str(folder / NAME / "test.txt"))
    if (len(train), len(test)) != (N_TRAINING, len(FILES) - N_TRAINING):
        yield f"{folder / NAME}: the lists have {len(train)} and {len(test)} entries"
    for dataset in (train, test):
        for index in range(len(dataset)):
            dataset[index]


CUSTOM = ExampleSet((NAME,), write, check)
