"""Crops and flips do what they tell, as the published ones do."""

import pickle
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import agree, cases
from torchvision.transforms.functional import to_pil_image

from taming.data.image_transforms import (
    CenterCropReturnCoordinates,
    Random2dCropReturnCoordinates,
    RandomCrop1dReturnCoordinates,
    RandomHorizontalFlipReturn,
    convert_pil_to_tensor,
)

CASES = cases("data_objects")


def ramp(width, height):
    """The image of the published figures, uint8 (3, height, width)."""
    return (torch.arange(3 * height * width).reshape(3, height, width) % 251).to(torch.uint8)


def places(width, height):
    """Image of at most 256 x 256 pixels whose channels tell column, row and nothing."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, torch.zeros_like(rows)]).to(torch.uint8)


def box_of(crop, width, height):
    """Where a crop of `places` comes from, as (x0, y0, width, height) relative to it."""
    (left, top), (h, w) = crop[:2, 0, 0].tolist(), crop.shape[1:]
    return left / width, top / height, w / width, h / height


@pytest.mark.parametrize("name", CASES["center-crop"]["outputs"])
def test_center_crop(name):
    stored = CASES["center-crop"]["outputs"][name]
    width, height = map(int, name.split()[0].split("x"))
    transform = CenterCropReturnCoordinates(CASES["center-crop"]["size"])
    bbox, crop = transform(ramp(width, height))
    got = {"get_bbox_of_center_crop": transform.get_bbox_of_center_crop(width, height), "bbox": bbox, "crop": crop}
    agree(stored, got | {"crop_shape": crop.shape})


@given(width=st.integers(10, 200), height=st.integers(10, 200))
def test_box_of_a_center_crop_to_the_shorter_side(width, height):
    bbox, crop = CenterCropReturnCoordinates(min(width, height))(places(width, height))
    assert bbox == pytest.approx(box_of(crop, width, height), abs=0.51 / min(width, height))  # whole pixels


@pytest.mark.parametrize("name", CASES["random-2d-crop"]["outputs"])
def test_random_2d_crop(name):
    stored = CASES["random-2d-crop"]["outputs"][name]
    seed, min_size = (int(part.strip("(), ")) for part in name.removeprefix("random.seed").split("min_size"))
    random.seed(seed)
    bbox, crop = Random2dCropReturnCoordinates(min_size)(ramp(90, 60))
    agree(
        stored, {"bbox": bbox, "crop_shape": crop.shape, "first_row": crop[0, 0, :8].tolist(), "...": "top_left_size"}
    )
    top, left, size = stored["top_left_size"]
    assert torch.equal(crop, ramp(90, 60)[:, top : top + size, left : left + size])


@given(width=st.integers(1, 200), height=st.integers(1, 200), min_size=st.integers(1, 250), seed=st.integers(0, 99))
def test_random_2d_crop_tells_its_place(width, height, min_size, seed):
    random.seed(seed)
    bbox, crop = Random2dCropReturnCoordinates(min_size)(places(width, height))
    assert bbox == pytest.approx(box_of(crop, width, height))
    assert crop.shape[1] == crop.shape[2] >= min(min_size, width, height)


def test_random_2d_crop_of_no_size():
    with pytest.raises(ValueError, match="min_size of a random crop must be at least 1, not 0"):
        Random2dCropReturnCoordinates(0)


@pytest.mark.parametrize("name", [name for name in CASES["random-1d-crop"]["outputs"] if name.startswith("offset")])
def test_random_1d_crop_at_a_given_place(name):
    size, stored = CASES["random-1d-crop"]["size"], CASES["random-1d-crop"]["outputs"][name]
    top, left = map(int, name.removeprefix("offset").split(","))
    transform = RandomCrop1dReturnCoordinates(size)
    transform.get_params = lambda image, output_size: (top, left, *output_size)
    bbox, crop = transform(ramp(90, 60))
    agree(stored, {"bbox": bbox, "crop": crop})


@given(width=st.integers(20, 200), height=st.integers(20, 200), seed=st.integers(0, 99))
def test_random_1d_crop_tells_its_place(width, height, seed):
    torch.manual_seed(seed)
    bbox, crop = RandomCrop1dReturnCoordinates(20)(places(width, height))
    assert crop.shape == (3, 20, 20)
    assert bbox == pytest.approx(box_of(crop, width, height))


@pytest.mark.parametrize(
    ("arguments", "padded"),
    [
        ({"size": 100, "pad_if_needed": True}, (110, 140)),
        ({"size": (50, 95), "pad_if_needed": True}, (100, 60)),
        ({"size": 40, "padding": 10}, (110, 80)),
        ({"size": 40, "padding": [3, 4]}, (96, 68)),
        ({"size": 40, "padding": [1, 2, 3, 4], "fill": 7}, (94, 66)),
        ({"size": 100, "padding": 2, "pad_if_needed": True, "padding_mode": "edge"}, (106, 136)),
    ],
)
def test_random_1d_crop_with_padding_is_torchvisions_with_the_box_in_the_padded_image(arguments, padded):
    transform, image = RandomCrop1dReturnCoordinates(**arguments), ramp(90, 60)
    torch.manual_seed(0)
    bbox, crop = transform(image)
    torch.manual_seed(0)
    assert torch.equal(crop, super(RandomCrop1dReturnCoordinates, transform).forward(image))
    width, height = padded
    assert bbox[2:] == pytest.approx((crop.shape[2] / width, crop.shape[1] / height))
    for edge in (bbox[0] * width, bbox[1] * height):
        assert edge == pytest.approx(round(edge))


def test_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="larger than"):
        RandomCrop1dReturnCoordinates(100)(ramp(90, 60))


@pytest.mark.parametrize(("name", "p"), [("p=1", 1), ("p=0", 0)])
def test_flip(name, p):
    flipped, image = RandomHorizontalFlipReturn(p)(ramp(90, 60))
    agree(CASES["horizontal-flip"]["outputs"][name], [flipped, image[0, 0, :5].tolist()])


def test_flip_tells_what_it_did():
    transform, image, flips = RandomHorizontalFlipReturn(), places(5, 2), 0
    torch.manual_seed(0)
    for _ in range(100):
        flipped, result = transform(image)
        assert torch.equal(result, image.flip(-1) if flipped else image)
        flips += flipped
    assert 30 < flips < 70


@pytest.mark.parametrize(
    "transform",
    [
        CenterCropReturnCoordinates(20),
        RandomCrop1dReturnCoordinates(20),
        Random2dCropReturnCoordinates(20),
        RandomHorizontalFlipReturn(1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_pil_images_as_tensors_and_in_workers(transform):
    results = []
    for image, apply in (
        (ramp(50, 30), transform),
        (to_pil_image(ramp(50, 30)), pickle.loads(pickle.dumps(transform))),
    ):
        random.seed(0)
        torch.manual_seed(0)
        results.append(apply(image))
    (told, image), (told_of_pil, pil_image) = results
    assert told == told_of_pil
    assert torch.equal(convert_pil_to_tensor(pil_image), image)


def test_pil_to_tensor():
    image = to_pil_image(torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3).permute(2, 0, 1))
    tensor = convert_pil_to_tensor(image)
    assert tensor.dtype == torch.uint8
    agree(CASES["convert-pil-to-tensor"]["outputs"], tensor)
