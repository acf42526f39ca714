"""A folder of images as a training and a validation set; its subfolders, if any, are classes."""

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any

from taming.data._augment import SeededTransform, albumentations
from taming.data.base import ImagePaths, dotted_name
from taming.data.folder_scan import list_images

HELD_OUT = 0.1
"""Share of the images that are for validation."""


class _FolderImages(ImagePaths):
    """One split of the images below a folder.

    An image is held out for validation if the SHA-256 of its path, relative to the folder, falls into the lowest tenth
    of its range: the split does not depend on the machine, and adding images moves none of the others (but where no
    image, or every image, falls there, the one nearest to the limit changes sides).
    The class is the first folder on the path; images that lie in no subfolder belong to a class named after the
    folder itself.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        size: int,
        *,
        held_out: bool,
        random_crop: bool = False,
        scan_cache: str | os.PathLike | None = None,
        **options: Any,
    ) -> None:
        name = dotted_name(type(self))
        if size <= 0:
            raise ValueError(f"{name}: size is {size}; expected a positive number of pixels")
        if not os.path.isdir(root):
            raise FileNotFoundError(f"{name}: folder not found: {root}; give a folder of images")
        images = list_images(root, name, scan_cache)
        if len(images) < 2:
            raise ValueError(f"{name}: only one image below {root}; two are needed, to train on and to validate with")
        own_name = Path(root).resolve().name
        self.class_names = sorted({_class_name(image, own_name) for image in images})
        self.n_classes = len(self.class_names)
        split = _held_out(images)
        chosen = [image for image in images if (image in split) == held_out]
        human_labels = [_class_name(image, own_name) for image in chosen]
        index = {label: i for i, label in enumerate(self.class_names)}
        labels = {"class_label": [index[label] for label in human_labels], "human_label": human_labels}
        paths = [os.path.join(root, image) for image in chosen]
        super().__init__(paths, size=size, random_crop=random_crop, labels=labels, exif=True, **options)


class FolderTrain(_FolderImages):
    """About nine tenths of the images below `root`, cut to (size, size, 3) at random, or at the centre, and mirrored.

    Items: `image` float32 in [-1, 1], `class_label` int, `human_label` str, `file_path_` str. Attributes: `n_classes`
    and `class_names`, sorted, of both splits together. Images are turned upright; see `_FolderImages` for the split,
    `ImagePaths` for `on_error`, `draft` and `cache_dir`, and `list_images` for `scan_cache`.
    Raises FileNotFoundError for a missing folder, ValueError for one with fewer than two images.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        size: int,
        random_crop: bool = True,
        flip: bool = True,
        *,
        on_error: str = "raise",
        draft: bool = False,
        cache_dir: str | os.PathLike | None = None,
        scan_cache: str | os.PathLike | None = None,
    ) -> None:
        options = {"on_error": on_error, "draft": draft, "cache_dir": cache_dir, "scan_cache": scan_cache}
        super().__init__(root, size, held_out=False, random_crop=random_crop, **options)
        if flip:
            steps = [self.rescaler, self.cropper, albumentations.HorizontalFlip(p=0.5)]
            self.preprocessor = SeededTransform(albumentations.Compose(steps))


class FolderValidation(_FolderImages):
    """The other images below `root`, cut to (size, size, 3) at the centre; otherwise as `FolderTrain`."""

    def __init__(
        self,
        root: str | os.PathLike,
        size: int,
        *,
        on_error: str = "raise",
        draft: bool = False,
        cache_dir: str | os.PathLike | None = None,
        scan_cache: str | os.PathLike | None = None,
    ) -> None:
        options = {"on_error": on_error, "draft": draft, "cache_dir": cache_dir, "scan_cache": scan_cache}
        super().__init__(root, size, held_out=True, **options)


def _class_name(image: str, own_name: str) -> str:
    parts = PurePosixPath(image).parts
    return parts[0] if len(parts) > 1 else own_name


def _held_out(images: list[str]) -> set[str]:
    """The images to validate with: at least one, and never all."""
    by_position = sorted(images, key=_position)
    count = sum(_position(image) < HELD_OUT for image in images)
    return set(by_position[: min(max(count, 1), len(images) - 1)])


def _position(image: str) -> float:
    """Where an image's path lies between 0 and 1, evenly spread by its hash."""
    digest = hashlib.sha256(image.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
