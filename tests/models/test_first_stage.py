"""Images to codes and back with every kind of first stage."""

import numpy as np
import pytest
import torch
from tiny_configs import ddconfig, first_stage
from tiny_run_folders import LABEL_MAPS, N_LABELS
from torch.nn import functional as F

from taming.config import instantiate_from_config
from taming.models.first_stage import convert_weights, dtype_of, first_stage_of
from taming.modules.misc.coord import CoordStage

DVAE = {
    "target": "taming.models.dvae.DVAE",
    "params": {"n_hid": 4, "n_init": 6, "n_blk_per_group": 1, "vocab_size": 11, "resolution": 16},
}
SCHEDULE = {
    "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
    "params": {"warm_up_steps": 0, "max_decay_steps": 4, "lr_start": 0.9, "lr_max": 0.9, "lr_min": 0.1},
}
RESIDUAL = {
    "target": "taming.modules.vqvae.library.LibraryQuantizer",
    "params": {"quantizer": "ResidualVQ", "num_quantizers": 2},
}
VQMODEL = first_stage(resolution=16, n_embed=12)
KINDS = {
    "VQModel": VQMODEL,
    "sane_index_shape": first_stage(resolution=16, n_embed=12, sane_index_shape=True),
    "EMAVQ": VQMODEL | {"target": "taming.models.vqgan.EMAVQ"},
    "GumbelVQ": {
        "target": "taming.models.vqgan.GumbelVQ",
        "params": {**VQMODEL["params"], "temperature_scheduler_config": SCHEDULE},
    },
    "residual": first_stage(resolution=16, n_embed=12, quantizer_config=RESIDUAL),
    "DVAE": DVAE,
}


def build(config):
    torch.manual_seed(0)
    return instantiate_from_config(config).eval()


def images(height=16, width=24, seed=0):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_encode_on_the_latent_grid(kind):
    if kind == "residual":
        pytest.importorskip("vector_quantize_pytorch")
    model = build(KINDS[kind])
    x = images()
    codes = model.tokenize(x)
    quant, _, (_, _, indices) = model.encode(x)
    levels = (2,) if kind == "residual" else ()
    assert codes.shape == (2, *quant.shape[2:], *levels) and codes.dtype == torch.int64
    assert torch.equal(codes.flatten(), indices.flatten())
    decoded = model.detokenize(codes)
    assert decoded.shape == x.shape and decoded.abs().max() <= 1
    assert torch.allclose(decoded, model.decode(quant).clamp(-1, 1), atol=1e-5)
    assert not codes.requires_grad and not decoded.requires_grad


def test_a_reduced_vocabulary(tmp_path):
    np.save(tmp_path / "used.npy", np.array([3, 5, 7]))
    model = build(first_stage(resolution=16, n_embed=12, remap=str(tmp_path / "used.npy")))
    codes = model.tokenize(images())
    assert codes.shape == (2, 8, 12) and codes.max() < 3
    assert model.detokenize(codes).shape == (2, 3, 16, 24)


def test_label_maps_come_back_as_label_maps():
    model = build(LABEL_MAPS)
    labels = torch.randint(N_LABELS, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    codes = model.tokenize(F.one_hot(labels, N_LABELS).movedim(-1, 1).float())
    decoded = model.detokenize(codes)
    assert decoded.shape == (1, N_LABELS, 16, 16) and torch.equal(decoded.sum(dim=1), torch.ones(1, 16, 16))
    assert torch.equal(decoded.argmax(dim=1), model.decode_code(codes).argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_other_types_of_weights(kind, dtype):
    """Codebooks keep their numbers, and nearly all codes stay."""
    if kind == "residual":
        pytest.importorskip("vector_quantize_pytorch")
    before = build(KINDS[kind])
    model = convert_weights(build(KINDS[kind]), dtype)
    codes = model.tokenize(images())
    assert model.detokenize(codes).dtype == dtype == dtype_of(model)
    assert (codes == before.tokenize(images())).double().mean() > 0.8
    stored = before.quantize.state_dict()
    assert all(torch.equal(value, stored[key]) for key, value in model.quantize.state_dict().items())


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="this VQModel is in training mode: call eval"):
        build(VQMODEL).train().tokenize(images())


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 96, dtype=torch.int64), r"codes must be integers \(b, h, w\), not torch.int64 \(2, 96\)"),
        (torch.zeros(2, 8, 12), r"not torch.float32 \(2, 8, 12\)"),
        (torch.zeros(2, 8, 12, 1, dtype=torch.int64), r"\(2, 8, 12, 1\)"),
        (torch.full((1, 2, 2), 12), "codebook index 12 is out of range: this codebook has entries 0 to 11"),
    ],
)
def test_codes_that_are_none(codes, message):
    with pytest.raises(ValueError, match=message):
        build(VQMODEL).detokenize(codes)


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match=r"images of shape \(2, 1, 16, 24\): this model reads \(b, 3, h, w\)"):
        build(VQMODEL).tokenize(images()[:, :1])
    with pytest.raises(ValueError, match=r"images are floats in \[-1, 1\], not torch.uint8"):
        build(VQMODEL).tokenize(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_what_has_a_first_stage():
    model = build(VQMODEL)
    assert first_stage_of(model) is model
    with pytest.raises(ValueError, match="a Linear neither is nor has a first stage"):
        first_stage_of(torch.nn.Linear(1, 1))


def test_types_of_stages():
    assert dtype_of(build(VQMODEL).to(torch.float16)) == torch.float16
    assert dtype_of(CoordStage(8, 2)) == torch.float32


def test_an_uneven_size_is_rounded_down():
    model = build(first_stage(resolution=16, n_embed=12, ddconfig=ddconfig()))
    assert model.tokenize(images(17, 25)).shape == (2, 8, 12)
