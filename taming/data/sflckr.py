"""Images with label maps by a list file, and the examples of the landscapes from Flickr (S-FLCKR)."""

import os
from typing import Any

from taming.data._io import read_list
from taming.data.segmentation import PairedDataset, segmentation_name


class SegmentationBase(PairedDataset):
    """The images that a list file names, each with a map of the same name, but `.png`, in another folder.

    With a positive `size` the shorter side is scaled to it (images by `interpolation`, maps by the nearest pixel) and a
    square of that size cut out, at the centre or, with `random_crop`, anywhere. `shift_segmentation` moves labels up by
    one first, 255 (unlabelled) to 0.

    Items: `relative_file_path_` (the list's entry), `file_path_`, `segmentation_path_`, `image` float32 (h, w, 3) in
    [-1, 1], `segmentation` float64 one-hot (h, w, n_labels). Reading an item raises FileNotFoundError, OSError, or
    ValueError for a label beyond n_labels or a map of another size than its image.
    """

    def __init__(
        self,
        data_csv: str | os.PathLike,
        data_root: str | os.PathLike,
        segmentation_root: str | os.PathLike,
        size: int | None = None,
        random_crop: bool = False,
        interpolation: str = "bicubic",
        n_labels: int = 182,
        shift_segmentation: bool = False,
    ) -> None:
        super().__init__()
        self.n_labels = n_labels
        self.shift_segmentation = shift_segmentation
        self.data_csv = data_csv
        self.data_root = data_root
        self.segmentation_root = segmentation_root
        self.image_paths = read_list(data_csv, self.name)
        self.labels = {
            "relative_file_path_": self.image_paths,
            "file_path_": [os.path.join(data_root, entry) for entry in self.image_paths],
            "segmentation_path_": [
                os.path.join(segmentation_root, segmentation_name(entry)) for entry in self.image_paths
            ],
        }
        self._set_geometry(size, size, random_crop=random_crop, interpolation=interpolation)

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {key: values[i] for key, values in self.labels.items()}
        hint = f"listed in {self.data_csv}"
        image, segmentation = self._read_labelled(
            item["file_path_"],
            item["segmentation_path_"],
            n_labels=self.n_labels,
            shift_labels=self.shift_segmentation,
            hints=(f"it is {hint}", f"it belongs to {item['file_path_']}, {hint}"),
        )
        return item | {"image": image, "segmentation": segmentation}


class Examples(SegmentationBase):
    """A few S-FLCKR landscapes in their full size; labels 0 to 181 are COCO-Stuff ids - 1, as DeepLab v2 sees them."""

    def __init__(self, size: int | None = None, random_crop: bool = False, interpolation: str = "bicubic") -> None:
        super().__init__(
            data_csv="data/sflckr_examples.txt",
            data_root="data/sflckr_images",
            segmentation_root="data/sflckr_segmentations",
            size=size,
            random_crop=random_crop,
            interpolation=interpolation,
            n_labels=182,
        )
