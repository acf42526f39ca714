"""Your own images, by a list file or a folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from taming.data._io import read_list
from taming.data.base import ImagePaths, dotted_name
from taming.data.folder_scan import list_images


class CustomBase(Dataset):
    """Dataset that hands on length and items of its attribute `data`, which subclasses set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.data: Dataset | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.data[i]


class CustomTrain(CustomBase):
    """Centre crops (size, size, 3) of the images in a list file or below a folder, turned upright; see `ImagePaths`.

    For `on_error`, `draft` and `cache_dir` see `ImagePaths`, for `scan_cache`, of a folder, see `list_images`.
    Raises FileNotFoundError for a missing list or folder, ValueError for one without images.
    """

    def __init__(
        self,
        size: int | None,
        training_images_list_file: str | os.PathLike,
        *,
        on_error: str = "raise",
        draft: bool = False,
        cache_dir: str | os.PathLike | None = None,
        scan_cache: str | os.PathLike | None = None,
    ) -> None:
        super().__init__()
        options = {"on_error": on_error, "draft": draft, "cache_dir": cache_dir}
        name = dotted_name(type(self))
        self.data = _custom_images(size, training_images_list_file, name, scan_cache, **options)


class CustomTest(CustomBase):
    """As `CustomTrain`, for the images to validate on."""

    def __init__(
        self,
        size: int | None,
        test_images_list_file: str | os.PathLike,
        *,
        on_error: str = "raise",
        draft: bool = False,
        cache_dir: str | os.PathLike | None = None,
        scan_cache: str | os.PathLike | None = None,
    ) -> None:
        super().__init__()
        options = {"on_error": on_error, "draft": draft, "cache_dir": cache_dir}
        name = dotted_name(type(self))
        self.data = _custom_images(size, test_images_list_file, name, scan_cache, **options)


def _custom_images(
    size: int | None, source: str | os.PathLike, name: str, scan_cache: str | os.PathLike | None, **options: Any
) -> ImagePaths:
    if os.path.isdir(source):
        paths: Sequence[str] = [os.path.join(source, entry) for entry in list_images(source, name, scan_cache)]
        return ImagePaths(paths, size=size, name=name, exif=True, **options)
    folder = Path(source).parent
    missing = "give a text file with one image path per line, or a folder of images"
    paths = [_locate(entry, folder) for entry in read_list(source, name, missing)]
    return ImagePaths(paths, size=size, name=name, exif=True, hint=f"it is listed in {source}", **options)


def _locate(entry: str, list_folder: Path) -> str:
    """A relative entry may count from the current folder or, failing that, from the list's own folder."""
    beside_list = list_folder / entry
    return str(beside_list) if not os.path.exists(entry) and beside_list.exists() else entry
