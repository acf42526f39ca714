"""Windowed sampling against the published scripts' grids and images."""

import parity
import pytest
import torch

from taming.config import get_obj_from_str
from taming.data.helper_types import Annotation
from taming.sampling.windowed import sample_windowed
from taming.sampling.windows import default_side

CASES = parity.cases("windows")
APP = [name for name in parity.names("windows", "window/") if name.endswith("/sample_conditional")]


def encoded(name):
    """Model, grid of the image's own tokens, grid of the conditioning tokens."""
    case = CASES[name]
    model = parity.build({"mode": "eval"} | case)
    key = model.cond_stage_key
    image, conditioning = (parity.make(case["inputs"][name])[None] for name in ("image", key))
    if key == "segmentation":
        conditioning = conditioning.movedim(2, -1)  # made as (1, h, classes, w)
    x, c = model.get_xc({"image": image, key: conditioning})
    grids = (indices.view(1, *quant.shape[2:]) for quant, indices in (model.encode_to_z(x), model.encode_to_c(c)))
    return model, *grids


@pytest.mark.parametrize("name", APP)
def test_published_grids(name):
    case = CASES[name]
    model, z, c = encoded(name)
    height, width = case["outputs"]["grid"]
    assert z.shape == c.shape == (1, height, width)
    options = {}
    if case["half_sample (Image Completion)"]:
        options = {"z_init": z, "start": height * width // 2}
    if "uneven" in name:  # the original takes the start's column for every row and leaves zeros left of it
        row, column = divmod(options["start"], width)
        options["mask"] = torch.zeros(height, width, dtype=torch.bool)
        options["mask"][row:, :column] = True
        z.flatten(1)[:, options["start"] :] = 0
    grid = sample_windowed(model, c, (height, width), sample=False, **options)
    parity.agree(case["outputs"]["indices"], grid)
    parity.agree(case["outputs"]["image"], model.decode_to_img(grid, (1, 4, height, width)))
    stored = CASES.get(name.replace("sample_conditional", "make_samples"))
    if stored is not None:
        parity.agree(stored["outputs"]["indices"], grid)


class InOrder:
    def shuffle(self, objects):
        pass


@pytest.mark.parametrize("name", parity.names("windows", "scene/"))
def test_published_scenes(name):
    """Layouts that are rebuilt for every window; the reference leaves the objects in their order."""
    case = CASES[name]
    model = parity.build({"mode": "eval"} | case)
    builder = get_obj_from_str(case["builder"]["target"])(**case["builder"]["kwargs"])
    annotations = [
        Annotation(area=w * h, image_id="", bbox=(x, y, w, h), category_no=category, category_id="")
        for x, y, w, h, category in case["annotations (x, y, w, h, category_no)"]
    ]
    batch_size, height, width = case["outputs"]["indices"]["shape"]
    side = default_side(model.transformer.block_size, lambda side: builder.embedding_dim)
    assert side == 16

    def cond_fn(i, j, r0, c0):
        crop = (c0 / width, r0 / height, side / width, side / height)
        return builder.build(annotations, crop, rng=InOrder()).expand(batch_size, -1)

    options = {"window": side, "anchor": (side - 1) // 2, "sample": False}
    grid = sample_windowed(model, None, (height, width), cond_fn=cond_fn, **options)
    parity.agree(case["outputs"]["indices"], grid)
    parity.agree(case["outputs"]["image"], model.decode_to_img(grid, (batch_size, 4, height, width)))
