"""A second stage whose windows are 4 x 4, and what its windowed sampling is tested with."""

from functools import cache

import torch
from tiny_configs import first_stage

from taming.models.cond_transformer import Net2NetTransformer

VOCABULARY, N_CODES = 24, 20
SIDE = 4
SPATIAL, SEQUENCE = 2 * SIDE**2 - 1, SIDE**2 + 2
"""Block sizes for windows of side 4: beside as many conditioning tokens, and beside three."""


@cache
def model_of(block_size=SEQUENCE, *, n_unmasked=0):
    """Random weights large enough for logits to differ; the transformer knows more tokens than the codebook."""
    torch.manual_seed(0)
    gpt = {"vocab_size": VOCABULARY, "block_size": block_size, "n_layer": 2, "n_head": 2, "n_embd": 16}
    model = Net2NetTransformer(
        transformer_config={
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": gpt | {"n_unmasked": n_unmasked},
        },
        first_stage_config=first_stage(resolution=16, n_embed=N_CODES),
        cond_stage_config="__is_unconditional__",
    )
    for parameter in model.transformer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def tokens_of(*shape, seed=3, high=N_CODES):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def uniforms_of(*shape):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def shuffled_objects(seed):
    """Three tokens per window in an order that changes from call to call, as in scenes; half of the calls agree."""
    generator = torch.Generator().manual_seed(seed)

    def cond_fn(i, j, r0, c0):
        order = [0, 1, 2] if torch.rand((), generator=generator) < 0.5 else torch.randperm(3, generator=generator)
        return torch.tensor([[r0 % 5, c0 % 7, 3], [r0 % 2, c0 % 3, 9]])[:, order]

    return cond_fn
