"""Images with captions, for a second stage that draws what a text says.

Items have the caption as UTF-8 bytes, too, under the key `caption_bytes`: uint8 (256,), filled up with 0, which
`taming.modules.misc.captions.CaptionStage` turns into tokens. So data know nothing of a vocabulary.
"""

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taming.data.base import ImagePaths, dotted_name
from taming.data.coco import CAPTIONS_AT, IMAGES_AT
from taming.data.coco_json import read_json, records
from taming.data.scenes import ScenesTrain, ScenesValidation
from taming.vocabulary import text_bytes

MAX_BYTES = 256
"""What is kept of a caption; COCO's longest are about as long."""


def with_bytes(item: dict[str, Any]) -> dict[str, Any]:
    """An item whose `caption` is a str, and `caption_bytes` as well."""
    return item | {"caption_bytes": text_bytes([item["caption"]], MAX_BYTES)[0]}


class _CaptionedScenes:
    """What both splits add to the scenes that they are mixed into."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        if "caption" not in item:
            raise ValueError(f"{self.name}: keys={self.keys} must have caption")
        return with_bytes(item)

    def captions(self) -> Iterator[str]:
        """All captions; nothing is rendered."""
        return (self.scene(index)[0].caption for index in range(len(self)))


class CaptionedScenesTrain(_CaptionedScenes, ScenesTrain):
    """As `taming.data.scenes.ScenesTrain`, with `caption_bytes`."""


class CaptionedScenesValidation(_CaptionedScenes, ScenesValidation):
    """As `taming.data.scenes.ScenesValidation`, with `caption_bytes`."""


class CocoCaptions(ImagePaths):
    """The images in the folder `images` that have captions in the file `annotations`, which is like COCO's.

    Items: `image` float32 (size, size, 3) in [-1, 1], cut at the centre or, with `random_crop`, anywhere; `caption`,
    the first of the image's or, with `random_caption`, any; `caption_bytes`; `file_path_`. Unlike
    `taming.data.coco.CocoBase` it needs no segmentations. Raises FileNotFoundError for a missing file, ValueError for
    one that is no caption file or without captions.
    """

    def __init__(
        self,
        images: str | os.PathLike,
        annotations: str | os.PathLike,
        size: int,
        *,
        random_crop: bool = False,
        random_caption: bool = False,
        **options: Any,
    ) -> None:
        self.name = dotted_name(type(self))
        self.random_caption = random_caption
        found = self._read(Path(images), annotations)
        hint = IMAGES_AT.format(part=Path(images).name)
        labels = {"caption": list(found.values())}
        super().__init__(list(found), size=size, random_crop=random_crop, labels=labels, hint=hint, **options)

    def _read(self, images: Path, annotations: str | os.PathLike) -> dict[str, list[str]]:
        """Captions by the path of their image, in the order of the images."""
        content = read_json(annotations, self.name, CAPTIONS_AT)
        captions: dict[int, list[str]] = defaultdict(list)
        try:
            for record in records(content, "annotations", ("image_id", "caption")):
                captions[record["image_id"]].append(record["caption"].strip())
            files = {record["id"]: record["file_name"] for record in records(content, "images", ("id", "file_name"))}
        except ValueError as error:
            raise ValueError(f"{self.name}: {annotations}: {error}") from None
        found = {str(images / name): captions[id_] for id_, name in files.items() if id_ in captions}
        if not found:
            raise ValueError(f"{self.name}: {annotations}: none of its {len(files)} images has a caption")
        return found

    def _item(self, i: int) -> dict[str, Any]:
        item = super()._item(i)
        captions = item["caption"]
        return with_bytes(item | {"caption": random.choice(captions) if self.random_caption else captions[0]})

    def captions(self) -> Iterator[str]:
        """All captions of all images."""
        return (caption for captions in self.labels["caption"] for caption in captions)


class CocoCaptionsTrain(CocoCaptions):
    """COCO 2017's training images below `root`, cropped at random, with any of their captions."""

    def __init__(self, size: int = 256, root: str | os.PathLike = "data/coco", **options: Any) -> None:
        annotations = Path(root, "annotations", "captions_train2017.json")
        varied = {"random_crop": True, "random_caption": True}
        super().__init__(Path(root, "train2017"), annotations, size, **(varied | options))


class CocoCaptionsValidation(CocoCaptions):
    """COCO 2017's validation images below `root`, the squares in their middle, with their first captions."""

    def __init__(self, size: int = 256, root: str | os.PathLike = "data/coco", **options: Any) -> None:
        annotations = Path(root, "annotations", "captions_val2017.json")
        super().__init__(Path(root, "val2017"), annotations, size, **options)
