"""Tiled encoding and decoding: equal to the whole where nothing tells the difference, without seams where it does."""

import random
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_configs import ddconfig
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from taming.data.photos import PhotosTrain, scaled_pictures
from taming.models.dvae import DVAE
from taming.models.vqgan import EMAVQ, VQModel
from taming.tiling import decode_tiled, encode_tiled, spans, windows

LOSS = {"target": "taming.modules.losses.DummyLoss"}


def tiny(cls=VQModel, *, seed=0, channels=3, factor=4, **options):
    torch.manual_seed(seed)
    config = ddconfig(in_channels=channels, out_ch=channels, ch_mult=[1] * factor.bit_length())
    model = cls(config, LOSS, n_embed=16, embed_dim=4, **options)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model.eval()


def noise(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Pointwise:
    """A first stage in which no latent cell knows of another: tiles cannot make a difference to it."""

    training = False
    device = torch.device("cpu")

    def __init__(self, factor):
        self.downsampling_factor = factor

    def encode(self, x):
        quant = F.avg_pool2d(x, self.downsampling_factor)
        return quant, None, (None, None, (quant[:, 0] * 1000).round().long().flatten())

    def decode(self, quant):
        scale = self.downsampling_factor
        return F.interpolate(quant, scale_factor=scale) + torch.arange(scale).repeat(quant.shape[-1])

    def decode_code(self, code):
        return self.decode(code[:, None] / 1000)


sizes = {"factor": st.sampled_from([1, 2, 4]), "height": st.integers(1, 23), "width": st.integers(1, 23)}
tilings = {"tile": st.integers(1, 25), "overlap": st.integers(0, 24)}


@given(b=st.integers(1, 2), **sizes, **tilings)
def test_tiles_cover_any_image_once(b, factor, height, width, tile, overlap):
    options = {"tile": tile * factor, "overlap": min(overlap, tile - 1) * factor}
    model, x = Pointwise(factor), noise(b, 3, height * factor, width * factor)
    quant, _, (_, _, indices) = model.encode(x)
    tiled, tiled_indices = encode_tiled(model, x, **options)
    assert torch.equal(tiled, quant) and torch.equal(tiled_indices, indices.view(b, height, width))
    assert torch.allclose(decode_tiled(model, quant, **options), model.decode(quant), atol=1e-5)
    assert torch.allclose(decode_tiled(model, tiled_indices, **options), model.decode_code(tiled_indices), atol=1e-5)


@given(cells=st.integers(1, 200), tile=st.integers(1, 64), overlap=st.integers(0, 63))
def test_tiles_have_one_size_and_overlap_enough(cells, tile, overlap):
    overlap = min(overlap, tile - 1)
    axis = spans(cells, tile, overlap)
    assert {span.stop - span.start for span in axis} == {min(tile, cells)}
    assert all(left.stop - right.start >= overlap for left, right in pairwise(axis))
    assert all(span.start <= span.first < span.end <= span.stop for span in axis)
    assert all((window > 0).all() for window in windows(axis, 2))


@pytest.mark.parametrize("size", [(16, 16), (12, 8), (4, 16)])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_an_image_that_fits_one_tile_gives_exactly_what_the_model_gives(channels, size):
    model, x = tiny(channels=channels), noise(2, channels, *size)
    with torch.no_grad():
        quant, _, (_, _, indices) = model.encode(x)
        images = model.decode(quant)
        images_of_codes = model.decode_code(indices.view(2, *quant.shape[2:]))
    tiled, tiled_indices = encode_tiled(model, x, tile=16, overlap=4)
    assert torch.equal(tiled, quant) and torch.equal(tiled_indices.flatten(), indices)
    assert torch.equal(decode_tiled(model, quant, tile=16, overlap=4), images)
    assert torch.equal(decode_tiled(model, tiled_indices, tile=16, overlap=4), images_of_codes)


@pytest.mark.parametrize("cls, options", [(VQModel, {"sane_index_shape": True}), (EMAVQ, {})])
def test_tiles_of_a_batch_are_what_the_model_makes_of_them(cls, options):
    model, x = tiny(cls, **options), noise(2, 3, 16, 40)
    quant, indices = encode_tiled(model, x, tile=16, overlap=8)
    assert quant.shape == (2, 4, 4, 10) and indices.shape == (2, 4, 10)
    assert torch.allclose(model.quantize.embed_code(indices), quant, atol=1e-6)
    with torch.no_grad():
        middle = model.encode(x[..., 8:24])[0]
    assert torch.equal(quant[..., 3:5], middle[..., 1:3])
    assert decode_tiled(model, indices, tile=16, overlap=8).shape == x.shape


def test_several_tokens_per_position():
    """A residual quantizer's codes are a grid of lists."""
    quantizer = {
        "target": "taming.modules.vqvae.library.LibraryQuantizer",
        "params": {"quantizer": "ResidualVQ", "num_quantizers": 2},
    }
    model = VQModel(ddconfig(ch_mult=[1, 1, 1]), LOSS, n_embed=16, embed_dim=4, quantizer_config=quantizer).eval()
    x = noise(2, 3, 16, 40)
    quant, codes = encode_tiled(model, x, tile=16, overlap=8)
    assert codes.shape == (2, 4, 10, 2)
    assert torch.allclose(model.quantize.embed_code(codes), quant, atol=1e-5)
    assert torch.allclose(
        decode_tiled(model, codes, tile=16, overlap=8), decode_tiled(model, quant, tile=16, overlap=8), atol=1e-4
    )


def test_the_dvae_in_tiles():
    model = DVAE(n_hid=4, n_init=4, n_blk_per_group=1, vocab_size=16, resolution=32).eval()
    quant, codes = encode_tiled(model, noise(1, 3, 32, 64), tile=32, overlap=16)
    assert torch.equal(model.quantize.embed_code(codes), quant)
    assert decode_tiled(model, codes, tile=32, overlap=16).shape == (1, 3, 32, 64)


def test_a_constant_image_is_the_same_in_every_tile():
    """With tiles of 16 every 8 pixels, all but the outermost ones meet the same surroundings."""
    model = tiny()
    _, indices = encode_tiled(model, torch.full((1, 3, 48, 48), 0.3), tile=16, overlap=8)
    assert torch.equal(indices[:, :, 3:-5], indices[:, :, 5:-3])
    images = decode_tiled(model, torch.full((1, 12, 12), 5), tile=16, overlap=8)
    for axis in (2, 3):
        period = images.unfold(axis, 8, 8).select(axis, 1), images.unfold(axis, 8, 8).select(axis, 3)
        assert torch.allclose(*period, atol=1e-6)


@pytest.mark.parametrize("size", [(17, 16), (16, 30), (0, 16)])
def test_a_size_that_the_factor_does_not_divide_is_named(size):
    with pytest.raises(
        ValueError, match=rf"{size[0]} x {size[1]} pixels: .* multiples of 4, .* crop or resize them to"
    ):
        encode_tiled(tiny(), torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tile": 18}, "tile=18 must be a positive multiple of 4"),
        ({"tile": 0}, "tile=0 must be"),
        ({"tile": 16, "overlap": 6}, "overlap=6 must be a multiple of 4"),
        ({"tile": 16, "overlap": 16}, "overlap=16 must be .* below the tile's 16"),
        ({"tile": 16, "overlap": -4}, "overlap=-4 must be"),
    ],
)
def test_tiles_that_do_not_suit_the_model_are_refused(options, message):
    for function, argument in ((encode_tiled, noise(1, 3, 16, 16)), (decode_tiled, torch.zeros(1, 4, 4, 4))):
        with pytest.raises(ValueError, match=message):
            function(tiny(), argument, **options)


