"""What the demo samples from: an example of the data, or what people give in its place, as a batch of one.

(h, w) image, l conditioning tokens.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from taming.config import instantiate_from_config
from taming.data.conditional_builder.utils import FULL_CROP
from taming.data.scene_layout import SceneLayout
from taming.demo.uploads import cut_to
from taming.images import to_uint8
from taming.models.autoencoder import VQAutoencoder
from taming.models.cond_transformer import Net2NetTransformer
from taming.models.conditioning import LAYOUTS
from taming.modules.misc.captions import CaptionStage
from taming.modules.misc.coord import CoordStage
from taming.modules.util import Labelator
from taming.sampling.dataset_jobs import Split
from taming.sampling.decode import Key
from taming.sampling.encoding import EncodedBatch, encode_batch, has_pictures
from taming.sampling.scene_jobs import builders_of
from taming.sampling.text_jobs import prompt_key
from taming.sampling.window_conditioning import layouts_in_windows
from taming.sampling.windows import default_side
from taming.vocabulary import bytes_text, text_bytes

PLOT_SIDE = 256
"""Layouts are drawn with at least so many pixels, or nobody could read the names in them."""

Batch = Mapping[str, Any]


def split_names(config: DictConfig) -> list[str]:
    """The splits of the data that `config.data` describes, sorted; none without that section."""
    if config.get("data") is None:
        return []
    return sorted(instantiate_from_config(config.data).dataset_configs)


def check_numbered(split: Split) -> None:
    """Raises ValueError for a data set without numbered examples, and for an empty one."""
    if not hasattr(split.dataset, "__len__"):
        raise ValueError(f"split {split.name}: a stream has no numbered examples; give other data, or upload an image")
    if len(split.dataset) == 0:
        raise ValueError(f"split {split.name}: the data set is empty")


def is_class_conditional(model: Net2NetTransformer) -> bool:
    return isinstance(model.cond_stage_model, Labelator)


def is_layout_conditional(model: Net2NetTransformer) -> bool:
    return model.cond_stage_key in LAYOUTS


def is_caption_conditional(model: Net2NetTransformer) -> bool:
    return isinstance(model.cond_stage_model, CaptionStage)


def takes_map(model: Net2NetTransformer) -> bool:
    """Whether the model is conditioned on another image than the one it makes: labels, depth and the like."""
    return isinstance(model.cond_stage_model, VQAutoencoder) and model.cond_stage_key != model.first_stage_key


@dataclass(frozen=True)
class Given:
    """What people give in the place of an example's: a picture and conditioning, float32 (h, w, k), the number of a
    class, a layout of objects, a caption.
    """

    picture: np.ndarray | None = None
    conditioning: np.ndarray | None = None
    label: int | None = None
    layout: SceneLayout | None = None
    caption: str | None = None


def with_given(model: Net2NetTransformer, batch: Batch | None, split: Split | None, given: Given) -> Batch:
    """The example, if there is one, with what is given in its place.

    Where the model needs nothing else of an example, a grey image stands in. `split` tells what the classes of a layout
    are. Raises ValueError for what is missing, and for a layout that the data set could not hold.
    """
    changed, picture = dict(batch or {}), given.picture
    if given.conditioning is not None:
        size = given.conditioning.shape[:2]
        changed = {model.cond_stage_key: _as_batch(given.conditioning)}
        picture = _grey(model, *size) if picture is None else cut_to(picture, *size)
    elif given.layout is not None:
        changed = _of_layout(model, split, given.layout)
        picture = _grey(model) if picture is None else picture
    elif _needs_example(model, given):
        if batch is None:
            raise ValueError(_missing(model))
        if picture is not None:
            picture = cut_to(picture, *batch[model.first_stage_key].shape[1:3])
    elif batch is None and picture is None:
        picture = _grey(model)
    if picture is not None:
        changed[model.first_stage_key] = _as_batch(picture)
        if isinstance(model.cond_stage_model, CoordStage):
            changed[model.cond_stage_key] = _as_batch(_coordinates(*picture.shape[:2]))
    if is_class_conditional(model) and (given.label is not None or model.cond_stage_key not in changed):
        changed[model.cond_stage_key] = torch.tensor([given.label or 0])
        changed.pop("human_label", None)
    if is_caption_conditional(model) and given.caption:
        changed[model.cond_stage_key] = torch.from_numpy(text_bytes([given.caption]))
    return changed


def _needs_example(model: Net2NetTransformer, given: Given) -> bool:
    """Whether conditioning is read of an example that nothing else can stand for."""
    return takes_map(model) or is_layout_conditional(model) or (is_caption_conditional(model) and not given.caption)


def _missing(model: Net2NetTransformer) -> str:
    """A layout is no remedy: without data nobody knows its classes."""
    key = model.cond_stage_key
    remedy = "upload one in the sidebar, or " if takes_map(model) else ""
    remedy = "write one in the sidebar, or " if is_caption_conditional(model) else remedy
    needed = f"there is no example with {key}, which this model needs"
    return f"{needed}: {remedy}give data with --ignore_base_data and data=..."


def _of_layout(model: Net2NetTransformer, split: Split | None, layout: SceneLayout) -> dict[str, Any]:
    """A batch without an image: the layout's tokens, int64 (1, l), and its objects as the data set annotates them."""
    key = model.cond_stage_key
    if split is None:
        raise ValueError(
            f"{layout.source}: only a data set says what the classes of a layout are, and there is none; give data "
            "with --ignore_base_data and data=..."
        )
    builder = builders_of(split, key)
    annotations = layout.annotations(split.dataset, key)
    return {key: builder.build(annotations, FULL_CROP, rng=random.Random(0))[None], "annotations": [annotations]}


