"""Crops for CLIP: sizes, places, augmentations, all from the generator; prompts and how far images are from them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taming.clip.cutouts import AUGMENTATIONS, WARPS, Cutouts
from taming.clip.prompts import Prompt, parse_prompts, prompt_loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.5, 1.0, 2.0]), st.lists(st.sampled_from(AUGMENTATIONS))
)
def test_crops_of_any_image_have_clips_size(height, width, power, names):
    image = torch.rand(1, 3, height, width, generator=generator())
    crops = Cutouts(16, 3, power, names)(image, generator(1))
    assert crops.shape == (3, 3, 16, 16) and crops.isfinite().all()
    assert torch.equal(crops, Cutouts(16, 3, power, names)(image, generator(1)))


def test_crops_are_between_what_clip_reads_and_the_whole_image():
    """Of a ramp, the range of values in a crop tells its side and place."""
    ramp = torch.arange(64.0)[None, None, :, None].expand(1, 3, 64, 128)
    crops = Cutouts(16, 200)(ramp, generator())
    low, high = crops.amin(dim=(1, 2, 3)), crops.amax(dim=(1, 2, 3))
    sides = high - low
    assert sides.min() >= 14 and sides.max() <= 63 and sides.max() > 50
    assert low.min() < 3 and high.max() > 60
    smaller = Cutouts(16, 200, power=3.0)(ramp, generator())
    assert (smaller.amax(dim=(1, 2, 3)) - smaller.amin(dim=(1, 2, 3))).mean() < sides.mean()


def test_without_augmentations_a_fitting_crop_is_the_image_itself():
    image = torch.rand(1, 3, 16, 16, generator=generator())
    assert torch.equal(Cutouts(16, 1)(image, generator()), image)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_augmentation_changes_crops_and_lets_gradients_through(name):
    image = torch.rand(1, 3, 16, 16, generator=generator()).requires_grad_()
    crops = Cutouts(16, 30, augmentations=[name])(image, generator(1))
    changed = (crops - image).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert changed.sum() > 8 and (name == "noise" or not changed.all())
    crops.sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0


def test_maps_of_places():
    turn = WARPS["affine"](500, generator())
    angles = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    assert 0.2 < angles.abs().max() <= math.radians(15) + 1e-6
    assert turn[:, :2, 2].abs().max() <= 0.2
    flips = WARPS["flip"](500, generator())[:, 0, 0]
    assert set(flips.tolist()) == {1.0, -1.0} and abs(flips.mean()) < 0.2


def test_a_flip_is_exact():
    image = torch.rand(1, 3, 8, 8, generator=generator())
    crops = Cutouts(8, 20, augmentations=["flip"])(image, generator(2))
    for crop in crops:
        assert torch.allclose(crop, image[0], atol=1e-5) or torch.allclose(crop, image[0].flip(-1), atol=1e-5)


def test_erasing_blackens_one_rectangle():
    crops = Cutouts(32, 40, augmentations=["erasing"])(torch.ones(1, 3, 32, 32), generator())
    for crop in crops:
        rows, columns = (crop[0] == 0).nonzero(as_tuple=True)
        assert len(rows) == 0 or len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert len(rows) < 0.55 * 32 * 32
    assert 0.5 < (crops == 0).any(dim=(1, 2, 3)).float().mean() < 0.9


def test_prompt_syntax():
    phases = parse_prompts("a sea: calm|night:0.5 | rain:-1.5:-0.2^ dawn :2e-1 ")
    assert phases == [
        [Prompt("a sea: calm"), Prompt("night", 0.5), Prompt("rain", -1.5, -0.2)],
        [Prompt("dawn", 0.2)],
    ]
    assert parse_prompts("C:\\pictures\\a.png:2") == [[Prompt("C:\\pictures\\a.png", 2.0)]]
    assert parse_prompts("one:2:3:4") == [[Prompt("one:2", 3.0, 4.0)]]
    assert parse_prompts(" | ^ ") == []
    with pytest.raises(ValueError, match="there is no text before the weight"):
        parse_prompts("a|:2")


def test_loss_is_the_squared_angle_halved():
    """2 arcsin(chord / 2)^2 = angle^2 / 2."""
    angles = torch.tensor([0.0, 0.3, 1.2])
    embeddings = torch.stack((angles.cos(), angles.sin()), dim=1)
    target = torch.tensor([[1.0, 0.0]])
    expected = (angles.square() / 2).mean().item()
    assert prompt_loss(embeddings, target, 1.0, -math.inf).item() == pytest.approx(expected, rel=1e-5)
    assert prompt_loss(embeddings, target, 0.5, -math.inf).item() == pytest.approx(expected / 2, rel=1e-5)
    assert prompt_loss(embeddings, target, -2.0, -math.inf).item() == pytest.approx(-2 * expected, rel=1e-5)
    both = torch.cat((target, -target))
    assert prompt_loss(target, both, 1.0, -math.inf).item() == pytest.approx(math.pi**2 / 4, rel=1e-4)


def test_a_prompt_pulls_no_further_than_its_stop():
    embeddings = torch.tensor([[0.8, 0.6]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0]])
    for weight, stop, pulls in ((1.0, 0.1, True), (1.0, 0.3, False), (-1.0, -0.3, True), (-1.0, -0.1, False)):
        (grad,) = torch.autograd.grad(prompt_loss(embeddings, target, weight, stop), embeddings)
        assert bool(grad.abs().sum() > 0) is pulls, (weight, stop)
