"""How good reconstructions, codes and samples are.

n images (3, h, w) in [-1, 1], l tokens per image, k codebook entries. Entropies and likelihoods are in nats per token.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from taming.models.cond_transformer import Net2NetTransformer
from taming.models.vqgan import VQModel
from taming.modules.vqvae.codebook import entropy_of_counts, perplexity_of_counts, usage_of_counts


@dataclass(frozen=True)
class Encoded:
    """A data set as a first stage sees it: images and reconstructions (n, c, h, w), tokens (n, l), labels (n,)."""

    images: Tensor
    reconstructions: Tensor
    tokens: Tensor
    labels: Tensor


@torch.no_grad()
def encode(model: VQModel, batches: Iterable[Mapping]) -> Encoded:
    """Encode and decode all images of a loader; labels are `class_label` of the batches."""
    parts = []
    for batch in batches:
        x = model.get_input(batch, model.image_key).to(model.device)
        reconstructions, _, indices = model(x, return_pred_indices=True)
        parts.append((x, reconstructions.clamp(-1, 1), indices.view(len(x), -1), batch["class_label"]))
    return Encoded(*(torch.cat(columns).cpu() for columns in zip(*parts, strict=True)))


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (n,) in dB, of images whose values span 2."""
    error = (images - reconstructions).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4.0 / error)


def ssim(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Structural similarity (n,) (Wang et al. 2004), at most 1, in windows of 7 x 7, mean of the channels."""
    from skimage.metrics import structural_similarity

    pairs = zip(images.numpy(), reconstructions.numpy(), strict=True)
    return torch.tensor([structural_similarity(x, y, data_range=2.0, channel_axis=0) for x, y in pairs])


def gmsd(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (n,) of the luminance (Xue et al. 2014): 0 for equal edges, the best."""
    stability = 170 / 255**2  # the paper's constant, for values from 0 to 255
    a, b = (_gradient_magnitude((x.mean(dim=1, keepdim=True) + 1) / 2) for x in (images, reconstructions))
    similarity = (2 * a * b + stability) / (a.square() + b.square() + stability)
    return similarity.flatten(1).std(dim=1, correction=0)


def _gradient_magnitude(x: Tensor) -> Tensor:
    """Length of the Prewitt gradient of (n, 1, h, w) after a 2 x 2 mean at every other pixel, as the paper has it."""
    x = F.avg_pool2d(x, 2)
    prewitt = torch.tensor([[1.0, 0.0, -1.0]] * 3) / 3
    kernels = torch.stack((prewitt, prewitt.t()))[:, None]  # (2, 1, 3, 3)
    return F.conv2d(x, kernels.to(x), padding=1).square().sum(dim=1).sqrt()


def codebook_usage(tokens: Tensor, k: int) -> float:
    """The share of the k codebook entries that occur among the tokens."""
    return usage_of_counts(tokens.flatten().bincount(minlength=k))


def entropy(tokens: Tensor) -> float:
    """Entropy of the tokens' empirical distribution, position and class ignored."""
    return entropy_of_counts(tokens.flatten().bincount())


def class_entropy(tokens: Tensor, labels: Tensor) -> float:
    """Entropy of the tokens (n, l) given the label (n,) of their image."""
    return sum(entropy(tokens[labels == label]) * (labels == label).double().mean().item() for label in labels.unique())


def perplexity(tokens: Tensor) -> float:
    """The number of equally frequent codes that would have the tokens' entropy."""
    return perplexity_of_counts(tokens.flatten().bincount())


@torch.no_grad()
def token_nll(model: Net2NetTransformer, batches: Iterable[Mapping]) -> float:
    """Mean negative log-likelihood of the image tokens of a loader."""
    total = count = 0
    for batch in batches:
        x, c = (tensor.to(model.device) for tensor in model.get_xc(batch))
        logits, target = model(x, c)
        total += F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum").item()
        count += target.numel()
    return total / count


@torch.no_grad()
def complete_halves(model: Net2NetTransformer, batch: Mapping, *, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The upper halves of a batch's images, each continued `count` times.

    Returns what was given (b, 3, h, w), the rest mid-grey, and the completions (count, b, 3, h, w).
    """
    x, c = (tensor.to(model.device) for tensor in model.get_xc(batch))
    quant, z = model.encode_to_z(x)
    _, c = model.encode_to_c(c)
    known = z[:, : z.shape[1] // 2]
    completions = []
    for index in range(count):
        generators = [torch.Generator(model.device).manual_seed(seed + index * len(x) + row) for row in range(len(x))]
        tokens = model.sample(known, c, steps=z.shape[1] - known.shape[1], sample=True, generator=generators)
        completions.append(model.decode_to_img(tokens, quant.shape))
    given = x.clone()
    given[:, :, x.shape[2] // 2 :] = 0
    return given.cpu(), torch.stack(completions).clamp(-1, 1).cpu()


class Classifier(nn.Sequential):
    """A small convolutional network, images (n, 3, h, w) -> logits (n, n_classes); any size from 16 pixels."""

    def __init__(self, n_classes: int, width: int = 24) -> None:
        widths = [3, width, 2 * width, 4 * width]
        layers = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * widths[-1], n_classes)
        )


def train_classifier(
    dataset: Dataset, n_classes: int, *, steps: int = 1000, batch_size: int = 64, device: torch.device | str = "cpu"
) -> Classifier:
    """A classifier of `image` by `class_label`, trained on real images only; in eval mode."""
    model = Classifier(n_classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=len(dataset) >= batch_size)
    step = 0
    while step < steps:
        for batch in loader:
            images, labels = batch["image"].permute(0, 3, 1, 2).to(device), batch["class_label"].to(device)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == steps:
                break
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """The share of images (n, 3, h, w) that the classifier gives their label (n,)."""
    device = next(model.parameters()).device
    predicted = torch.cat([model(part.to(device)).argmax(dim=1).cpu() for part in images.split(batch_size)])
    return (predicted == labels).double().mean().item()
