"""Blocks of the convolutional networks that compute something else than their formula says."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from taming.modules.diffusionmodules.blocks import Upsample, conv_of_doubled

sizes = st.integers(1, 6)


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 3), i=sizes, o=sizes, h=sizes, w=sizes, channels_last=st.booleans(), seed=st.integers(0, 99))
def test_doubling_and_convolving_in_one(b, i, o, h, w, channels_last, seed):
    """Values and all gradients of the two operations, of any size, a single row or channel too."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, i, h, w), (o, i, 3, 3), (o,)]
    x, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    got = conv_of_doubled(*inputs)
    assert got.shape == (b, o, 2 * h, 2 * w)
    upstream = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = (torch.autograd.grad(y, inputs, upstream) for y in (expected, got))
    for a, b in zip((expected, *next(gradients)), (got, *next(gradients)), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_upsample_keeps_the_layout_and_computes_in_half_precision(memory_format):
    torch.manual_seed(0)
    upsample = Upsample(8, with_conv=True).to(memory_format=memory_format)
    x = torch.randn(2, 8, 6, 5).to(memory_format=memory_format)
    expected = upsample(x)
    assert expected.shape == (2, 8, 12, 10) and expected.is_contiguous(memory_format=memory_format)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = upsample(x)
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), expected, atol=0.05)
