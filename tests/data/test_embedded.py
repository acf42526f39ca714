"""The real images that come with the packages: what is in them, and that no held-out pixel is seen in training."""

import pickle
import random

import numpy as np
import pytest

from taming.config import instantiate_from_config
from taming.data import photos
from taming.data.digits import DigitsTrain, DigitsValidation
from taming.data.photos import PhotosTrain, PhotosValidation

EVERY = [DigitsTrain, DigitsValidation, PhotosTrain, PhotosValidation]


@pytest.mark.parametrize("dataset_class", EVERY)
def test_items(dataset_class):
    dataset = instantiate_from_config(
        {"target": f"{dataset_class.__module__}.{dataset_class.__name__}", "params": {"size": 32}}
    )
    for index in (0, len(dataset) // 2, len(dataset) - 1):
        item = dataset[index]
        assert item["image"].shape == (32, 32, 3) and item["image"].dtype == np.float32
        assert -1 <= item["image"].min() < item["image"].max() <= 1
        assert item["human_label"] == dataset.class_names[item["class_label"]]
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert len(dataset.class_names) == dataset.n_classes


@pytest.mark.parametrize("dataset_class", EVERY)
def test_data_sets_pickle_for_spawned_workers(dataset_class):
    assert len(pickle.loads(pickle.dumps(dataset_class(32)))) == len(dataset_class(32))


@pytest.mark.parametrize("dataset_class", EVERY)
def test_too_small_sizes_are_refused(dataset_class):
    with pytest.raises(ValueError, match=rf"{dataset_class.__name__}: size=4"):
        dataset_class(4)


def test_digits_are_split_into_all_1797_scans():
    training, validation = DigitsTrain(), DigitsValidation()
    assert (len(training), len(validation)) == (1442, 355)
    seen = {image.tobytes() for image in training.images}
    assert not [image for image in validation.images if image.tobytes() in seen]
    assert set(np.bincount(validation.labels)) <= {34, 35, 36}, "as many of each digit"


def test_digits_keep_what_was_scanned():
    """Averaged back to 8 x 8 cells, an enlarged scan is close to the scan: bright strokes on black."""
    from sklearn.datasets import load_digits

    scan = load_digits().images[0] / 8 - 1
    image = DigitsTrain().images[0][:, :, 0]
    cells = image.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(cells - scan).mean() < 0.2 and np.corrcoef(cells.ravel(), scan.ravel())[0, 1] > 0.97


def test_photos_come_without_network(monkeypatch):
    """Only scikit-image's folder is used: its module would offer downloads."""
    import sys

    photos.scaled_pictures.cache_clear()
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert len(PhotosTrain().regions) == len(photos.PHOTOS) * len(photos.SCALES)


def test_missing_photos_are_one_clear_line(monkeypatch):
    monkeypatch.setitem(photos.PHOTOS, "unicorn", ("unicorn.png", "right"))
    with pytest.raises(FileNotFoundError, match=r"unicorn\.png is missing; install scikit-image"):
        PhotosTrain()


def test_regions_of_both_splits_share_no_pixel_and_leave_none_out():
    """Every column of a marked picture belongs to exactly one split."""
    for name, held_out in photos.PHOTOS.values():
        for picture in photos.scaled_pictures(name, photos.SCALES):
            columns = np.broadcast_to(np.arange(picture.shape[1])[None, :, None], picture.shape)
            training, validation = (set(photos.region(columns, held_out, split)[0, :, 0]) for split in (True, False))
            assert not training & validation
            assert len(training) + len(validation) == picture.shape[1]
            assert min(len(training), len(validation)) >= 32, "a crop must fit"


def test_training_crops_lie_in_their_region(monkeypatch):
    training = PhotosTrain(length=200)
    seen = []
    monkeypatch.setattr(training, "item", lambda number, top, left, flip: seen.append((number, top, left)))
    for index in range(len(training)):
        training[index]
    for number, top, left in seen:
        height, width, _ = training.regions[number][0].shape
        assert 0 <= top <= height - 32 and 0 <= left <= width - 32
    assert {number for number, _, _ in seen} == set(range(len(training.regions)))


def test_training_crops_follow_pythons_random_numbers():
    training = PhotosTrain()
    draws = []
    for seed in (1, 1, 2):
        random.seed(seed)
        draws.append(np.stack([training[index]["image"] for index in range(5)]))
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


def test_validation_crops_are_fixed_distinct_and_balanced():
    first, second = PhotosValidation(), PhotosValidation()
    images = [first[index]["image"] for index in range(len(first))]
    assert all(np.array_equal(image, second[index]["image"]) for index, image in enumerate(images))
    labels = [first[index]["class_label"] for index in range(len(first))]
    assert len(first) == 396 and set(np.bincount(labels)) == {36}
    assert len({image.tobytes() for image in images}) > 380
