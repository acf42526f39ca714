"""COCO with COCO-Stuff segmentations: examples with label maps, and the full sets with captions."""

import os
import random
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np

from taming.data._io import read_rgb, to_float
from taming.data.coco_json import read_json, records
from taming.data.segmentation import PairedDataset, segmentation_name
from taming.data.sflckr import SegmentationBase

N_LABELS = 183
"""Ids of COCO-Stuff are 1 to 182; 0 is unlabelled. Files hold them less one, and 255."""

PARTS = {"captions_train2017.json": "train2017", "captions_val2017.json": "val2017"}
"""What the images and segmentations that belong to a caption file are called."""

IMAGES_AT = "get it from http://images.cocodataset.org/zips/{part}.zip"
CAPTIONS_AT = "get it from http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
STUFF_AT = "get it from http://images.cocodataset.org/annotations/stuff_annotations_trainval2017.zip"
STUFF_AND_THINGS_AT = (
    "get it from http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip"
)


class Examples(SegmentationBase):
    """A few COCO images; labels are COCO-Stuff ids, 0 for unlabelled."""

    def __init__(self, size: int | None = 256, random_crop: bool = False, interpolation: str = "bicubic") -> None:
        super().__init__(
            data_csv="data/coco_examples.txt",
            data_root="data/coco_images",
            segmentation_root="data/coco_segmentations",
            size=size,
            random_crop=random_crop,
            interpolation=interpolation,
            n_labels=N_LABELS,
            shift_segmentation=True,
        )


