"""Do samples follow their condition? Measured from pixels, on the simple world of taming.data.scenes.

There a pixel's colour tells what it shows and how far it is, so that the same measure serves real images, their
reconstructions and samples. n images (n, 3, h, w) in [-1, 1]; scores are 1 at best.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from taming.config import config_error, instantiate_from_config
from taming.data.helper_types import Annotation
from taming.data.rendering.simple import COLOURS, GROUNDS
from taming.data.scenes import KEYS, SMALLEST_OBJECT, Scenes
from taming.data.utils import custom_collate
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.decode import Decoder, sample_uniforms
from taming.sampling.samples import check_second_stage, latent_shape

HELD = 0.25
"""A box holds its object if this share of its pixels has the object's colour."""
AROUND_CENTRE = 0.05
"""How far from a centre the object's colour may be, a share of the image's side."""
SEA_SHARE = 0.01
"""A scene with so much sea and ground of sand is a coast."""
DATA = ("taming.data.scenes.ScenesValidation", "taming.data.captions.CaptionedScenesValidation")
"""Whose conditions are measured."""


def label_maps(images: Tensor, colours: Tensor, labels: Tensor) -> Tensor:
    """Label (n, h, w) of the nearest of the colours (k, 3) in [-1, 1], whose labels are (k,), at each pixel."""
    nearest = (images[:, None] - colours[None, :, :, None, None]).square().sum(dim=2).argmin(dim=1)  # (n, k, 3, h, w)
    return labels[nearest]


def mean_iou(found: Tensor, wanted: Tensor, n_labels: int) -> float:
    """Intersection over union of label maps (n, h, w), mean of the labels in each wanted map, then of the maps."""
    scores = []
    for map_, target in zip(found, wanted, strict=True):
        present = target.unique()
        pairs = torch.bincount((target * n_labels + map_).flatten(), minlength=n_labels**2).view(n_labels, n_labels)
        union = pairs.sum(dim=0) + pairs.sum(dim=1) - pairs.diagonal()
        scores.append((pairs.diagonal() / union.clamp(min=1))[present].mean())
    return torch.stack(scores).mean().item()


def depth_correlation(images: Tensor, depth: Tensor) -> float:
    """Rank correlation of a pixel's darkest channel with its distance, mean of the images; inverse depth (n, h, w).

    Haze makes what is far brighter in all channels (He et al. 2009, "Single image haze removal using dark channel
    prior"). The mean of all depth maps, which has the sky above and the ground below, is taken off both, or images
    would do well that have that in common only.
    """
    wanted, found = (_ranks(values.flatten(1)) for values in (depth, -images.amin(dim=1)))  # (n, h * w)
    average = wanted.mean(dim=0)
    return F.cosine_similarity(_centred(wanted - average), _centred(found - average)).mean().item()


def _ranks(values: Tensor) -> Tensor:
    """Ranks float64 in each row (n, k), equal ones averaged."""
    return torch.from_numpy(rankdata(values.numpy(), axis=1))


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=1, keepdim=True)


def boxes_held(found: Tensor, annotations: Sequence[Sequence[Annotation]], label_of: Callable[[str], int]) -> float:
    """The share of boxes of which `HELD` or more shows the object's label, in label maps (n, h, w)."""
    return _share_of_objects(found, annotations, label_of, _box_held)


def centres_held(found: Tensor, annotations: Sequence[Sequence[Annotation]], label_of: Callable[[str], int]) -> float:
    """The share of objects whose label is found where, or next to where, their box has its centre."""
    return _share_of_objects(found, annotations, label_of, _centre_held)


def _share_of_objects(found: Tensor, annotations, label_of, holds: Callable[[Tensor, Annotation], bool]) -> float:
    """How many objects `holds` is true of, given where their label is (h, w)."""
    held = [
        holds(map_ == label_of(annotation.category_id), annotation)
        for map_, objects in zip(found, annotations, strict=True)
        for annotation in objects
    ]
    return sum(held) / max(len(held), 1)


def _box_held(mask: Tensor, annotation: Annotation) -> bool:
    height, width = mask.shape
    x, y, w, h = annotation.bbox
    inside = mask[round(y * height) : round((y + h) * height), round(x * width) : round((x + w) * width)]
    return inside.float().mean().item() >= HELD


def _centre_held(mask: Tensor, annotation: Annotation) -> bool:
    height, width = mask.shape
    x, y, w, h = annotation.bbox
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    near_row = (rows / height - (y + h / 2)).abs() <= AROUND_CENTRE
    near_column = (columns / width - (x + w / 2)).abs() <= AROUND_CENTRE
    return bool((mask & near_row[:, None] & near_column).any())


def kinds_met(found: Tensor, wanted: Sequence[str], names: Sequence[str]) -> float:
    """The share of label maps (n, h, w) that show the wanted kind of scene; `names` are those of the labels."""
    return sum(kind_of(map_, names) == kind for map_, kind in zip(found, wanted, strict=True)) / len(wanted)