@pytest.mark.parametrize("argument", [torch.zeros(4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.long)])
def test_what_is_neither_latents_nor_codes_is_refused(argument):
    with pytest.raises(ValueError, match=r"takes latents .* or integer codes"):
        decode_tiled(tiny(), argument)


def test_images_without_a_batch_axis_are_refused():
    with pytest.raises(ValueError, match=r"takes images \(b, c, h, w\), not a tensor of shape \(3, 16, 16\)"):
        encode_tiled(tiny(), noise(3, 16, 16))


def test_a_model_in_training_mode_is_refused():
    """Every tile would be a step of the running means."""
    with pytest.raises(ValueError, match=r"EMAVQ is in training mode.*model\.eval\(\)"):
        encode_tiled(tiny(EMAVQ).train(), noise(1, 3, 16, 16))


@pytest.fixture(scope="module")
def trained():
    """A first stage of factor 4 that has learned crops of photographs for a moment."""
    torch.manual_seed(0)
    random.seed(0)
    config = ddconfig(ch_mult=[1, 2, 2])
    model = EMAVQ(config, LOSS, n_embed=32, embed_dim=4, kmeans_init=True, revive_threshold=0.5)
    crops = PhotosTrain(size=32)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(60):
        batch = {"image": torch.stack([torch.from_numpy(crops[random.randrange(8192)]["image"]) for _ in range(4)])}
        x = model.get_input(batch, "image")
        reconstructions, codebook_loss = model(x)
        loss = (reconstructions - x).abs().mean() + codebook_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def photos():
    """Photographs (2, 3, 256, 320) in [-1, 1]."""
    pictures = [scaled_pictures(name, (256,))[0][:256, :320] for name in ("coffee.png", "chelsea.png")]
    return torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]) / 127.5 - 1


