"""Rows of samples by layouts: the same whatever the batches and interruptions, each window told what it shows."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_transformers import contents, manifest, same, tiny_model

from taming.data.conditional_builder.objects_bbox import ObjectsBoundingBoxConditionalBuilder
from taming.data.helper_types import Annotation
from taming.sampling.dataset_jobs import Split
from taming.sampling.decode import sample_uniforms
from taming.sampling.scene_jobs import (
    SceneOptions,
    latent_sides,
    layouts_of_files,
    layouts_of_split,
    plan_scene_job,
    row,
    run_scene_job,
)
from taming.sampling.windowed import sample_windowed
from taming.shards import Shard

STAGE = {"target": "taming.models.dummy_cond_stage.DummyCondStage", "params": {"conditional_key": "objects_bbox"}}
NAMES = ("ball", "car", "tree")
LAYOUT, WINDOW = 11, 4
"""Tokens of three boxes and a crop; side of the window, of two pixels a token."""
OPTIONS = {"seed": 3, "top_k": 6, "n_samples_per_layout": 2}


class Drawn(torch.utils.data.Dataset):
    """Five scenes of two objects."""

    def __init__(self, keys=("annotations",)):
        self.keys = keys
        builder = ObjectsBoundingBoxConditionalBuilder(len(NAMES), 3, 64, True, False, False)
        self.conditional_builders = {"objects_bbox": builder}
        self.no_classes = len(NAMES)

    def get_textual_label_for_category_no(self, number):
        return NAMES[number]

    def __len__(self):
        return 5

    def __getitem__(self, index):
        boxes = [(0.0, 0.0, 0.25, 0.5), (0.5, 0.125 * index, 0.5, 0.5)]
        objects = [Annotation(0.1, str(index), box, (index + i) % 3, "") for i, box in enumerate(boxes)]
        return dict.fromkeys(self.keys, objects)


def split(**params):
    return Split("validation", Drawn(**params), {"target": "Drawn", "params": params})


def layout_model(**changes):
    sizes = {"vocab_size": 64, "block_size": LAYOUT + WINDOW**2 - 1, "cond_stage_key": "objects_bbox"}
    return tiny_model(STAGE, **sizes | changes)


@pytest.fixture(scope="module")
def model():
    return layout_model()


def sample(model, root, data=None, layouts=None, **changes):
    data, options = data or split(), SceneOptions(**(OPTIONS | changes))
    layouts = layouts or layouts_of_split(data, per_batch=2, count=options.num_samples)
    job = plan_scene_job(model, data, root, options, layouts=layouts, global_step=70)
    return run_scene_job(job, progress=False)


def tiles(path, n_tiles):
    """The images of a row, which two black pixels surround."""
    picture = np.asarray(Image.open(path))
    width = (picture.shape[1] - 2) // n_tiles - 2
    assert picture.shape[1] == n_tiles * (width + 2) + 2
    assert not picture[:2].any() and not picture[:, :2].any()
    return [picture[2:-2, 2 + i * (width + 2) : 2 + i * (width + 2) + width] for i in range(n_tiles)]


def test_published_names_and_rows(model, tmp_path):
    folder = sample(model, tmp_path)
    assert folder == tmp_path / "000070_6_1.0"
    assert set(contents(folder)) == {f"{name}.png" for name in ("0000_00", "0000_01", "0001_00", "0001_01", "0002_00")}
    samples = tiles(folder / "0001_00.png", 3)
    assert all(tile.shape == (8, 8, 3) for tile in samples) and (samples[0] != samples[1]).any()
    recorded = manifest(folder)
    assert recorded["resolution"] == [8, 8] and recorded["conditional"] == "objects_bbox" and recorded["seed"] == 3


def test_the_published_seed_is_the_default(model, tmp_path):
    folder = sample(model, tmp_path, seed=SceneOptions().seed, num_samples=1)
    assert manifest(folder)["seed"] == 42424242


def test_one_window_is_an_ordinary_sample_given_the_whole_layout(model, tmp_path):
    folder = sample(model, tmp_path, num_samples=3)
    annotations = Drawn()[2]["annotations"]
    builder = Drawn().conditional_builders["objects_bbox"]
    for number in range(2):
        tokens = builder.build(annotations, (0.0, 0.0, 1.0, 1.0), rng=random.Random(f"3/2/{number}/0/0"))
        uniforms = sample_uniforms(3, [(2, number)], 16).view(1, 4, 4)
        grid = sample_windowed(model, tokens[None], (4, 4), top_k=6, uniforms=uniforms, schedule="sequential")
        image = model.decode_to_img(grid, (1, 4, 4, 4))[0].add(1).div(2).mul(255).round().clamp(0, 255)
        expected = image.movedim(0, -1).numpy().astype(np.uint8)
        assert np.abs(tiles(folder / "0001_00.png", 3)[number].astype(int) - expected).max() <= 1


def test_every_cell_is_told_what_its_window_shows(model, tmp_path, monkeypatch):
    """Of a grid of 4 x 8 tokens; the third column of a window of four is the cell's if it can be."""
    crops = []
    build = ObjectsBoundingBoxConditionalBuilder.build

    def recorded(self, annotations, crop=None, **options):
        crops.append(crop)
        return build(self, annotations, crop, **options)

    monkeypatch.setattr(ObjectsBoundingBoxConditionalBuilder, "build", recorded)
    folder = sample(model, tmp_path, resolution=(8, 16), num_samples=1, n_samples_per_layout=1)
    assert tiles(folder / "0000_00.png", 2)[0].shape == (8, 16, 3)
    columns = [min(max(j - 1, 0), 4) for j in range(8)]
    assert crops == [(c0 / 8, 0.0, 0.5, 1.0) for _ in range(4) for c0 in columns] + [(0.0, 0.0, 1.0, 1.0)]