def _as_batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image)[None]  # (h, w, k) -> (1, h, w, k)


def _grey(model: Net2NetTransformer, *size: int) -> np.ndarray:
    """An image of height and width `size`, by default the model's."""
    encoder = model.first_stage_model.encoder
    return np.zeros((*(size or (encoder.resolution,) * 2), encoder.in_channels), dtype=np.float32)


def _coordinates(height: int, width: int) -> np.ndarray:
    """The raster index of each pixel by their number, float32 (h, w, 1): the whole image is looked at."""
    return (np.arange(height * width, dtype=np.float32) / (height * width)).reshape(height, width, 1)


@dataclass(frozen=True)
class Prepared:
    """An example that is ready to be shown and sampled.

    key names the random numbers of its sample, as in the commands. image, reconstruction and picture (of the
    conditioning, None if there is none) are uint8 (h, w, 3); condition_text says what the model is given, None if
    nothing. conditioning gives, for a seed, the arguments of `sample_windowed` that say so.
    """

    encoded: EncodedBatch
    key: Key
    image: np.ndarray
    reconstruction: np.ndarray
    picture: np.ndarray | None
    condition_text: str | None
    conditioning: Callable[[int], Mapping[str, Any]]


def prepare(
    model: Net2NetTransformer,
    batch: Batch,
    *,
    split: Split | None,
    index: int,
    scale_factor: float,
    given: Given = Given(),
) -> Prepared:
    """Encode a batch of one at another scale. Raises ValueError if it lacks what the model reads or does not fit it."""
    shows_maps = has_pictures(model) and not is_layout_conditional(model) and not model.be_unconditional
    encoded = encode_batch(model, batch, scale_factor=scale_factor, pictures=shows_maps)
    picture = to_uint8(encoded.pictures[0]) if shows_maps else None
    if is_layout_conditional(model):
        picture = layout_picture(split, model.cond_stage_key, encoded.condition[0], encoded.images.shape[2:])
    return Prepared(
        encoded,
        _key(model, encoded, index, given),
        image=rgb(encoded.images),
        reconstruction=rgb(model.decode_to_img(encoded.tokens, encoded.zshape)),
        picture=picture,
        condition_text=_condition_text(model, batch, scale_factor),
        conditioning=_conditioning(model, split, batch, encoded, index, given),
    )


def _key(model: Net2NetTransformer, encoded: EncodedBatch, index: int, given: Given) -> Key:
    """That of the command which makes such samples: of layouts, classes, prompts, or of a data set."""
    if given.layout is not None:
        return given.layout.key, 0
    if given.caption:
        return prompt_key(given.caption), index
    return (int(encoded.condition[0, 0]) if is_class_conditional(model) else None), index


def rgb(images: Tensor) -> np.ndarray:
    """The first of images (1, c, h, w) in [-1, 1] as uint8 (h, w, 3), grey if it has not three channels."""
    shown = images[:1] if images.shape[1] == 3 else images[:1, :1].expand(-1, 3, -1, -1)
    return to_uint8(shown[0])


def _condition_text(model: Net2NetTransformer, batch: Batch, scale_factor: float) -> str | None:
    if model.be_unconditional:
        return None
    key = model.cond_stage_key
    if is_class_conditional(model):
        names = batch.get("human_label")
        return f"{key}: {int(batch[key][0])}" + (f" ({names[0]})" if names else "")
    if is_caption_conditional(model):
        return f"{key}: {bytes_text(batch[key][0].numpy())}"
    shape = tuple(model.get_input(key, batch).shape)
    if len(shape) == 4:
        shape = (*shape[:2], *(int(side * scale_factor) for side in shape[2:]))
    return f"{key}: {shape}"


def layout_picture(split: Split | None, key: str, tokens: Tensor, size: tuple[int, int]) -> np.ndarray | None:
    """A layout (l,) drawn by the data set that it is from, uint8 (h, w, 3); None if that cannot draw it.

    `size` is height and width of the image.
    """
    builder = _builder(split, key)
    if builder is None:
        return None
    factor = max(1, -(-PLOT_SIDE // min(size)))
    height, width = (side * factor for side in size)
    label_of = split.dataset.get_textual_label_for_category_no
    return to_uint8(builder.plot(tokens.cpu(), label_of, (width, height)))


def _builder(split: Split | None, key: str):
    return getattr(split and split.dataset, "conditional_builders", {}).get(key)


def _conditioning(
    model: Net2NetTransformer, split: Split | None, batch: Batch, encoded: EncodedBatch, index: int, given: Given
) -> Callable[[int], Mapping[str, Any]]:
    """Tokens for all windows or, of a layout whose grid has several, for each; of a given one as make_scene_samples.py
    would have it.
    """
    builder, shape = _builder(split, model.cond_stage_key), tuple(encoded.tokens.shape[1:])
    if builder is None or "annotations" not in batch:
        return lambda seed: {"c": encoded.condition}
    window = default_side(model.transformer.block_size, lambda side: builder.embedding_dim)
    if min(shape) < window or (shape == (window, window) and given.layout is None):
        return lambda seed: {"c": encoded.condition}
    return lambda seed: layouts_in_windows(
        builder,
        batch["annotations"][0],
        shape,
        window,
        [str(index) if given.layout is None else f"{seed}/{given.layout.key}/0"],
    )
