"""Images as the models see them, in [-1, 1], and as people do: bytes, grids, PNG files."""

import logging
import os
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from taming.files import atomic_path

logger = logging.getLogger(__name__)

WHITE = 255


def to_uint8(x: Tensor) -> np.ndarray:
    """Images (..., c, h, w) in [-1, 1] -> uint8 (..., h, w, c): (x + 1) * 127.5, clipped to 0..255, truncated."""
    scaled = (x.detach().float() + 1) * 127.5
    return scaled.clamp(0, 255).to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


def from_uint8(array: np.ndarray) -> Tensor:
    """uint8 images (..., h, w, c) -> float32 (..., c, h, w) in [-1, 1]: v / 127.5 - 1."""
    x = torch.from_numpy(array.astype(np.float32)) / 127.5 - 1
    return x.movedim(-1, -3).contiguous()


def displayable(images: Tensor) -> Tensor:
    """Images (n, c, h, w) with 1 or 3 channels: others are cut to their first three (or one), with a notice."""
    channels = images.shape[1]
    if channels in (1, 3):
        return images
    shown = 3 if channels > 3 else 1
    logger.info("showing the first %d of %d channels", shown, channels)
    return images[:, :shown]


def image_grid(images: Tensor, *, nrow: int = 4, padding: int = 2) -> np.ndarray:
    """Images (n, c, h, w) in [-1, 1] -> uint8 (H, W, 3): `nrow` per row, laid out by torchvision, mid-grey lines."""
    return to_uint8(make_grid(displayable(images.detach().float()), nrow=nrow, padding=padding))


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write uint8 (h, w, 3) or (h, w) as PNG; the file appears when it is complete.

    Compression level 1 is three times as fast as the default, and as lossless.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", compress_level=1)


def labelled_grid(
    rows: Mapping[str, Tensor], *, columns: Sequence[str] = (), min_tile: int = 128, padding: int = 4
) -> np.ndarray:
    """Rows of images with a label at the left of each and titles above the columns, black on white, uint8 (H, W, 3).

    `rows` maps labels to images (n, 3, h, w) in [-1, 1]; all have the same size, n may differ. Images whose shorter
    side is below `min_tile` pixels are enlarged by a whole factor, without smoothing. Raises ValueError for images of
    different sizes, or more titles than columns.
    """
    tiles = {label: enlarged(to_uint8(images), min_tile) for label, images in rows.items()}
    sizes = {row.shape[1:] for row in tiles.values()}
    if len(sizes) != 1:
        raise ValueError(f"a labelled grid needs images of one size, not {sorted(sizes)}")
    height, width, _ = sizes.pop()
    n_columns = max(len(row) for row in tiles.values())
    if len(columns) > n_columns:
        raise ValueError(f"a labelled grid with {len(columns)} column titles has only {n_columns} columns")

    font = ImageFont.load_default(size=max(14, min(height, width) // 10))
    label_width = _text_size(tiles, font)[0] + 2 * padding
    title_width, title_height = _text_size(columns, font)
    step_x = max(width, title_width) + padding
    step_y = max(height, _text_size(tiles, font)[1]) + padding
    top = title_height + 2 * padding if columns else padding
    canvas = Image.new("RGB", (label_width + n_columns * step_x, top + len(tiles) * step_y), (WHITE,) * 3)
    draw = ImageDraw.Draw(canvas)
    for i, title in enumerate(columns):
        draw.text((label_width + i * step_x + width // 2, top // 2), title, fill="black", font=font, anchor="mm")
    for i, (label, row) in enumerate(tiles.items()):
        y = top + i * step_y
        draw.text((padding, y + height // 2), label, fill="black", font=font, anchor="lm")
        for j, tile in enumerate(row):
            canvas.paste(Image.fromarray(tile), (label_width + j * step_x, y))
    return np.asarray(canvas)


def text_picture(text: str, side: int = 256) -> np.ndarray:
    """Black text on white, wrapped, uint8 (side, side, 3); of a text that has no room the beginning."""
    margin = side // 16
    font = ImageFont.load_default(size=side // 14)
    line_height = _text_size(["Ag"], font)[1] + 2
    room = side - 2 * margin
    lines = textwrap.wrap(
        text, width=int(room / font.getlength("n")), max_lines=max(1, room // line_height), placeholder=" ..."
    )
    canvas = Image.new("RGB", (side, side), (WHITE,) * 3)
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        draw.text((margin, margin + i * line_height), line, fill="black", font=font)
    return np.asarray(canvas)


def enlarged(images: np.ndarray, at_least: int) -> np.ndarray:
    """Images (..., h, w, 3) whose shorter side is below `at_least` pixels, larger by a whole factor, not smoothed."""
    factor = max(1, -(-at_least // min(images.shape[-3:-1])))
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)  # (..., h, w, 3) -> (..., f*h, f*w, 3)


def _text_size(texts, font) -> tuple[int, int]:
    """Width and height in pixels that hold each of `texts`, which may have several lines."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    boxes = [draw.textbbox((0, 0), text, font=font) for text in texts]
    return max((int(box[2]) + 1 for box in boxes), default=0), max((int(box[3]) + 1 for box in boxes), default=0)
