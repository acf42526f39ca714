"""Images next to their own low resolution, or to their own edges."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from taming.data._augment import albumentations, pipeline
from taming.data.base import dotted_name
from taming.data.imagenet_transforms import canny_edges, imscale, require_skimage
from taming.data.sizes import check_room


class ImageNetScale(Dataset):
    """Images next to their own low resolution: the base's items, and with an `up_factor` also `lr`.

    The full-size image is first made smaller by `hr_factor`, and enlarged where its shorter side is below `crop_size`
    (default: `size`). `lr` is that image, smaller by `up_factor` and enlarged again by `keep_mode`; see `imscale`. Then
    both are scaled to `size`, if given, and cropped to `crop_size` together. All are float32 in [-1, 1].
    """

    def __init__(
        self,
        size: int | None = None,
        crop_size: int | None = None,
        random_crop: bool = False,
        up_factor: int | None = None,
        hr_factor: int | None = None,
        keep_mode: str = "bicubic",
    ) -> None:
        self.name = dotted_name(type(self))
        self.size = size
        self.crop_size = size if crop_size is None else crop_size
        self.random_crop = random_crop
        self.up_factor = up_factor
        self.hr_factor = hr_factor
        self.keep_mode = keep_mode
        self.rescaler = self.cropper = None
        if self.size or self.crop_size:
            self.rescaler = albumentations.SmallestMaxSize(max_size=self.size or self.crop_size)
        if self.crop_size:
            crop = albumentations.RandomCrop if random_crop else albumentations.CenterCrop
            self.cropper = crop(height=self.crop_size, width=self.crop_size)
        steps = [step for step in (self.rescaler if self.size else None, self.cropper) if step is not None]
        self.preprocessor = pipeline(steps, random_crop=random_crop, additional_targets={"lr": "image"})
        self.base = self.get_base()

    def get_base(self) -> Dataset:
        """The dataset of full-size images."""
        raise NotImplementedError(f"{type(self).__name__} must name its images")

    def low_resolution(self, image: np.ndarray) -> np.ndarray:
        """What becomes of an image (h, w, 3) in `lr`."""
        return imscale(image, self.up_factor, keepshapes=True, keepmode=self.keep_mode)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self.base[i]
        image = imscale(item["image"], self.hr_factor)
        if self.crop_size and min(image.shape[:2]) < self.crop_size:
            image = self.rescaler(image=image)["image"]
        images = {"image": image}
        if self.up_factor is not None:
            images["lr"] = self.low_resolution(image)
        if self.size and self.crop_size > self.size:
            path = item.get("file_path_", f"number {i}")
            check_room(self.rescaler(image=image)["image"], self.crop_size, path=path, dataset=self.name)
        images = self.preprocessor(**images)
        return item | {key: np.ascontiguousarray(array) for key, array in images.items()}


class ImageNetEdges(ImageNetScale):
    """Images with their edges as `lr`, 0 and 1, or between where they are scaled; see `canny_edges`.

    `up_factor` and `hr_factor` have no effect. Raises ImportError where scikit-image is missing.
    """

    def __init__(self, up_factor: int = 1, **kwargs: Any) -> None:
        require_skimage()
        super().__init__(**{**kwargs, "up_factor": 1, "hr_factor": None})

    def low_resolution(self, image: np.ndarray) -> np.ndarray:
        """The edges of an image (h, w, 3)."""
        return canny_edges(image)
