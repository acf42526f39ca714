"""ADE20K scenes with 150 classes of segmentation (ADEChallengeData2016): examples, and the full sets."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from taming.data._io import read_list
from taming.data.segmentation import PairedDataset, segmentation_name
from taming.data.sflckr import SegmentationBase

logger = logging.getLogger(__name__)

N_LABELS = 151
"""0 is other or unlabelled; 1 to 150 are wall, building, sky, floor, tree, ..."""

ROOT = "data/ade20k_root"
SOURCE = (
    f"unpack http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip, whose content belongs in {ROOT}"
)
UNKNOWN_SCENE = "unknown"


class Examples(SegmentationBase):
    """A few ADE20K images."""

    def __init__(self, size: int | None = 256, random_crop: bool = False, interpolation: str = "bicubic") -> None:
        super().__init__(
            data_csv="data/ade20k_examples.txt",
            data_root="data/ade20k_images",
            segmentation_root="data/ade20k_segmentations",
            size=size,
            random_crop=random_crop,
            interpolation=interpolation,
            n_labels=N_LABELS,
        )


class ADE20kBase(PairedDataset):
    """One split of ADE20K below data/ade20k_root: the images of a list file, or all of them where there is none.

    The shorter side is scaled to `size` (images by `interpolation`, maps by the nearest pixel), then a square of
    `crop_size` (default: `size`) cut out, at the centre or, with `random_crop`, anywhere. `config` is not used.

    Items: `relative_file_path_`, `file_path_`, `relative_segmentation_path_`, `segmentation_path_`, `scene_category`,
    `image` float32 (h, w, 3) in [-1, 1], `segmentation` float64 one-hot (h, w, 151). Raises FileNotFoundError where
    there are no images or no list of their scenes.
    """

    list_file = ""
    folder = ""

    def __init__(
        self,
        config: Mapping | None = None,
        size: int | None = None,
        random_crop: bool = False,
        interpolation: str = "bicubic",
        crop_size: int | None = None,
    ) -> None:
        super().__init__()
        self.split = self.get_split()
        self.n_labels = N_LABELS
        self.data_csv = self.list_file
        self.data_root = ROOT
        self.image_paths = self._entries()
        segmentations = [segmentation_name(entry) for entry in self.image_paths]
        self.labels = {
            "relative_file_path_": self.image_paths,
            "file_path_": [os.path.join(ROOT, "images", entry) for entry in self.image_paths],
            "relative_segmentation_path_": segmentations,
            "segmentation_path_": [os.path.join(ROOT, "annotations", entry) for entry in segmentations],
            "scene_category": self._scenes(),
        }
        self._set_geometry(size, crop_size or size, random_crop=random_crop, interpolation=interpolation)

    def get_split(self) -> str:
        """`train` or `validation`."""
        raise NotImplementedError(f"{type(self).__name__} must say its split")

    def _entries(self) -> list[str]:
        """Paths below the folder of images, with `/`."""
        if os.path.exists(self.data_csv):
            return read_list(self.data_csv, self.name)
        images = Path(ROOT, "images")
        found = sorted(path.relative_to(images).as_posix() for path in (images / self.folder).glob("*.jpg"))
        if not found:
            raise FileNotFoundError(f"{self.name}: no .jpg files in {images / self.folder}; {SOURCE}")
        logger.info("%s: no list %s, using all %d images of %s", self.name, self.data_csv, len(found), self.folder)
        return found

    def _scenes(self) -> list[str]:
        """The scene of each image, found by its file's stem."""
        path = Path(ROOT, "sceneCategories.txt")
        if not path.is_file():
            raise FileNotFoundError(f"{self.name}: file not found: {path}; {SOURCE}")
        scenes = dict(line.split()[:2] for line in read_list(path, self.name) if len(line.split()) > 1)
        stems = [PurePosixPath(entry).stem for entry in self.image_paths]
        unknown = [stem for stem in stems if stem not in scenes]
        if unknown:
            logger.warning(
                "%s: %s has no scene for %d images, such as %s: they are %r",
                *(self.name, path, len(unknown), unknown[0], UNKNOWN_SCENE),
            )
        return [scenes.get(stem, UNKNOWN_SCENE) for stem in stems]

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {key: values[i] for key, values in self.labels.items()}
        paths = item["file_path_"], item["segmentation_path_"]
        image, segmentation = self._read_labelled(*paths, n_labels=self.n_labels, hints=(SOURCE, SOURCE))
        return item | {"image": image, "segmentation": segmentation}


class ADE20kTrain(ADE20kBase):
    """Training images, by data/ade20k_train.txt if it exists."""

    list_file = "data/ade20k_train.txt"
    folder = "training"

    def __init__(
        self,
        config: Mapping | None = None,
        size: int | None = None,
        random_crop: bool = True,
        interpolation: str = "bicubic",
        crop_size: int | None = None,
    ) -> None:
        super().__init__(config, size, random_crop, interpolation, crop_size)

    def get_split(self) -> str:
        return "train"


class ADE20kValidation(ADE20kBase):
    """Validation images, by data/ade20k_test.txt if it exists."""

    list_file = "data/ade20k_test.txt"
    folder = "validation"

    def get_split(self) -> str:
        return "validation"