class CocoBase(PairedDataset):
    """The images of a caption file, each with a segmentation and one of its captions.

    The shorter side is scaled to `size` (bilinear) and a square of `crop_size` (default: `size`) cut out, anywhere for
    training and at the centre for validation; `force_no_crop` scales both sides to `size` instead. Segmentations are
    the coloured maps of stuff or, with `use_stuffthing`, the label maps of things and stuff. `given_files` keeps the
    images whose segmentation has one of these names.

    Items: `image` float32 (h, w, 3) in [-1, 1]; `caption`, a list of one str; `segmentation`, with
    `onehot_segmentation` int64 (h, w, 183) by COCO-Stuff id, else the file as an image; `img_path`, `seg_path`,
    `filename_`. Raises NotImplementedError for one-hot maps of stuff only, ValueError for another caption file.
    """

    def __init__(
        self,
        size: int | None = None,
        dataroot: str | os.PathLike = "",
        datajson: str | os.PathLike = "",
        onehot_segmentation: bool = False,
        use_stuffthing: bool = False,
        crop_size: int | None = None,
        force_no_crop: bool = False,
        given_files: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        if onehot_segmentation and not use_stuffthing:
            raise NotImplementedError(
                f"{self.name}: onehot_segmentation=True needs label maps of things and stuff; set use_stuffthing=True"
            )
        self.split = self.get_split()
        self.onehot = onehot_segmentation
        self.stuffthing = use_stuffthing
        self.part = self._part(datajson)
        self.segmentation_prefix = self._segmentation_prefix()
        self._read_captions(dataroot, datajson, given_files)
        self._set_geometry(
            size,
            None if force_no_crop else crop_size or size,
            random_crop=self.split == "train",
            interpolation="bilinear",
            # Between two class numbers there is no class.
            segmentation_interpolation="nearest" if onehot_segmentation else "bilinear",
            keep_aspect=not force_no_crop,
        )
        self.rescaler = self.image_rescaler

    def get_split(self) -> str:
        """`train` or `validation`."""
        raise NotImplementedError(f"{type(self).__name__} must say its split")

    def _part(self, datajson: str | os.PathLike) -> str:
        name = os.path.basename(datajson)
        if name not in PARTS:
            raise ValueError(f"{self.name}: datajson is {str(datajson)!r}; expected a file called {' or '.join(PARTS)}")
        return PARTS[name]

    def _segmentation_prefix(self) -> str:
        if self.stuffthing:
            return f"data/cocostuffthings/{self.part}"
        return f"data/coco/annotations/stuff_{self.part}_pixelmaps"

    def _read_captions(
        self, dataroot: str | os.PathLike, datajson: str | os.PathLike, given_files: Collection[str] | None
    ) -> None:
        kept = None if given_files is None else set(given_files)
        self.json_data = read_json(datajson, self.name, CAPTIONS_AT)
        self.img_id_to_captions: dict[int, list[str]] = defaultdict(list)
        self.img_id_to_filepath: dict[int, str] = {}
        self.img_id_to_segmentation_filepath: dict[int, str] = {}
        try:
            for record in records(self.json_data, "images", ("id", "file_name")):
                segmentation = segmentation_name(record["file_name"])
                if kept is None or os.path.basename(segmentation) in kept:
                    self.img_id_to_filepath[record["id"]] = os.path.join(dataroot, record["file_name"])
                    self.img_id_to_segmentation_filepath[record["id"]] = os.path.join(
                        self.segmentation_prefix, segmentation
                    )
            for record in records(self.json_data, "annotations", ("image_id", "caption")):
                self.img_id_to_captions[record["image_id"]].append(record["caption"])
        except ValueError as error:
            raise ValueError(f"{self.name}: {datajson}: {error}") from None
        self.labels = {"image_ids": list(self.img_id_to_filepath)}

    def __len__(self) -> int:
        return len(self.labels["image_ids"])

    def __getitem__(self, i: int) -> dict[str, Any]:
        image_id = self.labels["image_ids"][i]
        image_path = self.img_id_to_filepath[image_id]
        segmentation_path = self.img_id_to_segmentation_filepath[image_id]
        image, segmentation = self._read_pair(image_path, segmentation_path)
        # The caption is drawn after the crop.
        captions = self.img_id_to_captions.get(image_id)
        return {
            "image": image,
            "caption": [random.choice(captions) if captions else ""],
            "segmentation": segmentation,
            "img_path": image_path,
            "seg_path": segmentation_path,
            "filename_": os.path.basename(image_path),
        }

    def _read_pair(self, image_path: str, segmentation_path: str) -> tuple[np.ndarray, np.ndarray]:
        hints = IMAGES_AT.format(part=self.part), STUFF_AND_THINGS_AT if self.stuffthing else STUFF_AT
        if self.onehot:
            return self._read_labelled(
                *(image_path, segmentation_path), n_labels=N_LABELS, shift_labels=True, dtype=np.int64, hints=hints
            )
        image, colours = self._preprocess(
            read_rgb(image_path, self.name, hint=hints[0]),
            read_rgb(segmentation_path, self.name, hint=hints[1]),
            image_path=image_path,
            segmentation_path=segmentation_path,
        )
        return to_float(image), to_float(colours)


class CocoImagesAndCaptionsTrain(CocoBase):
    """COCO 2017's training images, below data/coco."""

    def __init__(
        self,
        size: int | None,
        onehot_segmentation: bool = False,
        use_stuffthing: bool = False,
        crop_size: int | None = None,
        force_no_crop: bool = False,
    ) -> None:
        super().__init__(
            size=size,
            dataroot="data/coco/train2017",
            datajson="data/coco/annotations/captions_train2017.json",
            onehot_segmentation=onehot_segmentation,
            use_stuffthing=use_stuffthing,
            crop_size=crop_size,
            force_no_crop=force_no_crop,
        )

    def get_split(self) -> str:
        return "train"


class CocoImagesAndCaptionsValidation(CocoBase):
    """COCO 2017's validation images, below data/coco."""

    def __init__(
        self,
        size: int | None,
        onehot_segmentation: bool = False,
        use_stuffthing: bool = False,
        crop_size: int | None = None,
        force_no_crop: bool = False,
        given_files: Collection[str] | None = None,
    ) -> None:
        super().__init__(
            size=size,
            dataroot="data/coco/val2017",
            datajson="data/coco/annotations/captions_val2017.json",
            onehot_segmentation=onehot_segmentation,
            use_stuffthing=use_stuffthing,
            crop_size=crop_size,
            force_no_crop=force_no_crop,
            given_files=given_files,
        )

    def get_split(self) -> str:
        return "validation"