def test_batches_interruptions_and_parts_change_nothing(model, tmp_path):
    options = {"resolution": (10, 8), "n_samples_per_layout": 3}
    expected = contents(sample(model, tmp_path / "expected", batch_size=3, **options))
    folder = sample(model, tmp_path, batch_size=2, **options)
    assert same(contents(folder), expected)
    (folder / "0001_01.png").unlink()
    before = (folder / "0000_00.png").stat().st_mtime_ns
    sample(model, tmp_path, **options)
    assert same(contents(folder), expected) and (folder / "0000_00.png").stat().st_mtime_ns == before
    for index in (0, 1):
        parts = sample(model, tmp_path / "parts", shard=Shard(index, 2), **options)
    assert same(contents(parts), expected)


def test_greedy_samples_differ_by_the_order_of_their_objects_only(model, tmp_path):
    files = [contents(sample(model, tmp_path / str(seed), greedy=True, seed=seed, num_samples=1)) for seed in (1, 2)]
    assert files[0].keys() == files[1].keys()


def test_layouts_of_files(model, tmp_path):
    path = tmp_path / "my scene.json"
    path.write_text(json.dumps({"objects": [{"class": "Tree", "box": [0, 0, 0.5, 0.5]}]}))
    read = layouts_of_files([path, path], split(), "objects_bbox")
    folder = sample(model, tmp_path, layouts=read, resolution=(32, 32))
    (name,) = contents(folder)
    assert name.startswith("my scene_") and len(name) == len("my scene_01234567.png")
    path.write_text(json.dumps({"objects": [{"class": 2, "box": [0, 0, 0.5, 0.75]}]}))
    changed = layouts_of_files([path], split(), "objects_bbox")
    assert len(contents(sample(model, tmp_path, layouts=changed, resolution=(32, 32)))) == 2, "not the old picture"
    plot = tiles(folder / name, 3)[2]
    below, side = plot[20:28, 4:28], plot[14:19, 4:12]
    assert (below == 255).all() and (side != 255).any(), "the box ends in the middle, upright"


