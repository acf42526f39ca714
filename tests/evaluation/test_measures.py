"""Metrics against hand calculations, and pictures that show what they should."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from taming.evaluation import measures
from taming.figures import read_curves, save_loss_curves


def test_psnr_of_known_errors():
    images = torch.zeros(3, 3, 4, 4)
    noisy = images + torch.tensor([0.2, 0.02, 2.0])[:, None, None, None]
    assert measures.psnr(images, noisy).tolist() == pytest.approx([20.0, 40.0, 0.0], abs=1e-4)


def test_usage_and_perplexity_count_codes():
    tokens = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]])
    assert measures.codebook_usage(tokens, 8) == 0.5
    assert measures.entropy(tokens) == pytest.approx(math.log(4))
    assert measures.perplexity(tokens) == pytest.approx(4.0)
    assert measures.entropy(torch.zeros(2, 5, dtype=torch.int64)) == 0.0


def test_class_entropy_is_what_remains_once_the_class_is_known():
    tokens = torch.tensor([[0, 0], [0, 0], [1, 2], [1, 2]])
    labels = torch.tensor([0, 0, 1, 1])
    assert measures.class_entropy(tokens, labels) == pytest.approx(0.5 * math.log(2))
    assert measures.class_entropy(tokens, labels) < measures.entropy(tokens)


class Colours(torch.utils.data.Dataset):
    """Red and blue images: as easy as classes get."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        image = np.random.default_rng(index).normal(0, 0.1, (16, 16, 3)).astype("float32")
        image[:, :, 2 * (index % 2)] += 0.5
        return {"image": image, "class_label": index % 2}


def test_classifier_learns_from_real_images_and_judges_others():
    torch.manual_seed(0)
    model = measures.train_classifier(Colours(), 2, steps=15, batch_size=16)
    assert not model.training
    items = [Colours()[index] for index in range(64)]
    images = torch.stack([torch.from_numpy(item["image"]).permute(2, 0, 1) for item in items])
    labels = torch.tensor([item["class_label"] for item in items])
    assert measures.accuracy(model, images, labels, batch_size=10) > 0.95
    assert measures.accuracy(model, images, 1 - labels) < 0.05


def test_curves_go_on_over_resumed_parts(tmp_path):
    for version, start in ((0, 0), (1, 3), (10, 6)):
        with SummaryWriter(str(tmp_path / "tensorboard" / f"version_{version}")) as writer:
            for step in range(start, start + 3):
                writer.add_scalar("train/loss", 10.0 - step, step)
    curves = read_curves(tmp_path, ["train/loss", "val/loss"])
    assert curves == {"train/loss": (list(range(9)), [10.0 - step for step in range(9)])}


def test_loss_curves_are_drawn(tmp_path):
    panels = {"first": {"train": ([0, 1, 2], [3.0, 2.0, 1.0])}, "second": {}}
    save_loss_curves(tmp_path / "losses.png", panels)
    pixels = np.asarray(Image.open(tmp_path / "losses.png").convert("RGB"))
    blue_line = (pixels[:, :, 2] > 150) & (pixels[:, :, 0] < 80)
    assert blue_line[:, : pixels.shape[1] // 2].sum() > 100 and not blue_line[:, pixels.shape[1] // 2 :].any()
    assert list(tmp_path.iterdir()) == [tmp_path / "losses.png"]


def test_structural_measures_rank_reconstructions_as_eyes_do():
    """Equal images are best; a blur loses edges, which GMSD and SSIM notice more than a slight change of brightness."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 8, 8, generator=generator) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, size=32, mode="nearest")
    blurred = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
    brighter = (images + 0.05).clamp(-1, 1)
    for measure, sign in ((measures.ssim, 1), (measures.gmsd, -1)):
        equal, near, far = (sign * measure(images, x).mean() for x in (images, brighter, blurred))
        assert equal > near > far, measure.__name__
    assert torch.allclose(measures.ssim(images, images).double(), torch.ones(4, dtype=torch.float64))
    assert torch.equal(measures.gmsd(images, images), torch.zeros(4))
