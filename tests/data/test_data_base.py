"""Geometry, values, randomness and errors of the datasets over lists of files."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

from taming.data._augment import SeededTransform, albumentations
from taming.data.base import ConcatDatasetWithIndex, ImagePaths, NumpyPaths

SIZE = 8


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """A 300 x 451 image whose red tells the column and whose green tells the row."""
    rows, columns = np.mgrid[:300, :451]
    pixels = np.stack([columns * 255 // 450, rows * 255 // 299, np.zeros_like(rows)], axis=2).astype(np.uint8)
    path = tmp_path_factory.mktemp("ramp") / "ramp.png"
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A wide image of noise, where equal crops mean equal offsets."""
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, 4000, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_scales_the_shorter_side_and_cuts_the_centre(ramp):
    image = ImagePaths([ramp], size=256)[0]["image"]
    assert (image.shape, image.dtype) == ((256, 256, 3), np.float32)
    # 451 columns become 385 (384.85 rounded), of which 64 to 319 remain.
    position = (np.array([64, 319]) + 0.5) * 451 / 385 - 0.5
    np.testing.assert_allclose(image[128, [0, -1], 0], position / 450 * 2 - 1, atol=2 / 127.5)
    np.testing.assert_allclose(image[[0, -1], 128, 1], [-1, 1], atol=2 / 127.5)


@pytest.mark.parametrize("size", [None, 0, -1])
def test_without_size_the_file_comes_as_it_is(ramp, size):
    image = ImagePaths([ramp], size=size)[0]["image"]
    stored = np.asarray(Image.open(ramp))
    np.testing.assert_array_equal(image, (stored.astype(np.float64) / 127.5 - 1.0).astype(np.float32))


def test_items_hold_labels_in_order_and_the_path(ramp):
    labels = {"class_label": np.array([7, 9]), "human_label": ["cat", "dog"]}
    dataset = ImagePaths([ramp, ramp], labels=labels)
    item = dataset[1]
    assert list(item) == ["image", "class_label", "human_label", "file_path_"]
    assert (item["class_label"], item["human_label"], item["file_path_"]) == (9, "dog", ramp)
    assert list(labels) == ["class_label", "human_label"]
    assert len(dataset) == 2


def test_stored_orientation_counts_unless_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg", exif=exif)
    assert ImagePaths([tmp_path / "x.jpg"])[0]["image"].shape == (20, 30, 3)
    assert ImagePaths([tmp_path / "x.jpg"], exif=True)[0]["image"].shape == (30, 20, 3)


def test_numpy_paths_equal_image_paths(tmp_path, ramp):
    np.save(tmp_path / "x.npy", np.moveaxis(np.asarray(Image.open(ramp)), -1, 0)[None])
    from_array = NumpyPaths([tmp_path / "x.npy"], size=40)[0]["image"]
    np.testing.assert_array_equal(from_array, ImagePaths([ramp], size=40)[0]["image"])


def test_subclasses_replace_reading_by_the_path_alone(ramp):
    class Named(ImagePaths):
        def preprocess_image(self, image_path):
            return f"read {image_path}"

    assert Named([ramp])[0] == {"image": f"read {ramp}", "file_path_": ramp}


def test_concatenation_tells_the_dataset():
    dataset = ConcatDatasetWithIndex([["a", "b"], ["c"], ["d", "e"]])
    expected = [("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 2)]
    assert [dataset[i] for i in range(5)] == expected
    assert [dataset[i - 5] for i in range(5)] == expected
    assert isinstance(dataset, ConcatDataset)
    with pytest.raises(ValueError, match="index"):
        dataset[-6]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("stored_bytes", "error", "text"),
    [(None, FileNotFoundError, "file not found:"), (300, OSError, "cannot read image")],
    ids=["missing", "truncated"],
)
def test_errors_name_dataset_and_file_also_from_workers(tmp_path, ramp, workers, stored_bytes, error, text):
    path = tmp_path / "bad.png"
    if stored_bytes:
        path.write_bytes(Path(ramp).read_bytes()[:stored_bytes])
    raised = error_of(DataLoader(ImagePaths([str(path)]), num_workers=workers))
    assert type(raised) is error
    assert f"taming.data.base.ImagePaths: {text} {path}" in str(raised)


def error_of(loader):
    """The OSError of the first batch; its traceback, a cycle, would keep the workers, and ending them take seconds."""
    try:
        return next(iter(loader))
    except OSError as error:
        return error.with_traceback(None)


def first_rows(dataset, *, seed, epochs, workers, start_method="fork"):
    """First red row of every crop that the workers make, (epochs * len(dataset), SIZE)."""
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, multiprocessing_context=start_method)
    torch.manual_seed(seed)
    return torch.cat([batch["image"][:, 0, :, 0] for _ in range(epochs) for batch in loader])


def test_random_crops_differ_by_worker_and_epoch_and_repeat_by_seed(noise):
    dataset = ImagePaths([noise] * 8, size=SIZE, random_crop=True)
    first, again, other = (first_rows(dataset, seed=seed, epochs=2, workers=2) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    # All 16 crops of both workers and epochs lie elsewhere, but for chance collisions.
    assert len({tuple(row.tolist()) for row in first}) >= 15
    assert not torch.equal(first, other)


def test_spawned_workers_give_the_same_crops(noise):
    dataset = ImagePaths([noise] * 2, size=SIZE, random_crop=True, labels={"y": [1, 2]})
    forked, spawned = (
        first_rows(dataset, seed=3, epochs=1, workers=1, start_method=method) for method in ("fork", "spawn")
    )
    assert torch.equal(forked, spawned)


def test_fixed_pipelines_draw_no_random_numbers(noise):
    state = random.getstate()
    ImagePaths([noise], size=SIZE)[0]
    assert random.getstate() == state


def test_flips_do_not_follow_from_crops():
    rows, columns = np.mgrid[:64, :64].astype(np.uint8)
    positions = np.stack([rows, columns, columns], axis=2)
    steps = [albumentations.RandomCrop(height=4, width=4), albumentations.HorizontalFlip(p=0.5)]
    transform = SeededTransform(albumentations.Compose(steps))
    random.seed(0)
    first_rows = np.stack([transform(image=positions)["image"][0] for _ in range(2000)]).astype(int)
    tops, lefts = first_rows.min(axis=1)[:, :2].T
    flipped = first_rows[:, 0, 1] > first_rows[:, -1, 1]
    assert set(tops) == set(lefts) == set(range(61))
    assert abs(flipped.mean() - 0.5) < 0.05
    assert (np.abs(np.corrcoef([tops, lefts, flipped]) - np.eye(3)) < 0.1).all()
