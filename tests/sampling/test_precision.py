"""Sampling in 16 bits on request."""

import pytest
import torch
from tiny_transformers import N_CODES, tiny_model

from taming.sampling.samples import at_precision, sample_images

KEYS = [(label, index) for label in range(3) for index in range(2)]


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_transformer_alone_is_converted(precision, dtype):
    model = tiny_model()
    with at_precision(model, precision):
        images, tokens = sample_images(model, KEYS, seed=1, top_k=5)
    assert {parameter.dtype for parameter in model.transformer.parameters()} == {dtype}
    assert {parameter.dtype for parameter in model.first_stage_model.parameters()} == {torch.float32}
    assert model.transformer.new_cache(1, 4).keys[0].dtype == dtype
    assert images.isfinite().all() and tokens.min() >= 0 and tokens.max() < N_CODES


def test_rounding_changes_few_tokens():
    """With the same random numbers a token changes only where its number lies near the border of an interval."""
    model = tiny_model()
    _, exact = sample_images(model, KEYS, seed=1)
    with at_precision(model, "bf16"):
        _, rounded = sample_images(model, KEYS, seed=1)
    assert (exact[:, 0] == rounded[:, 0]).float().mean() > 0.8
