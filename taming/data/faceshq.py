"""Faces: CelebA-HQ, FFHQ, and both together with the set that a face is from and the coordinates of its pixels."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from taming.data._augment import pipeline, square
from taming.data._io import read_list
from taming.data.base import ConcatDatasetWithIndex, ImagePaths, NumpyPaths, dotted_name
from taming.data.folder_scan import list_files
from taming.data.sizes import check_room

logger = logging.getLogger(__name__)

KEYS = ("image", "file_path_")


@dataclass(frozen=True)
class FaceFiles:
    """Where a set of faces lies, and which of its files are for validation where there are no lists.

    Those are the files whose stem has a hash that `modulus` divides.
    """

    root: str
    list_prefix: str
    suffixes: tuple[str, ...]
    modulus: int
    reader: type[ImagePaths]
    source: str


CELEBAHQ = FaceFiles(
    root="data/celebahq",
    list_prefix="data/celebahq",
    suffixes=(".npy",),
    modulus=6,
    reader=NumpyPaths,
    source="make data/celebahq/imgHQ00000.npy and so on with https://github.com/tkarras/progressive_growing_of_gans",
)
FFHQ = FaceFiles(
    root="data/ffhq",
    list_prefix="data/ffhq",
    suffixes=(".png", ".jpg", ".jpeg", ".webp"),
    modulus=7,
    reader=ImagePaths,
    source="place images1024x1024 of https://github.com/NVlabs/ffhq-dataset in data/ffhq",
)


class FacesBase(Dataset):
    """Dataset that hands on length and items of its attribute `data`; of the items, only `keys` if there are any."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.data: Dataset | None = None
        self.keys: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self.data[i]
        return item if not self.keys else {key: item[key] for key in self.keys}


class _Faces(FacesBase):
    """One split of one set, square centre crops: `image` float32 (size, size, 3) in [-1, 1] and `file_path_`.

    The list file of the split decides. Where there is none, all files below the root are split by a hash of their
    names, with a warning. Raises FileNotFoundError where there are no files, ValueError for unknown `keys`.
    """

    files: FaceFiles
    split: str

    def __init__(self, size: int | None, keys: Sequence[str] | None = None, *, name: str | None = None) -> None:
        super().__init__()
        name = name or dotted_name(type(self))
        unknown = [key for key in keys or () if key not in KEYS]
        if unknown:
            raise ValueError(f"{name}: keys: no item has {unknown[0]!r}; choose from {', '.join(KEYS)}")
        list_file = f"{self.files.list_prefix}{self.split}.txt"
        if os.path.exists(list_file):
            entries = _as_stored(self.files.root, read_list(list_file, name))
            hint = f"it is listed in {list_file}; {self.files.source}"
        else:
            entries, hint = _own_split(self.files, self.split, list_file, name), ""
        paths = [os.path.join(self.files.root, entry) for entry in entries]
        self.data = self.files.reader(paths, size=size, random_crop=False, name=name, hint=hint)
        self.keys = keys


class CelebAHQTrain(_Faces):
    """Training images of CelebA-HQ: data/celebahq, by data/celebahqtrain.txt."""

    files, split = CELEBAHQ, "train"


class CelebAHQValidation(_Faces):
    """Validation images of CelebA-HQ: data/celebahq, by data/celebahqvalidation.txt."""

    files, split = CELEBAHQ, "validation"


class FFHQTrain(_Faces):
    """Training images of FFHQ: data/ffhq, by data/ffhqtrain.txt."""

    files, split = FFHQ, "train"


class FFHQValidation(_Faces):
    """Validation images of FFHQ: data/ffhq, by data/ffhqvalidation.txt."""

    files, split = FFHQ, "validation"


class _FacesHQ(Dataset):
    """CelebA-HQ, then FFHQ: the items of both with `class`, 0 or 1, and with `coord` where it is asked for.

    `coord` is float64 (h, w, 1) in [0, 1): the place of a pixel among all of its image, row by row, before the image is
    cropped to a square of `crop_size`. Raises ValueError if `keys` leave out an image that is needed for that.
    """

    sets: tuple[type[_Faces], type[_Faces]]
    crops_at_random: bool

    def __init__(
        self,
        size: int | None,
        keys: Sequence[str] | None = None,
        crop_size: int | None = None,
        coord: bool = False,
    ) -> None:
        self.name = dotted_name(type(self))
        if keys and "image" not in keys and (crop_size is not None or coord):
            raise ValueError(f"{self.name}: keys must hold 'image' where crop_size or coord is given, not {list(keys)}")
        self.data = ConcatDatasetWithIndex([faces(size=size, keys=keys, name=self.name) for faces in self.sets])
        self.coord = coord
        self.crop_size = crop_size
        self.cropper = None
        if crop_size is not None:
            _, crop = square(crop_size, random_crop=self.crops_at_random)
            self.cropper = pipeline([crop], random_crop=self.crops_at_random, additional_targets={"coord": "image"})

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item, set_index = self.data[i]
        item = {**item, "class": set_index}
        if self.coord:
            height, width = item["image"].shape[:2]
            item["coord"] = np.arange(height * width).reshape(height, width, 1) / (height * width)
        if self.cropper is not None:
            path = item.get("file_path_", f"image {i}")
            check_room(item["image"], self.crop_size, path=path, dataset=self.name)
            item |= self.cropper(**{key: item[key] for key in ("image", "coord") if key in item})
        return item


class FacesHQTrain(_FacesHQ):
    """The training images of both sets, cropped at random; see `_FacesHQ`."""

    sets = (CelebAHQTrain, FFHQTrain)
    crops_at_random = True


class FacesHQValidation(_FacesHQ):
    """The validation images of both sets, cropped at the centre; see `_FacesHQ`."""

    sets = (CelebAHQValidation, FFHQValidation)
    crops_at_random = False


def _as_stored(root: str, entries: list[str]) -> list[str]:
    """Entries of a list, below the folders of a thousand files each that newer downloads of FFHQ have."""
    first = entries[0]
    if os.path.exists(os.path.join(root, first)) or not os.path.exists(os.path.join(root, _sharded(first))):
        return entries
    return [_sharded(entry) for entry in entries]


def _sharded(entry: str) -> str:
    """52535.png -> 52000/52535.png"""
    return f"{PurePosixPath(entry).stem[:-3]}000/{entry}"


def _own_split(files: FaceFiles, split: str, list_file: str, name: str) -> list[str]:
    """The files of a split, where no list names them, as sorted paths relative to the root."""
    found = list_files(files.root, files.suffixes) if os.path.isdir(files.root) else []
    if not found:
        raise FileNotFoundError(f"{name}: no {', '.join(files.suffixes)} files in {files.root}; {files.source}")
    chosen = [entry for entry in found if _is_validation(entry, files.modulus) == (split == "validation")]
    if not chosen:
        raise ValueError(
            f"{name}: none of the {len(found)} files in {files.root} falls into the {split} split; write {list_file}"
        )
    _warn_once(
        f"no {list_file}: {len(chosen)} of the {len(found)} files in {files.root} are for {split}, namely those whose"
        f" SHA-256 of the name (its first 8 hexadecimal digits) {files.modulus} divides"
        f"{'' if split == 'validation' else ' not'}; this is not the published split, whose list is {list_file} in the"
        " CompVis repository"
    )
    return chosen


def _is_validation(entry: str, modulus: int) -> bool:
    digest = hashlib.sha256(PurePosixPath(entry).stem.encode("utf-8")).hexdigest()
    return int(digest[:8], 16) % modulus == 0


@cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)
