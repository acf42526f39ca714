"""OpenAI's discrete VAE, the first stage of DALL-E (Ramesh et al. 2021, section 2.1 and appendix A), to compare with.

Its one-hot code goes through a 1x1 convolution first, which is a look-up: the columns of that weight, plus the bias,
are the codebook. So it has the interface of this project's other first stages, and a transformer can be trained on it.

b batch, (h, w) image, (h', w') = (h, w) / 8 latent grid, d codebook dimension, k codebook size.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import IO

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.checkpoint import CheckpointError
from taming.models.first_stage import FirstStage, dtype_of
from taming.modules.vqvae.base import Quantizer

LOGIT_LAPLACE_EPS = 0.1
"""Pixels in [0, 1] are squeezed into [eps, 1 - eps], where the logit-Laplace distribution has support (A.3)."""

FILES = {
    "encoder": ("encoder.pkl", "https://cdn.openai.com/dall-e/encoder.pkl"),
    "decoder": ("decoder.pkl", "https://cdn.openai.com/dall-e/decoder.pkl"),
}
"""Part of the model -> its file in the folder `ckpt_path`, and the address it is published at."""

ENCODER_KERNELS = (3, 3, 3, 1)
DECODER_KERNELS = (1, 3, 3, 3)
WIDTHS = (1, 2, 4, 8)
"""Channels of the four groups of blocks, in multiples of n_hid; resolution halves between groups."""


class Conv(nn.Module):
    """Convolution with output of the input's size; the parameters have their published names."""

    def __init__(self, n_in: int, n_out: int, kernel: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel) / math.sqrt(n_in * kernel**2))
        self.b = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class Block(nn.Module):
    """Bottleneck of four convolutions beside the identity, its output scaled by `gain`."""

    def __init__(self, n_in: int, n_out: int, kernels: Sequence[int], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path = nn.Identity() if n_in == n_out else Conv(n_in, n_out, 1)
        widths = (n_in, *[n_out // 4] * 3, n_out)
        path = OrderedDict()
        for number, (sizes, kernel) in enumerate(zip(pairwise(widths), kernels, strict=True), start=1):
            path[f"relu_{number}"] = nn.ReLU()
            path[f"conv_{number}"] = Conv(*sizes, kernel)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


def _groups(
    widths: Sequence[int], n_blocks: int, kernels: Sequence[int], resample: Callable[[], nn.Module]
) -> Iterator[tuple[str, nn.Module]]:
    """Named groups of `n_blocks` blocks; widths are the channels that come in, and those of each group."""
    n_groups = len(widths) - 1
    gain = 1 / (n_groups * n_blocks) ** 2
    for number, (n_in, n_out) in enumerate(pairwise(widths), start=1):
        sizes = [(n_in, n_out)] + [(n_out, n_out)] * (n_blocks - 1)
        group = OrderedDict((f"block_{i}", Block(*size, kernels, gain)) for i, size in enumerate(sizes, start=1))
        if number < n_groups:
            group["resample"] = resample()
        yield f"group_{number}", nn.Sequential(group)


def _output(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv(n_in, n_out, 1)))


class Encoder(nn.Module):
    """Images (b, 3, h, w), mapped into [eps, 1 - eps] -> logits (b, k, h', w')."""

    in_channels = 3

    def __init__(self, n_hid: int, n_blk_per_group: int, vocab_size: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.num_resolutions = len(WIDTHS)
        widths = [n_hid * width for width in WIDTHS]
        groups = _groups((n_hid, *widths), n_blk_per_group, ENCODER_KERNELS, lambda: nn.MaxPool2d(2))
        blocks = OrderedDict(input=Conv(self.in_channels, n_hid, 7))
        self.blocks = nn.Sequential(blocks | OrderedDict(groups) | {"output": _output(widths[-1], vocab_size)})

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Codebook(Quantizer):
    """The decoder's first convolution as a quantizer: the most likely code, and its entry; there is no loss."""

    def __init__(self, n_e: int, e_dim: int) -> None:
        super().__init__()
        self.n_e = n_e
        self.e_dim = e_dim
        self.w = nn.Parameter(torch.randn(e_dim, n_e, 1, 1) / math.sqrt(n_e))
        self.b = nn.Parameter(torch.zeros(e_dim))
        self._init_remap(n_e, None, "random")

    @property
    def weight(self) -> Tensor:
        """All entries (k, d)."""
        return self.w[:, :, 0, 0].t() + self.b

    def forward(self, logits: Tensor):
        """Logits (b, k, h', w') -> (entries (b, d, h', w'), 0, (None, None, indices int64 (b, h', w')))."""
        indices = logits.argmax(dim=1)
        entries = self.embed_code(indices)
        return entries, entries.new_zeros(()), (None, None, indices)

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        return self._entries(self.weight, indices, shape)


class Decoder(nn.Module):
    """Codebook entries (b, d, h', w') -> means and scales of the logit-Laplace distribution (b, 6, h, w)."""

    def __init__(self, n_hid: int, n_init: int, n_blk_per_group: int, vocab_size: int) -> None:
        super().__init__()
        self.num_resolutions = len(WIDTHS)
        widths = [n_hid * width for width in reversed(WIDTHS)]
        groups = _groups((n_init, *widths), n_blk_per_group, DECODER_KERNELS, lambda: nn.Upsample(scale_factor=2))
        blocks = OrderedDict(input=Codebook(vocab_size, n_init))
        self.blocks = nn.Sequential(blocks | OrderedDict(groups) | {"output": _output(widths[-1], 6)})

    def forward(self, entries: Tensor) -> Tensor:
        return self.blocks[1:](entries)


class DVAE(FirstStage, pl.LightningModule):
    """The dVAE as a frozen first stage: nothing here trains it, and no gradient reaches its encoder.

    ckpt_path: a folder with the published `encoder.pkl` and `decoder.pkl`. The sizes are those of the published model;
    `resolution` is the side of the images that a transformer on it is trained with.
    """

    def __init__(
        self,
        ckpt_path: str | None = None,
        n_hid: int = 256,
        n_init: int = 128,
        n_blk_per_group: int = 2,
        vocab_size: int = 8192,
        resolution: int = 256,
        image_key: str = "image",
    ) -> None:
        super().__init__()
        self.image_key = image_key
        self.encoder = Encoder(n_hid, n_blk_per_group, vocab_size, resolution)
        self.decoder = Decoder(n_hid, n_init, n_blk_per_group, vocab_size)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path)

    @property
    def quantize(self) -> Codebook:
        return self.decoder.blocks.input

    def init_from_ckpt(self, path: str | PathLike) -> None:
        """Load the published files in the folder `path`.

        Raises FileNotFoundError with their addresses if one is missing, CheckpointError for files that are damaged,
        hold anything but a network, or one of other sizes.
        """
        files = {part: Path(path, name) for part, (name, _) in FILES.items()}
        missing = [part for part, file in files.items() if not file.is_file()]
        if missing:
            wanted = " and ".join(FILES[part][1] for part in missing)
            raise FileNotFoundError(f"{files[missing[0]]}: no such file; download {wanted} to the folder {path}")
        for part, file in files.items():
            _load_strictly(getattr(self, part), read_network(file), file)

    def encode(self, x: Tensor):
        """Images (b, 3, h, w) in [-1, 1] -> entries (b, d, h', w'), 0, (None, None, indices (b, h', w')).

        Raises ValueError for another number of channels, and a height or width that is no multiple of 8.
        """
        factor = self.downsampling_factor
        if x.ndim != 4 or x.shape[1] != self.encoder.in_channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"images of shape {tuple(x.shape)}: this model reads (b, {self.encoder.in_channels}, h, w), "
                f"h and w multiples of {factor}; crop or resize them"
            )
        return self.quantize(self.encoder(map_pixels((x + 1) / 2)))

    def decode(self, quant: Tensor) -> Tensor:
        """Entries (b, d, h', w') -> images (b, 3, h, w) in [-1, 1]: the distributions' medians."""
        means, _ = self.decoder(quant.to(dtype_of(self.encoder))).chunk(2, dim=1)
        return 2 * unmap_pixels(means.sigmoid()) - 1

    def forward(self, input: Tensor, return_pred_indices: bool = False):
        """Images -> (reconstructions, 0), and the indices if asked for."""
        quant, loss, (_, _, indices) = self.encode(input)
        reconstructions = self.decode(quant)
        return (reconstructions, loss, indices) if return_pred_indices else (reconstructions, loss)


def map_pixels(x: Tensor) -> Tensor:
    """[0, 1] -> [eps, 1 - eps]."""
    return (1 - 2 * LOGIT_LAPLACE_EPS) * x + LOGIT_LAPLACE_EPS


def unmap_pixels(x: Tensor) -> Tensor:
    """The inverse of `map_pixels`, clamped to [0, 1]."""
    return ((x - LOGIT_LAPLACE_EPS) / (1 - 2 * LOGIT_LAPLACE_EPS)).clamp(0, 1)


class _Inert:
    """Takes the place of an object in a network's file: it holds the attributes, and does nothing."""

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


READ_AS = {
    "dall_e.encoder.Encoder": _Inert,
    "dall_e.encoder.EncoderBlock": _Inert,
    "dall_e.decoder.Decoder": _Inert,
    "dall_e.decoder.DecoderBlock": _Inert,
    "dall_e.utils.Conv2d": _Inert,
    "functools.partial": _Inert,
    "torch.device": _Inert,
    "torch.nn.modules.activation.ReLU": _Inert,
    "torch.nn.modules.container.ModuleDict": _Inert,
    "torch.nn.modules.container.ModuleList": _Inert,
    "torch.nn.modules.container.Sequential": _Inert,
    "torch.nn.modules.linear.Identity": _Inert,
    "torch.nn.modules.pooling.MaxPool2d": _Inert,
    "torch.nn.modules.upsampling.Upsample": _Inert,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.LongStorage": torch.int64,
}
"""What a file may name besides the functions that rebuild tensors, and what stands for it."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first of the pickles that a file of torch < 1.6 consists of."""


class _NetworkUnpickler(pickle.Unpickler):
    """Unpickles a network that was saved whole to inert objects and tensors, and refuses all else by name.

    storage(key, dtype, n) gives the n numbers that the file keeps outside the pickle under `key`.
    """

    def __init__(self, path: Path, file: IO[bytes], storage: Callable[[str, torch.dtype, int], Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.storage = storage

    def find_class(self, module: str, name: str) -> object:
        found = f"{module}.{name}"
        rebuilt = {"_rebuild_tensor_v2": self._tensor, "_rebuild_parameter": self._parameter}
        if module == "torch._utils" and name in rebuilt:
            return rebuilt[name]
        if found in READ_AS:
            return READ_AS[found]
        raise CheckpointError(
            f"{self.path}: refused, it holds an object of {found}; only tensors and the parts of a dVAE are read"
        )

    def persistent_load(self, pid: tuple) -> object:
        kind, what, *rest = pid
        if kind == "module":  # old files add the source of each class to it
            return what
        key, _, n, *view = rest
        numbers = self.storage(key, what, n)
        if view and view[0] is not None:
            _, offset, size = view[0]
            numbers = numbers[offset : offset + size]
        return numbers

    @staticmethod
    def _tensor(numbers: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *others) -> Tensor:
        return numbers.as_strided(size, stride, offset)

    @staticmethod
    def _parameter(data: Tensor, *others) -> Tensor:
        return data


def read_network(path: str | PathLike) -> dict[str, Tensor]:
    """Parameters and buffers by name of a dVAE's part that was saved whole by any torch; nothing of the file is run.

    Raises CheckpointError, naming file and class, for a file that holds other objects, and for one that is damaged.
    """
    path = Path(path)
    try:
        weights = dict(_tensors((_read_archive if zipfile.is_zipfile(path) else _read_legacy)(path)))
    except (CheckpointError, PermissionError, MemoryError):
        raise
    except Exception as error:  # damaged bytes upset the reader in any way; whichever, this file cannot be read
        raise CheckpointError(f"{path}: truncated, or not a saved network ({path.stat().st_size} bytes)") from error
    if not weights:
        raise CheckpointError(f"{path}: holds no weights; expected a network that was saved whole")
    return weights


def _read_archive(path: Path) -> object:
    """The network in a zip file: data.pkl, and one file per storage."""
    with zipfile.ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl")
        folder = index.removesuffix(".pkl")

        @cache
        def storage(key: str, dtype: torch.dtype, n: int) -> Tensor:
            return torch.frombuffer(bytearray(archive.read(f"{folder}/{key}")), dtype=dtype, count=n)

        with archive.open(index) as file:
            return _NetworkUnpickler(path, file, storage).load()


def _read_legacy(path: Path) -> object:
    """The network in a file of pickles: magic number, version, system, the network, storage keys; then the numbers."""
    storages: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, n: int) -> Tensor:
        return storages.setdefault(key, torch.empty(n, dtype=dtype))

    with path.open("rb") as file:
        magic, _, _, network, keys = (_NetworkUnpickler(path, file, storage).load() for _ in range(5))
        if magic != LEGACY_MAGIC:
            raise pickle.UnpicklingError("another magic number")
        for key in keys:
            numbers = storages[key]
            n = int.from_bytes(file.read(8), "little")
            content = bytearray(file.read(n * numbers.itemsize))
            numbers.copy_(torch.frombuffer(content, dtype=numbers.dtype, count=n))
    return network


def _tensors(module: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """What `nn.Module.state_dict` would give."""
    held = vars(module) if isinstance(module, _Inert) else {}
    for kind in ("_parameters", "_buffers"):
        for name, value in held.get(kind, {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value.detach()
    for name, child in held.get("_modules", {}).items():
        yield from _tensors(child, f"{prefix}{name}.")


def _load_strictly(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in weights.items()}
    for key in (*own, *theirs):
        if own.get(key) != theirs.get(key):
            raise CheckpointError(
                f"{path}: {key} is {theirs.get(key, 'absent')} in the file, {own.get(key, 'absent')} in the model; "
                "check n_hid, n_init, n_blk_per_group and vocab_size of the config, and that it is the published file"
            )
    module.load_state_dict(weights)
