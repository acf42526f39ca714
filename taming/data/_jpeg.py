"""Faster decoding of JPEG files, used only where it gives the pixels that Pillow gives."""

import io
import re
from functools import cache
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

SHRINKS = (8, 4, 2)
"""What a decoder can divide both sides by, from the coefficients of each block, before it makes pixels."""

NO_PIXELS = re.compile(rb"\xff[^\x00\xd0-\xd7\xc4\xda\xff]", re.DOTALL)
"""A marker that does not belong between the pixels' data: the end of the image, or of what is left of it."""


def shrink_for(image: Image.Image, side: int | None) -> int:
    """By how much a JPEG can be divided while its shorter side keeps `side` pixels; 1 for no JPEG and no `side`."""
    if image.format != "JPEG" or not side:
        return 1
    return next((shrink for shrink in SHRINKS if min(image.size) // shrink >= side), 1)


def decode(image: Image.Image, shrink: int = 1) -> np.ndarray | None:
    """Pixels, uint8 (H, W, 3), of a JPEG that Pillow has opened but not loaded; None if they are to come from Pillow.

    That is so for other modes than RGB, for files whose data is not whole (Pillow tells what is missing, OpenCV fills
    it in) and wherever the two libraries' decoders differ.
    """
    if image.format != "JPEG" or image.mode != "RGB" or not _same_decoder():
        return None
    file: BinaryIO = image.fp
    begin = file.tell()  # behind the header, in which a thumbnail may have an end of its own
    file.seek(0)
    data = file.read()
    file.seek(begin)
    end = NO_PIXELS.search(data, begin)
    whole = end is not None and end.group() == b"\xff\xd9" and end.end() == len(data)
    return _decode(data, shrink) if whole else None


def _decode(data: bytes, shrink: int) -> np.ndarray | None:
    reduced = 0 if shrink == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{shrink}") - cv2.IMREAD_COLOR
    try:
        flags = reduced | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


@cache
def _same_decoder() -> bool:
    """Whether OpenCV gives Pillow's pixels, at every subsampling and shrinking: each brings a libjpeg of its own."""
    if not hasattr(cv2, "IMREAD_COLOR_RGB"):
        return False
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (43, 61, 3), dtype=np.uint8))
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            file = io.BytesIO()
            noise.save(file, "JPEG", subsampling=subsampling, progressive=progressive)
            if not all(_agree(file, shrink) for shrink in (1, *SHRINKS)):
                return False
    return True


def _agree(file: io.BytesIO, shrink: int) -> bool:
    with Image.open(file) as image:
        image.draft("RGB", tuple(side // shrink for side in image.size))
        expected = np.asarray(image)
    decoded = _decode(file.getvalue(), shrink)
    return decoded is not None and decoded.shape == expected.shape and bool((decoded == expected).all())
