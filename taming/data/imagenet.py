"""ImageNet (ILSVRC2012): images with classes, with depth, next to degraded or edge versions of themselves."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset

from taming.data._augment import albumentations
from taming.data._io import read_list, read_rgb, to_float
from taming.data.base import ImagePaths, dotted_name
from taming.data.depth_maps import depth_to_rgba, normalize_depth, read_depth, rgba_to_depth
from taming.data.imagenet_labels import chosen_synsets, give_synsets_from_indices, human_names, str_to_indices
from taming.data.imagenet_preparation import Split, cache_root, prepare
from taming.data.imagenet_scale import ImageNetEdges, ImageNetScale
from taming.data.imagenet_transforms import get_preprocessor, imscale
from taming.data.sizes import check_same_size
from taming.nested import retrieve
from taming.util import download

__all__ = [
    "BaseWithDepth",
    "DRINExamples",
    "ImageNetBase",
    "ImageNetEdges",
    "ImageNetEdgesTrain",
    "ImageNetEdgesValidation",
    "ImageNetScale",
    "ImageNetScaleTrain",
    "ImageNetScaleValidation",
    "ImageNetTrain",
    "ImageNetTrainWithDepth",
    "ImageNetValidation",
    "ImageNetValidationWithDepth",
    "ImagePaths",
    "RINTrainWithDepth",
    "RINValidationWithDepth",
    "depth_file",
    "depth_to_rgba",
    "download",
    "get_preprocessor",
    "give_synsets_from_indices",
    "imscale",
    "retrieve",
    "rgba_to_depth",
    "str_to_indices",
]

logger = logging.getLogger(__name__)

NOT_IMAGES = frozenset({"n06596364_9591.JPEG"})
"""Files of the archives that the published models never saw."""

RIN = "30-32, 33-37, 151-268, 281-285, 80-100, 365-382, 389-397, 118-121, 300-319"
"""Indices of the animals of Restricted ImageNet."""


class ImageNetBase(Dataset):
    """One split of ImageNet, prepared on first use below $XDG_CACHE_HOME or ~/.cache; see `imagenet_preparation`.

    `config` may hold `size` (shorter side and square crop, as in `ImagePaths`; default 0, full size), `sub_indices`
    (classes as in `str_to_indices`) and, below the name of the class, `random_crop`.

    Items: `image`, `relpath`, `synsets`, `class_label` (position among the sorted synsets that remain), `human_label`
    and `file_path_`. Raises FileNotFoundError where the data are missing and cannot be downloaded, ValueError for a bad
    config.
    """

    NAME = ""
    URL = "http://www.image-net.org/challenges/LSVRC/2012/"
    AT_HASH = ""
    FILES: tuple[str, ...] = ()
    SIZES: tuple[int, ...] = ()
    VS_URL = ""
    expected_length = 0
    section = ""
    crops_at_random = False

    def __init__(self, config: Mapping | None = None, *, name: str | None = None) -> None:
        self.name = name or dotted_name(type(self))
        self.config = _plain_config(config, self.name)
        self.root = str(cache_root(self.NAME))
        self.datadir = os.path.join(self.root, "data")
        self.txt_filelist = os.path.join(self.root, "filelist.txt")
        self.human_dict = os.path.join(self.root, "synset_human.txt")
        self.idx2syn = os.path.join(self.root, "index_synset.yaml")
        self.random_crop = retrieve(self.config, f"{self.section}/random_crop", default=self.crops_at_random)
        files, sizes = tuple(self.FILES), tuple(self.SIZES)
        prepare(Split(self.name, Path(self.root), files, sizes, self.AT_HASH, self.expected_length, self.VS_URL))
        self._load()

    def _load(self) -> None:
        self.relpaths = self._selected(read_list(self.txt_filelist, self.name))
        self.synsets = np.array([relpath.split("/")[0] for relpath in self.relpaths])
        unique, self.class_labels = np.unique(self.synsets, return_inverse=True)
        names = human_names(unique.tolist(), Path(self.human_dict), dataset=self.name)
        # One object per class; an array of text would be as wide as the longest name for each of the images.
        self.human_labels = np.array([np.str_(name) for name in names], dtype=object)[self.class_labels]
        self.abspaths = [os.path.join(self.datadir, relpath) for relpath in self.relpaths]
        labels = {
            "relpath": np.array(self.relpaths),
            "synsets": self.synsets,
            "class_label": self.class_labels,
            "human_label": self.human_labels,
        }
        size, hint = retrieve(self.config, "size", default=0), f"it is listed in {self.txt_filelist}"
        self.data = ImagePaths(
            self.abspaths, labels=labels, size=size, random_crop=self.random_crop, name=self.name, hint=hint
        )

    def _selected(self, relpaths: list[str]) -> list[str]:
        """Those of the classes that `sub_indices` names, without what is no image."""
        kept = [relpath for relpath in relpaths if relpath.split("/")[-1] not in NOT_IMAGES]
        if self.config.get("sub_indices") is not None:
            present = sorted({relpath.split("/")[0] for relpath in kept})
            chosen = chosen_synsets(str(self.config["sub_indices"]), Path(self.idx2syn), present, dataset=self.name)
            chosen = set(chosen)
            kept = [relpath for relpath in kept if relpath.split("/")[0] in chosen]
        if not kept:
            raise ValueError(f"{self.name}: no image of {self.txt_filelist} is left; check sub_indices")
        if len(kept) < len(relpaths):
            logger.info("%s: %d of %d images left out", self.name, len(relpaths) - len(kept), len(relpaths))
        return kept

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.data[i]


class ImageNetTrain(ImageNetBase):
    """The 1281167 training images, cropped at random, never mirrored."""

    NAME = "ILSVRC2012_train"
    AT_HASH = "a306397ccf9c2ead27155983c254227c0fd938e2"
    FILES = ("ILSVRC2012_img_train.tar",)
    SIZES = (147897477120,)
    expected_length = 1281167
    section = "ImageNetTrain"
    crops_at_random = True


class ImageNetValidation(ImageNetBase):
    """The 50000 validation images, cropped at the centre."""

    NAME = "ILSVRC2012_validation"
    AT_HASH = "5d6d0df7ed81efd49ca99ea4737e0ae5e3a5f2e5"
    VS_URL = "https://heibox.uni-heidelberg.de/f/3e0f6e9c624e45f2bd73/?dl=1"
    FILES = ("ILSVRC2012_img_val.tar", "validation_synset.txt")
    SIZES = (6744924160, 1950000)
    expected_length = 50000
    section = "ImageNetValidation"


class BaseWithDepth(Dataset):
    """Images with depth maps: the items of a base of full-size images, with `depth` float32 (h, w) in [-1, 1].

    Depth is normalised over its whole map; then both are scaled, cropped and mirrored alike as `get_preprocessor` says,
    after enlarging them if the shorter side is below `crop_size`. `config` is kept, but not used; `root` is the folder
    of the depth maps. A subclass names its base in `get_base_dset` and a file in `get_depth_path`.

    Reading an item raises FileNotFoundError, OSError, or ValueError for a map of another size than its image.
    """

    DEFAULT_DEPTH_ROOT = "data/imagenet_depth"
    hint = "scripts/extract_depth.py makes the depth maps of ImageNet"

    def __init__(
        self,
        config: Any = None,
        size: int | None = None,
        random_crop: bool = False,
        crop_size: int | None = None,
        root: str | os.PathLike | None = None,
    ) -> None:
        self.name = dotted_name(type(self))
        self.config = config
        if root is not None:
            self.DEFAULT_DEPTH_ROOT = root
        self.crop_size = crop_size if crop_size is not None and crop_size > 0 else None
        self.rescaler = None if self.crop_size is None else albumentations.SmallestMaxSize(max_size=self.crop_size)
        self.preprocessor = get_preprocessor(
            size=size, crop_size=crop_size, random_crop=random_crop, additional_targets={"depth": "image"}
        )
        self.base_dset = self.get_base_dset()

    def get_base_dset(self) -> Dataset:
        """The dataset of full-size images."""
        raise NotImplementedError(f"{type(self).__name__} must name its images")

    def get_depth_path(self, e: Mapping[str, Any]) -> str:
        """The depth map of an item of the base."""
        raise NotImplementedError(f"{type(self).__name__} must say where the depth of an item is")

    def __len__(self) -> int:
        return len(self.base_dset)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self.base_dset[i]
        path = self.get_depth_path(item)
        pair = {"image": item["image"], "depth": normalize_depth(read_depth(path, self.name, self.hint))}
        paths = (item.get("file_path_", f"number {i}"), path)
        check_same_size(*pair.values(), paths=paths, kind="depth map", dataset=self.name)
        if self.rescaler is not None and min(pair["image"].shape[:2]) < self.crop_size:
            pair = {key: self.rescaler(image=array)["image"] for key, array in pair.items()}
        pair = self.preprocessor(**pair)
        return item | {key: np.ascontiguousarray(array) for key, array in pair.items()}


class ImageNetTrainWithDepth(BaseWithDepth):
    """Training images of ImageNet, or of the classes `sub_indices`, with depth, cropped at random and mirrored."""

    def __init__(self, random_crop: bool = True, sub_indices: str | None = None, **kwargs: Any) -> None:
        self.sub_indices = sub_indices
        super().__init__(random_crop=random_crop, **kwargs)

    def get_base_dset(self) -> ImageNetTrain:
        return ImageNetTrain(_of_classes(self.sub_indices), name=self.name)

    def get_depth_path(self, e: Mapping[str, Any]) -> str:
        return depth_file(self.DEFAULT_DEPTH_ROOT, "train", e["relpath"])


class ImageNetValidationWithDepth(BaseWithDepth):
    """Validation images of ImageNet, or of the classes `sub_indices`, with depth."""

    def __init__(self, sub_indices: str | None = None, **kwargs: Any) -> None:
        self.sub_indices = sub_indices
        super().__init__(**kwargs)

    def get_base_dset(self) -> ImageNetValidation:
        return ImageNetValidation(_of_classes(self.sub_indices), name=self.name)

    def get_depth_path(self, e: Mapping[str, Any]) -> str:
        return depth_file(self.DEFAULT_DEPTH_ROOT, "val", e["relpath"])


class RINTrainWithDepth(ImageNetTrainWithDepth):
    """Training images of the animals of Restricted ImageNet, with depth."""

    def __init__(
        self, config: Any = None, size: int | None = None, random_crop: bool = True, crop_size: int | None = None
    ) -> None:
        super().__init__(config=config, size=size, random_crop=random_crop, sub_indices=RIN, crop_size=crop_size)


class RINValidationWithDepth(ImageNetValidationWithDepth):
    """Validation images of the animals of Restricted ImageNet, with depth."""

    def __init__(
        self, config: Any = None, size: int | None = None, random_crop: bool = False, crop_size: int | None = None
    ) -> None:
        super().__init__(config=config, size=size, random_crop=random_crop, sub_indices=RIN, crop_size=crop_size)


class DRINExamples(Dataset):
    """A few images of Restricted ImageNet with depth: `image` (256, 256, 3), `depth` (256, 256), float32 in [-1, 1]."""

    def __init__(self) -> None:
        self.name = dotted_name(type(self))
        entries = read_list("data/drin_examples.txt", self.name)
        self.image_paths = [os.path.join("data/drin_images", entry) for entry in entries]
        self.depth_paths = [os.path.join("data/drin_depth", entry.replace(".JPEG", ".png")) for entry in entries]
        self.rescaler = albumentations.SmallestMaxSize(max_size=256)
        self.cropper = albumentations.CenterCrop(height=256, width=256)

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        paths, hint = (self.image_paths[i], self.depth_paths[i]), "it is listed in data/drin_examples.txt"
        image = read_rgb(paths[0], self.name, hint=hint)
        depth = normalize_depth(read_depth(paths[1], self.name, hint))
        check_same_size(image, depth, paths=paths, kind="depth map", dataset=self.name)
        return {"image": to_float(self._square(image)), "depth": self._square(depth)}

    def _square(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.cropper(image=self.rescaler(image=array)["image"])["image"])


class ImageNetScaleTrain(ImageNetScale):
    """Training images, cropped at random."""

    def __init__(self, random_crop: bool = True, **kwargs: Any) -> None:
        super().__init__(random_crop=random_crop, **kwargs)

    def get_base(self) -> ImageNetTrain:
        return ImageNetTrain(name=self.name)


class ImageNetScaleValidation(ImageNetScale):
    """Validation images."""

    def get_base(self) -> ImageNetValidation:
        return ImageNetValidation(name=self.name)


class ImageNetEdgesTrain(ImageNetEdges):
    """Training images with their edges, cropped at random."""

    def __init__(self, random_crop: bool = True, **kwargs: Any) -> None:
        super().__init__(random_crop=random_crop, **kwargs)

    def get_base(self) -> ImageNetTrain:
        return ImageNetTrain(name=self.name)


class ImageNetEdgesValidation(ImageNetEdges):
    """Validation images with their edges."""

    def get_base(self) -> ImageNetValidation:
        return ImageNetValidation(name=self.name)


def _plain_config(config: Mapping | None, name: str) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True)
    if not isinstance(config, Mapping):
        raise ValueError(f"{name}: config must be a mapping with size, sub_indices, not {config!r}")
    return dict(config)


def _of_classes(sub_indices: str | None) -> dict[str, str] | None:
    return None if sub_indices is None else {"sub_indices": sub_indices}


def depth_file(root: str | os.PathLike, split: str, relpath: str) -> str:
    """Where the depth map of an image is, by its path `<synset>/<name>.JPEG`; split is `train` or `val`."""
    return os.path.join(root, split, f"{os.path.splitext(relpath)[0]}.png")