def test_one_layout_does_not_depend_on_the_others(model, tmp_path):
    paths = [tmp_path / f"{name}.json" for name in NAMES]
    for number, path in enumerate(paths):
        path.write_text(json.dumps({"objects": [{"class": number, "box": [0, 0, 1, 1]}]}))
    together = contents(sample(model, tmp_path / "all", layouts=layouts_of_files(paths, split(), "objects_bbox")))
    alone = contents(sample(model, tmp_path / "one", layouts=layouts_of_files(paths[1:2], split(), "objects_bbox")))
    (name,) = alone
    assert name.startswith("car_") and same(alone, {name: together[name]})


def test_rows_are_rounded_as_torchvision_saves_them(tmp_path):
    from torchvision.utils import save_image

    samples, plot = torch.rand(2, 3, 6, 5) * 2.4 - 1.2, torch.rand(3, 6, 5) * 2 - 1
    everything = (torch.cat([samples, plot[None]]) + 1) / 2
    save_image(everything, tmp_path / "row.png", nrow=3, padding=2)
    assert np.array_equal(row(samples, plot), np.asarray(Image.open(tmp_path / "row.png")))
    assert row(samples[:, :1], plot).shape == (10, 23, 3), "grey samples beside the coloured plot"


@pytest.mark.parametrize(
    ("resolution", "sides"),
    [((256, 512), (16, 32)), ((100, 1), (16, 16)), ((300, 264), (19, 16)), ((512, 280), (32, 18))],
)
def test_sides_of_the_published_models(resolution, sides):
    """264 / 16 and 280 / 16 are halves: to the even number."""
    assert latent_sides(resolution, 16, 16) == sides


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": (0, 8)}, "resolution must be positive, not 0,8"),
        ({"n_samples_per_layout": 0}, "n_samples_per_layout must be positive, not 0"),
        ({"num_samples": 0}, "num_samples must be positive, not 0"),
        ({"window": 0}, "window must be positive, not 0"),
        ({"top_k": "3,4"}, "one number of tokens is expected, not 3,4"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SceneOptions(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "made with seed=3, not 4"),
        ({"resolution": (8, 16)}, r"made with resolution=\[8, 8\], not \[8, 16\]"),
        ({"n_samples_per_layout": 3}, "made with n_samples_per_layout=2, not 3"),
    ],
)
def test_the_folder_of_another_job_is_refused(model, tmp_path, changes, message):
    folder = sample(model, tmp_path, num_samples=1)
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        sample(model, tmp_path, num_samples=1, **changes)
    assert contents(folder) == before
    sample(model, tmp_path, num_samples=1, overwrite=True, **changes)
    assert contents(folder) != before


def test_models_and_data_that_do_not_fit(model, tmp_path):
    with pytest.raises(ValueError, match=r"conditioned on 'class_label', not on layouts .*scripts/make_samples\.py"):
        sample(tiny_model(cond_stage_key="class_label"), tmp_path)
    with pytest.raises(ValueError, match="conditional=objects_center_points: this model reads objects_bbox"):
        sample(model, tmp_path, conditional="objects_center_points")
    with pytest.raises(ValueError, match="the data have only objects_bbox, not 'objects_center_points'"):
        sample(layout_model(cond_stage_key="objects_center_points"), tmp_path)
    with pytest.raises(ValueError, match="no_tokens=64 of the data set: the model reads 32 tokens"):
        sample(layout_model(vocab_size=32), tmp_path)
    with pytest.raises(ValueError, match=r"window=5: 25 tokens and the layout's 11 do not fit .* 26; at most 4 can be"):
        sample(model, tmp_path, window=5)
    without = Split("validation", [{"image": 0}], {})
    with pytest.raises(ValueError, match="the data have no layouts of objects"):
        sample(model, tmp_path, data=without)
    with pytest.raises(ValueError, match=r"items have only image; add annotations to data\.params\.validation"):
        sample(model, tmp_path, data=split(keys=("image",)))
    assert not list(tmp_path.rglob("*.png"))


def test_a_smaller_window(model, tmp_path):
    folder = sample(model, tmp_path, window=3, num_samples=1)
    assert tiles(folder / "0000_00.png", 3)[0].shape == (6, 6, 3)
