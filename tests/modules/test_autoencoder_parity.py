"""Encoder, decoder, their blocks, discriminator and ActNorm against the published implementation."""

import pytest
import torch
from parity import agree, build, cases, grad_norms, inputs, names

from taming.modules.diffusionmodules.model import Normalize, get_timestep_embedding

CASES = cases("modules")


@pytest.mark.parametrize("name", names("modules", "encoder", "decoder"))
def test_encoder_and_decoder(name):
    case = CASES[name]
    module = build(case)
    x = inputs(case)["x"].requires_grad_()
    out = module(x)
    out.square().mean().backward()
    stored = case["outputs"]["grad_norms_of_mean_square"]
    agree(case["outputs"], {"out": out, "grad_norms_of_mean_square": grad_norms(module, stored, x=x)})


@pytest.mark.parametrize("name", names("modules", "resnet-block", "attn-block", "upsample/", "downsample/"))
def test_blocks(name):
    case = CASES[name]
    agree(case["outputs"], {"out": build(case)(*inputs(case).values())})


@pytest.mark.parametrize("name", names("modules", "disc"))
def test_discriminator(name):
    case = CASES[name]
    module = build(case)
    x = inputs(case)["x"].requires_grad_()
    out = module(x)
    out.mean().backward()
    got = {
        "out": out,
        "grad_norms_of_mean": grad_norms(module, case["outputs"]["grad_norms_of_mean"], x=x),
        "buffers_and_norms_after": module.state_dict(),
    }
    agree(case["outputs"], got)


@pytest.mark.parametrize("name", names("modules", "timestep"))
def test_timestep_embedding(name):
    case = CASES[name]
    timesteps, width = torch.tensor(case["args"]["timesteps"]), case["args"]["embedding_dim"]
    agree(case["outputs"], {"out": get_timestep_embedding(timesteps, width)})


def test_actnorm_eval_is_the_filled_affine_map_and_invertible():
    case = CASES["actnorm/eval"]
    module = build(case)
    out, logdet = module(inputs(case)["x"])
    agree(case["outputs"], {"out": out, "logdet": logdet, "reverse_of_out": module.reverse(out)})


def test_actnorm_initialises_from_its_first_training_batch_only():
    case = CASES["actnorm/train-initialises"]
    module = build(case)
    x = inputs(case)["x"]
    out = module(x)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    agree(case["outputs"], {"out": out, **state, "second": module(0.5 * x + 1)})


def test_actnorm_on_vectors():
    case = CASES["actnorm/two-dimensional"]
    module = build(case)
    out = module(inputs(case)["x"])
    agree(case["outputs"], {"out": out, "reverse": module(inputs(case)["x"], reverse=True)})


def test_actnorm_reverse_initialises_only_where_allowed():
    case = CASES["actnorm/reverse-init"]
    module = build(case)
    agree(case["outputs"], {"out": module.reverse(inputs(case)["x"]), **module.state_dict()})
    with pytest.raises(RuntimeError, match="allow_reverse_init"):
        build(case, allow_reverse_init=False).reverse(inputs(case)["x"])


def test_group_norm_has_32_groups_or_what_divides_the_width():
    assert Normalize(128).num_groups == 32
    assert Normalize(48).num_groups == 16
