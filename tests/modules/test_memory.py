"""Gradient checkpointing and the channels-last memory format: other memory, same numbers."""

import pytest
import tiny_configs
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from taming.config import instantiate_from_config
from taming.modules.diffusionmodules.model import AttnBlock, Decoder, Encoder, Model
from taming.modules.discriminator.model import NLayerDiscriminator
from taming.modules.losses.lpips import LPIPS

SMALL = {
    "ch": 32,
    "out_ch": 3,
    "ch_mult": (1, 2),
    "num_res_blocks": 2,
    "attn_resolutions": [8],
    "in_channels": 3,
    "resolution": 16,
    "z_channels": 8,
}
INPUT_SHAPES = {Encoder: (2, 3, 16, 16), Decoder: (2, 8, 8, 8)}
both_halves = pytest.mark.parametrize("half", INPUT_SHAPES)


def build(half, **options):
    torch.manual_seed(0)
    return half(**SMALL, **options), torch.randn(INPUT_SHAPES[half]).requires_grad_()


def train(module, x):
    """Output and all gradients of a training step under a fixed seed, and the bytes it kept for the backward pass."""
    kept = []

    def keep(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept.append(tensor.nbytes)
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module(x)
    bytes_kept = sum(kept)  # recomputation in the backward pass keeps more, for as long as one level takes
    out.square().mean().backward()
    return [out, x.grad, *(parameter.grad for parameter in module.parameters())], bytes_kept


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@both_halves
def test_checkpointing_changes_no_gradient_and_keeps_less_than_half(half, dropout):
    plain, plain_bytes = train(*build(half, dropout=dropout))
    checkpointed, bytes_kept = train(*build(half, dropout=dropout, gradient_checkpointing=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert 0 < bytes_kept < plain_bytes / 2


@both_halves
def test_checkpointing_is_for_training_only(half):
    module, x = build(half, gradient_checkpointing=True)
    plain, _ = build(half)
    assert list(module.state_dict()) == list(plain.state_dict())
    runs = []
    module.mid.register_forward_pre_hook(lambda *_: runs.append(1))
    module.eval()(x).sum().backward()
    with torch.no_grad():
        module.train()(x)
    assert len(runs) == 2
    module(x).sum().backward()
    assert len(runs) == 4  # forward and again in the backward pass


def test_a_ddconfig_asks_for_checkpointing():
    ddconfig = tiny_configs.ddconfig(gradient_checkpointing=True)
    config = tiny_configs.first_stage(resolution=16, n_embed=8)
    model = instantiate_from_config(config | {"params": config["params"] | {"ddconfig": ddconfig}})
    assert model.encoder.gradient_checkpointing and model.decoder.gradient_checkpointing


class Copies(TorchDispatchMode):
    """Counts the copies of tensors between memory formats."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.copy_, torch.ops.aten._to_copy)
        return function(*args, **(kwargs or {}))


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def channels_last(module, *tensors):
    """Module and inputs in the format; every convolution asserts that it gets its input in it."""
    module.to(memory_format=torch.channels_last)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(check_input)
    return [tensor.to(memory_format=torch.channels_last) for tensor in tensors]


def check_input(layer, arguments):
    assert is_channels_last(arguments[0]), f"{layer} gets an input of strides {arguments[0].stride()}"


@pytest.mark.parametrize("resamp_with_conv", [True, False])
@both_halves
def test_encoder_and_decoder_stay_in_channels_last(half, resamp_with_conv):
    module, x = build(half, resamp_with_conv=resamp_with_conv)
    expected = module(x)
    (x,) = channels_last(module, x)
    got = module(x)
    assert is_channels_last(got) and not got.is_contiguous()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_unet_stays_in_channels_last():
    torch.manual_seed(0)
    options = {key: value for key, value in SMALL.items() if key != "z_channels"}
    module, x = Model(**options, use_timestep=False), torch.randn(1, 3, 16, 16)
    expected = module(x)
    (x,) = channels_last(module, x)
    got = module(x)
    assert is_channels_last(got) and not got.is_contiguous()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_copies_nothing_in_channels_last():
    torch.manual_seed(0)
    module, x = AttnBlock(32), torch.randn(2, 32, 8, 6)
    expected = module(x)
    (x,) = channels_last(module, x)
    with Copies() as copies:
        got = module(x)
    assert copies.count == 0
    assert is_channels_last(got) and not got.is_contiguous()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_actnorm", [False, True])
def test_discriminator_stays_in_channels_last(use_actnorm):
    torch.manual_seed(0)
    module, x = NLayerDiscriminator(ndf=8, use_actnorm=use_actnorm), torch.randn(2, 3, 64, 64)
    module(x)  # initialises ActNorm
    expected = module(x)
    (x,) = channels_last(module, x)
    got = module(x)
    assert is_channels_last(got)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_lpips_stays_in_channels_last():
    torch.manual_seed(0)
    metric = LPIPS(pretrained=False)
    for parameter in metric.net.parameters():
        nn.init.kaiming_uniform_(parameter) if parameter.ndim == 4 else nn.init.zeros_(parameter)
    for index in range(5):
        nn.init.uniform_(getattr(metric, f"lin{index}").model[1].weight)
    images = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    expected = metric(*images)
    assert expected.min() > 0.01
    x, y = channels_last(metric, *images)
    torch.testing.assert_close(metric(x, y), expected, rtol=1e-4, atol=1e-5)


@both_halves
def test_without_gradients_memory_is_used_again_and_nothing_else_changes(half):
    """Inputs stay as they are; outputs are equal but for the rounding of other kernels."""
    module, x = build(half)
    before = x.detach().clone()
    with_graph = module(x)
    with torch.no_grad():
        without = module(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(with_graph, without, rtol=1e-6, atol=1e-5)