def kind_of(map_: Tensor, names: Sequence[str]) -> str:
    """The kind of scene by the ground that covers most of a label map (h, w), and by the sea."""
    shares = dict(zip(names, torch.bincount(map_.flatten(), minlength=len(names)).div(map_.numel()), strict=True))
    ground = max(set(GROUNDS.values()), key=lambda name: shares[name])
    if ground == "sand":
        return "coast" if shares["sea"] >= SEA_SHARE else "desert"
    return next(kind for kind, name in GROUNDS.items() if name == ground)


def objects_named(found: Tensor, captions: Sequence[str], objects: Mapping[str, int]) -> float:
    """How well label maps (n, h, w) show what captions name: 1 if all of it and nothing else, 0.5 by chance.

    The mean of two shares: of named objects that show, and of those not named that do not. `objects`: name -> label.
    """
    shown = {True: [], False: []}  # by whether the caption names the object
    for map_, caption in zip(found, captions, strict=True):
        for name, label in objects.items():
            shown[name in caption].append((map_ == label).float().mean().item() >= SMALLEST_OBJECT)
    named, others = (sum(shown[said]) / max(len(shown[said]), 1) for said in (True, False))
    return (named + 1 - others) / 2


def horizon_correlation(found: Tensor, coord: Tensor, sky: int) -> float:
    """Rank correlation over the images of how much sky they show with how high in the scene they are cut.

    Label maps (n, h, w), coordinates (n, h, w). Scenes' horizons differ, so real images are below 1 too.
    """
    shares = (found == sky).flatten(1).float().mean(dim=1)
    return float(torch.tensor(spearmanr(shares, -coord[:, 0, 0]).statistic).nan_to_num())


@dataclass(frozen=True)
class Measure:
    """What is measured, and how: images (n, 3, h, w), the scenes they should show, and their data set -> score."""

    name: str
    score: Callable[[Tensor, Mapping[str, Any], Scenes], float]


def _found(images: Tensor, scenes: Scenes) -> Tensor:
    return label_maps(images, *map(torch.from_numpy, scenes.world.palette))


MEASURES = {
    "segmentation": Measure(
        "mean IoU of colours and label map",
        lambda images, wanted, scenes: mean_iou(
            _found(images, scenes), wanted["segmentation"].argmax(dim=3), scenes.n_labels
        ),
    ),
    "depth": Measure(
        "rank correlation of haze and depth",
        lambda images, wanted, scenes: depth_correlation(images, wanted["depth"]),
    ),
    "objects_bbox": Measure(
        "boxes that hold their object's colour",
        lambda images, wanted, scenes: boxes_held(
            _found(images, scenes), wanted["annotations"], scenes.label_names.index
        ),
    ),
    "objects_center_points": Measure(
        "centres that show their object's colour",
        lambda images, wanted, scenes: centres_held(
            _found(images, scenes), wanted["annotations"], scenes.label_names.index
        ),
    ),
    "class_label": Measure(
        "kind of scene by the ground's colour",
        lambda images, wanted, scenes: kinds_met(_found(images, scenes), wanted["human_label"], scenes.label_names),
    ),
    "caption_bytes": Measure(
        "objects that the caption names, and no others",
        lambda images, wanted, scenes: objects_named(
            _found(images, scenes),
            wanted["caption"],
            {name: scenes.label_names.index(name) for name in scenes.world.objects},
        ),
    ),
    "coord": Measure(
        "rank correlation of sky and position",
        lambda images, wanted, scenes: horizon_correlation(
            _found(images, scenes), wanted["coord"][..., 0], scenes.label_names.index("sky")
        ),
    ),
}
"""By the key of the conditioning."""


def scenes_of(config: DictConfig) -> Scenes:
    """The validation scenes of a run's config, with all keys that measures need.

    Raises ConfigError for other data, and for a world in which colours do not tell what they show.
    """
    place = "data.params.validation"
    chosen = OmegaConf.select(config, place)
    if chosen is None or chosen.get("target") not in DATA:
        raise config_error(config, place, f"conditions are measured on {' and '.join(DATA)} only")
    chosen = OmegaConf.merge(chosen, {"params": {}})
    chosen.params["keys"] = list(KEYS)
    scenes = instantiate_from_config(chosen)
    if scenes.world.palette is None:
        raise config_error(config, f"{place}.params.world", "conditions are measured in the world simple only")
    return scenes