def seam_jump(images, grid, *, factor, tile, overlap):
    """Mean step between the pixels on both sides of the rims of tiles, against that at the other latent cells' rims."""
    ratios = []
    for axis, cells in zip((2, 3), grid, strict=True):
        axis_spans = spans(cells, tile // factor, overlap // factor)
        rims = {span.start for span in axis_spans} | {span.stop for span in axis_spans}
        steps = images.diff(dim=axis).abs().mean(dim=[other for other in range(4) if other != axis])
        at_rims = torch.tensor([cell in rims for cell in range(1, cells)])
        steps = steps[factor - 1 :: factor]
        ratios.append(steps[at_rims].mean() / steps[~at_rims].mean())
    return float(sum(ratios)) / 2


@pytest.mark.parametrize("encoded_in", [320, 64])
def test_overlapping_tiles_leave_no_seams(trained, photos, encoded_in):
    """Codes of whole images, or of tiles, decoded in tiles; without overlap every tile shows."""
    grid = photos.shape[2] // 4, photos.shape[3] // 4
    jumps = {}
    for overlap in (0, 16):
        options = {"tile": 64, "overlap": overlap}
        _, codes = encode_tiled(trained, photos, tile=encoded_in, overlap=overlap)
        jumps[overlap] = seam_jump(decode_tiled(trained, codes, **options), grid, factor=4, **options)
    assert jumps[16] <= 1.1 < 2.0 < jumps[0]


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside have held at once."""

    def __init__(self):
        super().__init__()
        self.peak, self._storages = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._storages.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self._storages = {key: value for key, value in self._storages.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return result


@pytest.fixture
def published(monkeypatch):
    """The published network of factor 16, of half the depth and without data: it has sizes, but computes nothing."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown on such a device
    monkeypatch.setattr(VQModel, "_check_images", lambda *_: None)  # looks at values
    config = ddconfig(ch=128, ch_mult=[1, 1, 2, 2, 4], attn_resolutions=[16], resolution=256)
    with torch.device("meta"):
        return VQModel(config | {"z_channels": 256}, LOSS, n_embed=16384, embed_dim=256).eval()


def test_memory_is_that_of_one_tile(published):
    """Beyond input and output 700 MB for the default tiles of 512 pixels, whatever the size of the image."""
    extra = {}
    for size in ((512, 960), (2048, 2048)):
        x = torch.empty(1, 3, *size, device="meta")
        with LiveBytes() as live:
            quant, indices = encode_tiled(published, x)
        encode_extra = live.peak - x.nbytes - quant.nbytes - indices.nbytes
        with LiveBytes() as live:
            images = decode_tiled(published, quant)
        extra[size] = max(encode_extra, live.peak - quant.nbytes - images.nbytes)
    assert extra[2048, 2048] < 700e6 and abs(extra[2048, 2048] - extra[512, 960]) < 1e6
    with LiveBytes() as live, torch.no_grad():
        published.decode(quant)
    assert live.peak > 10 * extra[2048, 2048], "the whole image needs as little: nothing was measured"
