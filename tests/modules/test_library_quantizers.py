"""Quantizers of vector-quantize-pytorch keep the contract of our own: shapes, invertible codes, frozen on demand."""

import pytest
import torch
from tiny_configs import ddconfig, first_stage

from taming.config import ConfigError
from taming.models.cond_transformer import Net2NetTransformer
from taming.models.vqgan import VQModel
from taming.modules.vqvae.library import LibraryQuantizer
from taming.sampling.samples import sample_images

KINDS = {
    "cosine": (32, 8, {"quantizer": "VectorQuantize", "use_cosine_sim": True, "rotation_trick": False}),
    "ema": (32, 4, {"quantizer": "VectorQuantize", "kmeans_init": True, "threshold_ema_dead_code": 1}),
    "rotation": (32, 4, {"quantizer": "VectorQuantize", "rotation_trick": True}),
    "simvq": (32, 4, {"quantizer": "SimVQ"}),
    "fsq": (60, 3, {"quantizer": "FSQ", "levels": [5, 4, 3]}),
    "lfq": (32, 5, {"quantizer": "LFQ"}),
    "bsq": (32, 5, {"quantizer": "LFQ", "spherical": True}),
    "residual": (32, 4, {"quantizer": "ResidualVQ", "num_quantizers": 4}),
}


@pytest.fixture(params=KINDS)
def quantizer(request):
    torch.manual_seed(0)
    n_embed, embed_dim, options = KINDS[request.param]
    return LibraryQuantizer(n_embed=n_embed, embed_dim=embed_dim, **options)


def latents(quantizer, seed=1):
    return torch.randn(2, quantizer.e_dim, 3, 5, generator=torch.Generator().manual_seed(seed))


def test_entries_of_indices_are_the_quantized_latents(quantizer):
    quantizer(latents(quantizer))
    z_q, loss, (_, _, indices) = quantizer.eval()(latents(quantizer))
    q = quantizer.tokens_per_position
    assert z_q.shape == (2, quantizer.e_dim, 3, 5) and loss.shape == ()
    assert indices.dtype == torch.int64 and indices.shape == (2 * 3 * 5 * q,)
    entries = quantizer.get_codebook_entry(indices, (2, 3, 5, quantizer.e_dim))
    assert torch.allclose(entries, z_q, atol=1e-5)
    code = indices.view(2, 3, 5) if q == 1 else indices.view(2, 3, 5, q)
    assert torch.equal(quantizer.embed_code(code), entries)
    flat = quantizer.get_codebook_entry(indices, None)
    assert torch.allclose(flat.view(2, 3, 5, -1).permute(0, 3, 1, 2), z_q, atol=1e-5)


def test_gradients_reach_the_latents(quantizer):
    z = latents(quantizer).requires_grad_()
    z_q, loss, _ = quantizer(z)
    (z_q.square().mean() + loss).backward()
    assert z.grad.isfinite().all() and z.grad.abs().sum() > 0


def test_frozen_forward_leaves_the_codebook_alone(quantizer):
    quantizer(latents(quantizer))
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    with quantizer.frozen():
        quantizer(latents(quantizer, seed=2))
    assert quantizer.training
    assert all(torch.equal(before[key], value) for key, value in quantizer.state_dict().items())


