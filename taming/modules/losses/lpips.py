"""Learned perceptual image patch similarity on VGG-16 features (Zhang et al. 2018).

The key names are those of the published checkpoints; the weights of the linear layers come with the `lpips` package.
"""

import importlib.util
from collections import namedtuple
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from taming.modules.util import at_least_float32

VGG_FILE = "vgg16-397923af.pth"
# first feature layer of each slice; a slice ends with the ReLU that gives it its name
SLICE_STARTS = (0, 4, 9, 16, 23, 30)
CHANNELS = (64, 128, 256, 512, 512)
VggOutputs = namedtuple("VggOutputs", ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"])


class ScalingLayer(nn.Module):
    """From [-1, 1] to the normalisation of the ImageNet classifiers; one channel is broadcast to three."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])

    def forward(self, inp: Tensor) -> Tensor:
        return (inp - self.shift) / self.scale


class NetLinLayer(nn.Module):
    """A 1x1 convolution to one channel, after dropout if asked for."""

    def __init__(self, chn_in: int, chn_out: int = 1, use_dropout: bool = False) -> None:
        super().__init__()
        dropout = [nn.Dropout()] if use_dropout else []
        self.model = nn.Sequential(*dropout, nn.Conv2d(chn_in, chn_out, kernel_size=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class vgg16(nn.Module):
    """VGG-16 features in five slices. pretrained=True loads torchvision's ImageNet weights, False leaves zeros."""

    def __init__(self, requires_grad: bool = False, pretrained: bool = True) -> None:
        super().__init__()
        features = _vgg_features()
        self.N_slices = len(CHANNELS)
        for number, (start, end) in enumerate(pairwise(SLICE_STARTS), 1):
            layers = nn.Sequential()
            for index in range(start, end):
                layers.add_module(str(index), features[index])
            self.add_module(f"slice{number}", layers)
        if pretrained:
            self.load_state_dict(imagenet_vgg_weights(self))
        self.requires_grad_(requires_grad)

    def forward(self, x: Tensor) -> VggOutputs:
        outputs = []
        for number in range(1, self.N_slices + 1):
            x = getattr(self, f"slice{number}")(x)
            outputs.append(x)
        return VggOutputs(*outputs)


class LPIPS(nn.Module):
    """Perceptual distance (b, 1, 1, 1) of two image batches (b, 1 or 3, h, w) in [-1, 1].

    Frozen and always in eval mode. Constructing it touches no network: the weights are loaded at the first use, unless
    a checkpoint brought them. With pretrained=False using it without such weights is an error.
    """

    def __init__(self, use_dropout: bool = True, pretrained: bool = True) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.scaling_layer = ScalingLayer()
        self.net = vgg16(requires_grad=False, pretrained=False)
        for index, channels in enumerate(CHANNELS):
            setattr(self, f"lin{index}", NetLinLayer(channels, use_dropout=use_dropout))
        for layer in self._lins():
            nn.init.zeros_(layer.model[-1].weight)
        self.requires_grad_(False)
        self._has_weights = False
        self.eval()

    @classmethod
    def from_pretrained(cls, name: str = "vgg_lpips") -> "LPIPS":
        """A new metric with its weights loaded."""
        metric = cls()
        metric.load_from_pretrained(name)
        return metric

    def load_from_pretrained(self, name: str = "vgg_lpips") -> None:
        """Load torchvision's VGG-16 and the published linear layers.

        Raises NotImplementedError for another name, FileNotFoundError if VGG-16 can be neither found nor downloaded.
        """
        if name != "vgg_lpips":
            raise NotImplementedError(f"unknown metric '{name}'; there is only 'vgg_lpips'")
        self.net.load_state_dict(imagenet_vgg_weights(self.net))
        linear = torch.load(_linear_weights_file(), map_location="cpu", weights_only=True)
        for index, layer in enumerate(self._lins()):
            layer.model[-1].weight.data.copy_(linear[f"lin{index}.model.1.weight"])

    def ensure_weights(self) -> None:
        """Load the weights if there are none yet (all zero); weights that a checkpoint brought are kept."""
        if not self._has_weights and not self.net.slice1[0].weight.any():
            if not self.pretrained:
                raise RuntimeError("LPIPS(pretrained=False) has no weights: load a checkpoint that contains them")
            self.load_from_pretrained()
        self._has_weights = True

    def train(self, mode: bool = True) -> "LPIPS":
        return super().train(False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.ensure_weights()
        with torch.autocast(input.device.type, enabled=False):
            scaled = (self.scaling_layer(at_least_float32(x)) for x in (input, target))
            features = (self.net(x.contiguous(memory_format=torch.channels_last)) for x in scaled)  # faster so
            distances = [
                spatial_average(lin((normalize_tensor(a) - normalize_tensor(b)).square()))
                for lin, a, b in zip(self._lins(), *features, strict=True)
            ]
        return torch.stack(distances).sum(dim=0)

    def _lins(self) -> list[NetLinLayer]:
        return [getattr(self, f"lin{index}") for index in range(len(CHANNELS))]

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Drop the second names `lins.*` under which the `lpips` package stores the linear layers again."""
        for key in [key for key in state_dict if key.startswith(f"{prefix}lins.")]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._has_weights = False


def normalize_tensor(x: Tensor, eps: float = 1e-10) -> Tensor:
    """x (b, c, h, w) divided by its length over the channels, plus eps; finite gradient at zero."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + eps)


def spatial_average(x: Tensor, keepdim: bool = True) -> Tensor:
    """Mean over height and width."""
    return x.mean(dim=(2, 3), keepdim=keepdim)


def imagenet_vgg_weights(net: vgg16) -> dict[str, Tensor]:
    """torchvision's ImageNet weights under the key names of `net`, from torch's hub folder or by download."""
    file = Path(torch.hub.get_dir(), "checkpoints", VGG_FILE)
    try:
        weights = torch.hub.load_state_dict_from_url(
            f"https://download.pytorch.org/models/{VGG_FILE}", map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"the perceptual loss needs the VGG-16 weights {file}, and they could not be downloaded ({error}): place "
            f"{VGG_FILE} from https://download.pytorch.org/models/ there, or train with perceptual_weight: 0"
        ) from error
    return {key: weights[f"features.{key.split('.', 1)[1]}"] for key in net.state_dict()}


def _linear_weights_file() -> Path:
    package = importlib.util.find_spec("lpips")  # found without importing it, which would take seconds
    return Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth"


def _vgg_features() -> nn.Sequential:
    """The convolutional part of torchvision's VGG-16 (layers 0 to 29) with zero weights."""
    from torchvision.models import vgg16 as torchvision_vgg16

    with torch.device("meta"):  # no time and no random numbers are spent on an initialisation nobody wants
        features = torchvision_vgg16(weights=None).features[: SLICE_STARTS[-1]]
    features.to_empty(device="cpu")
    for parameter in features.parameters():
        nn.init.zeros_(parameter)
    return features
