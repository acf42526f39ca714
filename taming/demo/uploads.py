"""Files that people upload: looked at before they are decoded, with errors that fit into one line of a page.

(h, w) image, k channels.
"""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from taming.data._io import read_rgb, to_float
from taming.data.given_maps import read_depth_map, read_label_map
from taming.data.scene_layout import SceneLayout

SOURCE = "upload"
"""Who reads, in errors about files."""
MAX_BYTES = 20 * 2**20
"""The server's own limit is `maxUploadSize` in scripts/.streamlit/config.toml."""
MAX_LAYOUT_BYTES = 2**20
MAX_PIXELS = 50 * 10**6
MAX_RATIO = 4
"""Of the longer to the shorter side."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = ("bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp")
SEVERAL_VIEWS = "MPO"
"""What cameras write: a JPEG with more views of the same picture behind it, which is not animated."""


class NamedBytes(BytesIO):
    """A file in memory that is called by its name in errors."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


def check_upload(name: str, content: bytes) -> None:
    """Raises ValueError for what is too large, no image, damaged at its beginning, animated, or a strip."""
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"{name}: {len(content) >> 20} MB are too many, at most {MAX_BYTES >> 20} will do; scale it down"
        )
    try:
        with Image.open(NamedBytes(name, content), formats=FORMATS) as image:
            width, height = image.size
            n_frames = 1 if image.format == SEVERAL_VIEWS else getattr(image, "n_frames", 1)
    except UnidentifiedImageError:
        raise ValueError(f"{name}: this is no image, or a damaged one; upload {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: this image has too many pixels; scale it down") from None
    except (OSError, EOFError, ValueError, SyntaxError) as error:  # decoders report damaged files in all these ways
        raise ValueError(f"{name}: this image is damaged: {' '.join(str(error).split())}") from error
    if n_frames > 1:
        raise ValueError(
            f"{name}: this image has {n_frames} frames or pages; upload one of them as an image of its own"
        )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name}: {width} x {height} pixels are too many, at most {MAX_PIXELS:,} in all; scale it down"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(
            f"{name}: {width} x {height} pixels are a strip; crop it to {MAX_RATIO} times the shorter side"
        )


def read_layout(name: str, content: bytes) -> SceneLayout:
    """An uploaded layout of objects. Raises ValueError for what is none."""
    if len(content) > MAX_LAYOUT_BYTES:
        raise ValueError(f"{name}: {len(content)} bytes are too many for a layout, at most {MAX_LAYOUT_BYTES} will do")
    return SceneLayout.load(NamedBytes(name, content), name)


def read_picture(name: str, content: bytes, side: int) -> np.ndarray:
    """An uploaded image as float32 (h, w, 3) in [-1, 1], turned upright, its shorter side scaled to `side` pixels.

    Raises ValueError or OSError for files that cannot be used.
    """
    check_upload(name, content)
    pixels = read_rgb(NamedBytes(name, content), SOURCE, exif=True, name=name)
    return to_float(_with_shorter_side(pixels, side))


def read_map(name: str, content: bytes, side: int, *, key: str, n_channels: int) -> np.ndarray:
    """Uploaded conditioning as float32 (h, w, k), its shorter side scaled to `side` pixels.

    `key` says what it is: `segmentation`, a map of class numbers, one-hot in n_channels; `depth`, floats coded as RGBA
    or grey values that are brighter where it is nearer, in [-1, 1], if one channel is wanted; else an image. Raises
    ValueError or OSError.
    """
    is_depth = key == "depth" and n_channels == 1
    if not (is_depth or key == "segmentation"):
        return read_picture(name, content, side)
    check_upload(name, content)
    file = NamedBytes(name, content)
    if is_depth:
        return _with_shorter_side(read_depth_map(file, SOURCE), side)[:, :, None]
    return read_label_map(
        file, n_channels, SOURCE, resized=lambda labels: _with_shorter_side(labels, side, nearest=True)
    )


def cut_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image (h, w, ...) that is scaled to cover height x width."""
    scale = max(height / image.shape[0], width / image.shape[1])
    covering = [max(round(side * scale), least) for side, least in zip(image.shape, (height, width), strict=False)]
    image = _scaled(image, *covering)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _with_shorter_side(image: np.ndarray, side: int, *, nearest: bool = False) -> np.ndarray:
    scale = side / min(image.shape[:2])
    return _scaled(image, *(round(length * scale) for length in image.shape[:2]), nearest=nearest)


def _scaled(image: np.ndarray, height: int, width: int, *, nearest: bool = False) -> np.ndarray:
    """An image (h, w, ...) of another size; photographs are mostly scaled down by far, so pixels are averaged then."""
    if image.shape[:2] == (height, width):
        return image
    smooth = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST if nearest else smooth)