def evaluate_condition(
    model: Net2NetTransformer,
    scenes: Scenes,
    *,
    count: int,
    seed: int,
    batch_size: int = 64,
    unconditional: Tensor | None = None,
    **filters,
) -> dict[str, float]:
    """Scores of real images, reconstructions and samples of the first `count` scenes, by what was scored.

    `unconditional` (count, 3, h, w) adds, as the floor, samples of a model that does not know the condition. `filters`
    are the options of `next_token`. Raises ValueError for a model without a condition that can be measured.
    """
    check_second_stage(model)
    if model.be_unconditional or model.cond_stage_key not in MEASURES:
        raise ValueError(f"cond_stage_key {model.cond_stage_key!r} cannot be measured; {', '.join(MEASURES)} can")
    if not 2 <= count <= len(scenes):
        raise ValueError(f"count={count}: the validation split has {len(scenes)} scenes, and two are needed")
    wanted = custom_collate([scenes[index] for index in range(count)])
    real, reconstructed, sampled = [], [], []
    for start in range(0, count, batch_size):
        indices = range(start, min(start + batch_size, count))
        batch = custom_collate([scenes[index] for index in indices])
        x, c = (part.to(model.device) for part in model.get_xc(batch))
        _, condition = model.encode_to_c(c)
        real.append(x.cpu())
        reconstructed.append(reconstruct(model, x))
        sampled.append(sample(model, condition, indices, seed=seed, **filters))
    results = {"real images": real, "reconstructions": reconstructed, "samples": sampled}
    if unconditional is not None:
        results["unconditional samples"] = [unconditional]
    score = MEASURES[model.cond_stage_key].score
    return {name: score(torch.cat(images), wanted, scenes) for name, images in results.items()}


SHOWN_SIDE = 128
"""Pixels of a drawn layout."""


def examples(model: Net2NetTransformer, scenes: Scenes, *, count: int, seed: int, **filters) -> dict[str, Tensor]:
    """Rows of pictures (count, 3, H, W) by their names: the conditions of the first scenes, and a sample given each.

    The samples are those that `evaluate_condition` scores. Raises ValueError for a condition that is no picture.
    """
    key = model.cond_stage_key
    if key not in PICTURES:
        raise ValueError(f"cond_stage_key {key!r} cannot be shown; {', '.join(PICTURES)} can")
    batch = custom_collate([scenes[index] for index in range(count)])
    _, condition = model.encode_to_c(model.get_xc(batch)[1].to(model.device))
    name, draw = PICTURES[key]
    return {name: draw(batch, scenes), f"given {name}": sample(model, condition, range(count), seed=seed, **filters)}


def _coloured_labels(batch: Mapping[str, Any], scenes: Scenes) -> Tensor:
    colours = 2 * torch.tensor(list(COLOURS.values())) - 1  # (labels, 3)
    return colours[batch["segmentation"].argmax(dim=3)].movedim(3, 1)


def _grey_depth(batch: Mapping[str, Any], scenes: Scenes) -> Tensor:
    return batch["depth"][:, None].expand(-1, 3, -1, -1)  # (n, h, w) -> (n, 3, h, w)


def _drawn_layouts(key: str, batch: Mapping[str, Any], scenes: Scenes) -> Tensor:
    plot, size = scenes.conditional_builders[key].plot, (SHOWN_SIDE, SHOWN_SIDE)
    return torch.stack([plot(tokens, scenes.get_textual_label_for_category_no, size) for tokens in batch[key]])


PICTURES = {
    "segmentation": ("label map", _coloured_labels),
    "depth": ("depth", _grey_depth),
    "objects_bbox": ("boxes", partial(_drawn_layouts, "objects_bbox")),
    "objects_center_points": ("centres", partial(_drawn_layouts, "objects_center_points")),
}
"""By the key of the conditioning: what it is called, and how it is drawn, (n, 3, H, W) in [-1, 1]."""


@torch.no_grad()
def reconstruct(model: Net2NetTransformer, x: Tensor) -> Tensor:
    """Images (b, 3, h, w) through the codes of the first stage, clamped, on the CPU."""
    latent, tokens = model.encode_to_z(x)
    return model.decode_to_img(tokens, latent.shape).clamp(-1, 1).cpu()


@torch.no_grad()
def sample(model: Net2NetTransformer, condition: Tensor, indices: Iterable[int], *, seed: int, **filters) -> Tensor:
    """Images (b, 3, h, w), clamped, on the CPU, of conditioning tokens (b, l); a sample's numbers are its index's."""
    d, h, w = latent_shape(model)
    uniforms = sample_uniforms(seed, [(None, index) for index in indices], h * w)
    n_tokens = model.first_stage_model.quantize.re_embed
    tokens = Decoder(model.transformer)(condition, h * w, uniforms=uniforms, n_tokens=n_tokens, **filters)
    return model.decode_to_img(tokens, (len(tokens), d, h, w)).clamp(-1, 1).cpu()


def sample_unconditional(
    model: Net2NetTransformer, *, count: int, seed: int, batch_size: int = 64, **filters
) -> Tensor:
    """Images (count, 3, h, w) as `evaluate_condition` samples them. Raises ValueError for a model with a condition."""
    check_second_stage(model)
    if not model.be_unconditional:
        raise ValueError(f"the unconditional run is conditioned on {model.cond_stage_key!r}")
    images = []
    for start in range(0, count, batch_size):
        indices = range(start, min(start + batch_size, count))
        condition = torch.full((len(indices), 1), model.sos_token, device=model.device)
        images.append(sample(model, condition, indices, seed=seed, **filters))
    return torch.cat(images)