def test_codes_are_those_of_float32_under_autocast(quantizer):
    quantizer(latents(quantizer))
    quantizer.eval()
    z = latents(quantizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z_q, _, (_, _, indices) = quantizer(z.bfloat16())
    assert z_q.dtype == torch.bfloat16
    assert torch.equal(indices, quantizer(z.bfloat16().float())[2][2])


def test_an_index_out_of_range_is_named(quantizer):
    with pytest.raises(ValueError, match=rf"codebook index {quantizer.n_e} is out of range"):
        quantizer.get_codebook_entry(torch.tensor([quantizer.n_e] * quantizer.tokens_per_position), None)


def test_residual_levels_have_codes_of_their_own_and_add_up():
    quantizer = LibraryQuantizer("ResidualVQ", 32, 4, num_quantizers=4).eval()
    indices = quantizer(latents(quantizer))[2][2].view(-1, 4)
    assert (indices // 8).tolist() == [[0, 1, 2, 3]] * len(indices)
    entry = quantizer.get_codebook_entry(indices[0], None)
    levels = [level.codebook[index % 8] for level, index in zip(quantizer.codes.layers, indices[0], strict=True)]
    assert torch.allclose(entry[0], sum(levels), atol=1e-6)


def model(n_embed, embed_dim, **params):
    config = {"target": "taming.modules.vqvae.library.LibraryQuantizer", "params": params}
    loss = {"target": "taming.modules.losses.DummyLoss"}
    return VQModel(ddconfig(), loss, n_embed=n_embed, embed_dim=embed_dim, quantizer_config=config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_built_with_it_and_decodes_its_codes(kind):
    n_embed, embed_dim, options = KINDS[kind]
    vqgan = model(n_embed, embed_dim, **options).eval()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    reconstruction, _, indices = vqgan(x, return_pred_indices=True)
    code = indices.view(2, 8, 8, -1) if vqgan.quantize.tokens_per_position > 1 else indices.view(2, 8, 8)
    assert torch.allclose(vqgan.decode_code(code), reconstruction, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_and_samplers_work_on_it_unchanged(kind):
    n_embed, embed_dim, options = KINDS[kind]
    tokens = 4 * 4 * options.get("num_quantizers", 1)
    transformer = Net2NetTransformer(
        transformer_config={
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {"vocab_size": n_embed, "block_size": tokens, "n_layer": 1, "n_head": 2, "n_embd": 8},
        },
        first_stage_config=first_stage(
            resolution=8,
            n_embed=n_embed,
            embed_dim=embed_dim,
            quantizer_config={"target": "taming.modules.vqvae.library.LibraryQuantizer", "params": options},
        ),
        cond_stage_config={"target": "taming.modules.util.Labelator", "params": {"n_classes": 3}},
        cond_stage_key="class_label",
    ).eval()
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    quant, z = transformer.encode_to_z(x)
    assert z.shape == (2, tokens)
    assert torch.allclose(transformer.decode_to_img(z, quant.shape), transformer.first_stage_model(x)[0], atol=1e-4)
    logits, target = transformer(x, torch.tensor([0, 2]))
    assert logits.shape == (2, tokens, n_embed) and torch.equal(target, z)
    images, sampled = sample_images(transformer, [(0, 0), (2, 7)], seed=1)
    assert images.shape == x.shape and sampled.shape == (2, tokens)


def test_own_quantizers_by_config_get_the_models_settings():
    target = "taming.modules.vqvae.quantize.EMAVectorQuantizer"
    config = {"target": target, "params": {"kmeans_init": True, "beta": 0.5}}
    loss = {"target": "taming.modules.losses.DummyLoss"}
    quantizer = VQModel(ddconfig(), loss, n_embed=12, embed_dim=4, quantizer_config=config).quantize
    assert (quantizer.n_e, quantizer.e_dim, quantizer.beta, quantizer.kmeans_init) == (12, 4, 0.5, True)


@pytest.mark.parametrize(
    ("n_embed", "embed_dim", "params", "problem"),
    [
        (32, 4, {"quantizer": "VectorQuantise"}, "there are VectorQuantize, SimVQ"),
        (32, 4, {"quantizer": "SimVQ", "rotation_trik": True}, "no such parameter; did you mean rotation_trick"),
        (32, 4, {"quantizer": "FSQ"}, "levels: missing"),
        (32, 3, {"quantizer": "FSQ", "levels": [5, 4, 3]}, "n_embed is 60, the model's 32: set the model's to 60"),
        (30, 4, {"quantizer": "LFQ"}, "power of 2"),
        (30, 4, {"quantizer": "ResidualVQ", "num_quantizers": 4}, "cannot be shared out to 4"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(n_embed, embed_dim, params, problem):
    with pytest.raises(ConfigError) as error:
        model(n_embed, embed_dim, **params)
    assert problem in str(error.value) and "\n" not in str(error.value)
